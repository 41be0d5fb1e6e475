"""Programs that serve vhost-user devices are found by what describes them."""

from pathlib import Path

import pytest

from qvirt.errors import InternalError, OperationFailed
from qvirt.runtime.helpers.vhost_user import find


def describe(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_the_first_that_is_described(tmp_path: Path) -> None:
    vendor, local = tmp_path / "vendor", tmp_path / "local"
    folders = (str(vendor), str(local))
    with pytest.raises(OperationFailed, match=r"a satisfying virtiofsd: none in .*/vendor or .*/local"):
        find("fs", "virtiofsd: none in {}", folders)
    describe(vendor, "40-gpu.json", '{"type": "gpu", "binary": "/gpu"}')
    describe(vendor, "50-fs.json", '{"type": "fs", "binary": "/vendors"}')
    describe(vendor, "60-fs.json", '{"type": "fs", "binary": "/other"}')
    assert find("fs", "virtiofsd: none in {}", folders) == "/vendors"
    describe(local, "50-fs.json", '{"type": "fs", "binary": "/ours"}')
    assert find("fs", "virtiofsd: none in {}", folders) == "/ours"
    describe(local, "50-fs.json", "")  # hidden
    assert find("fs", "virtiofsd: none in {}", folders) == "/other"
    assert find("gpu", "", folders) == "/gpu"
    describe(local, "10-bad.json", "{")
    with pytest.raises(InternalError, match=r"cannot read '.*10-bad\.json'"):
        find("fs", "virtiofsd: none in {}", folders)
