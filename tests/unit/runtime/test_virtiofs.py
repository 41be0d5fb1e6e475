"""Which virtiofsd is run, and with which options."""

from pathlib import Path

import pytest
from lxml import etree

from qvirt.errors import InternalError, OperationFailed
from qvirt.model.devices.filesystem import Filesystem
from qvirt.runtime import virtiofs


def device(inside: str) -> Filesystem:
    return Filesystem.from_xml(
        etree.fromstring(f"<filesystem><driver type='virtiofs'/>{inside}</filesystem>")
    )


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", "source=/srv"),
        ("<binary xattr='on'/>", "source=/srv,xattr"),
        ("<binary xattr='off'><lock posix='on' flock='off'/></binary>",
         "source=/srv,no_xattr,no_flock,posix_lock"),
        ("<binary><cache mode='always'/><sandbox mode='chroot'/></binary>",
         "source=/srv,cache=always,sandbox=chroot"),
    ],
)  # fmt: skip
def test_options(inside: str, expected: str) -> None:
    assert virtiofs.options(device(inside), "/srv") == expected


def test_a_comma_stays_part_of_the_path() -> None:
    assert virtiofs.options(device(""), "/srv/a,b") == "source=/srv/a,,b"


def describe(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_the_first_that_is_described(tmp_path: Path) -> None:
    vendor, local = tmp_path / "vendor", tmp_path / "local"
    folders = (str(vendor), str(local))
    with pytest.raises(OperationFailed, match="Unable to find a satisfying virtiofsd"):
        virtiofs.find(folders)
    describe(vendor, "40-gpu.json", '{"type": "gpu", "binary": "/gpu"}')
    describe(vendor, "50-fs.json", '{"type": "fs", "binary": "/vendors"}')
    describe(vendor, "60-fs.json", '{"type": "fs", "binary": "/other"}')
    assert virtiofs.find(folders) == "/vendors"
    describe(local, "50-fs.json", '{"type": "fs", "binary": "/ours"}')
    assert virtiofs.find(folders) == "/ours"
    describe(local, "50-fs.json", "")  # hidden
    assert virtiofs.find(folders) == "/other"
    describe(local, "10-bad.json", "{")
    with pytest.raises(InternalError, match=r"cannot read '.*10-bad\.json'"):
        virtiofs.find(folders)
