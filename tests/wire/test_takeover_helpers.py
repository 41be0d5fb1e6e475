"""Helpers of guests that change over between Debian's libvirtd and ours: whoever ends the guest ends them."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.functional.runtime.helping import TPM, helped
from tests.support.daemon import wait_until
from tests.wire import libvirtd
from tests.wire.test_takeover import _change, _end_all, _file, _settings, _virsh

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed"),
]

SHARE = (
    "<filesystem type='mount'><driver type='virtiofs'/><source dir='/var/lib/libvirt/share'/>"
    "<target dir='share'/></filesystem>"
)


def helpers(name: str) -> list[int]:
    """Return the swtpm and virtiofsd processes that see a folder of ours among what is mounted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            mounts = (entry / "mountinfo").read_text()
        except OSError:
            continue
        is_helper = os.path.basename(words.split(b"\0")[0]) in (b"swtpm", b"virtiofsd")
        if is_helper and name in mounts:
            found.append(int(entry.name))
    return sorted(found)


def test_helpers_go_over_and_back(tmp_path: Path) -> None:
    reason = libvirtd.missing()
    if reason:
        pytest.skip(reason)
    with libvirtd.private_tree(tmp_path, own_network=True) as tree, ExitStack() as undo:
        undo.callback(_end_all, tmp_path)
        _settings(tmp_path)
        (tmp_path / "lib/share").mkdir()
        tree.serve_libvirtd()
        _virsh(tree, "define", _file(tmp_path, "helped", helped(TPM, SHARE)))
        _virsh(tree, "start", "helped")
        theirs = helpers(str(tmp_path))
        assert len(theirs) >= 2
        _change(tree)
        assert helpers(str(tmp_path)) == theirs
        _virsh(tree, "destroy", "helped")
        wait_until(lambda: helpers(str(tmp_path)) == [], "libvirt's helpers end with the guest")

        _virsh(tree, "start", "helped")
        ours = helpers(str(tmp_path))
        assert len(ours) >= 2
        _change(tree, "--back")
        assert helpers(str(tmp_path)) == ours
        _virsh(tree, "destroy", "helped")
        wait_until(lambda: helpers(str(tmp_path)) == [], "our helpers end with the guest")
        _virsh(tree, "undefine", "helped")
