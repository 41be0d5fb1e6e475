"""What the translation is told of this machine."""

import os
from pathlib import Path

import pytest

from qvirt.errors import SystemError_
from qvirt.runtime import documents


def test_huge_pages_are_where_the_kernel_or_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("hugetlbfs /a hugetlbfs rw,pagesize=1G 0 0\ntmpfs /b tmpfs rw 0 0\n")
    monkeypatch.setattr(documents, "MOUNTS", mounts)
    assert documents._host_facts(None).hugepage_mounts == ((1 << 20, "/a"),)
    assert documents._host_facts(()).hugepage_mounts == ()
    size = os.statvfs(tmp_path).f_bsize >> 10
    assert documents._host_facts([str(tmp_path)]).hugepage_mounts == ((size, str(tmp_path)),)
    with pytest.raises(SystemError_, match="cannot read this machine's memory facts: No such file"):
        documents._host_facts([str(tmp_path / "none")])
