"""Which virtiofsd is run, and with which options."""

import pytest
from lxml import etree

from qvirt.model.devices.filesystem import Filesystem
from qvirt.runtime.helpers import virtiofs


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
