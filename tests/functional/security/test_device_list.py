"""The list of devices of version 2's groups, as the kernel has it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.host import bpf
from qvirt.host.bpf import BLOCK, CHAR, READ, WRITE, Rule
from qvirt.host.cgroup import find_mounts

pytestmark = pytest.mark.root

#: of what serves nobody here
_MAJOR = 240


@pytest.fixture
def group() -> Iterator[Path]:
    base = find_mounts().v2
    if base is None:
        pytest.skip("version 2 of control groups is not mounted")
    if (reason := bpf.refusal()) is not None:
        pytest.skip(f"no programs for devices: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="qvirt-test-", dir=base))
    try:
        yield folder
    finally:
        folder.rmdir()


def _opens(group: Path, path: str, flags: int) -> bool:
    """Tell whether a process in a group may open a node."""
    pid = os.fork()
    if not pid:
        try:
            (group / "cgroup.procs").write_text("0")
            os.close(os.open(path, flags))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_list_that_is_full_grows(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "MAP_SIZE", 4)
    bpf.confine(group, [Rule(CHAR, 1, 3), Rule(CHAR, 1, 5, READ)])
    wanted = [Rule(CHAR, _MAJOR, minor, READ) for minor in range(70)]
    for rule in wanted:
        bpf.allow(group, rule)
    assert len(bpf.rules(group)) == 72
    bpf.allow(group, Rule(CHAR, _MAJOR, 3, WRITE))
    assert Rule(CHAR, _MAJOR, 3, READ | WRITE) in bpf.rules(group)
    assert _opens(group, "/dev/null", os.O_RDWR)
    assert _opens(group, "/dev/zero", os.O_RDONLY)
    assert not _opens(group, "/dev/zero", os.O_RDWR)
    assert not _opens(group, "/dev/full", os.O_RDONLY)
    for rule in wanted:
        bpf.deny(group, rule)
    assert len(bpf.rules(group)) == 2
    bpf.allow(group, Rule(CHAR, 1, 7))
    assert _opens(group, "/dev/full", os.O_RDWR)


def test_a_disk_with_the_number_of_another_device_takes_nothing_from_it(group: Path) -> None:
    null, ram = Rule(CHAR, 1, 3), Rule(BLOCK, 1, 3)
    bpf.confine(group, [null])
    bpf.allow(group, ram)
    assert {*bpf.rules(group)} == {null, ram}
    assert _opens(group, "/dev/null", os.O_RDWR)
    bpf.deny(group, ram)
    assert bpf.rules(group) == [null]
    assert _opens(group, "/dev/null", os.O_RDWR)
    bpf.allow(group, ram)
    bpf.deny(group, null)
    assert bpf.rules(group) == [ram]
    assert not _opens(group, "/dev/null", os.O_RDWR)
