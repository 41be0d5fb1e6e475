"""Helpers of guests that change over between Debian's libvirtd and ours: whoever ends the guest ends them."""

import os
import shutil
from pathlib import Path

import pytest

from tests.functional.runtime.helping import TPM, helped
from tests.support.daemon import wait_until
from tests.wire import libvirtd, takeover

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


def test_helpers_go_over_and_back(tree: libvirtd.Tree, tmp_path: Path) -> None:
    takeover.settings(tmp_path)
    (tmp_path / "lib/share").mkdir()
    tree.serve_libvirtd()
    takeover.virsh(tree, "define", takeover.file(tmp_path, "helped", helped(TPM, SHARE)))
    takeover.virsh(tree, "start", "helped")
    theirs = helpers(str(tmp_path))
    assert len(theirs) >= 2
    takeover.change(tree)
    assert helpers(str(tmp_path)) == theirs
    takeover.virsh(tree, "destroy", "helped")
    wait_until(lambda: helpers(str(tmp_path)) == [], "libvirt's helpers end with the guest")

    takeover.virsh(tree, "start", "helped")
    ours = helpers(str(tmp_path))
    assert len(ours) >= 2
    takeover.change(tree, "--back")
    assert helpers(str(tmp_path)) == ours
    takeover.virsh(tree, "destroy", "helped")
    wait_until(lambda: helpers(str(tmp_path)) == [], "our helpers end with the guest")
    takeover.virsh(tree, "undefine", "helped")
