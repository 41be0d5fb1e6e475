"""virt-install, as it comes: it makes a guest on qvirtd."""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from tests.functional.guests.machines import make_qcow2
from tests.support.daemon import Daemon

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.skipif(not shutil.which("virt-install"), reason="needs Debian's virtinst"),
]


def virt_install(daemon: Daemon, *words: str) -> str:
    """Run virt-install for a small guest and return what it prints."""
    done = subprocess.run(
        [
            "virt-install", "--connect", daemon.uri, "--virt-type", "qemu", "--memory", "64", "--import",
            "--osinfo", "detect=off,require=off", "--graphics", "vnc", "--network", "user", "--noautoconsole",
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LC_ALL": "C", "HOME": str(daemon.root), "XDG_CACHE_HOME": str(daemon.root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_transient_guest(daemon: Daemon) -> None:
    image = make_qcow2(daemon.root / "disk.qcow2")
    disk = f"source.file={image},driver.type=qcow2,target.dev=vda,target.bus=virtio"
    virt_install(daemon, "--name", "installed", "--vcpus", "2", "--disk", disk, "--transient")
    try:
        assert daemon.virsh("domstate", "installed").strip() == "running"
        assert "Persistent:     no" in daemon.virsh("dominfo", "installed")
        assert daemon.virsh("domblklist", "installed").split() == ["vda", str(image)]
        assert "vnc://" in daemon.virsh("domdisplay", "installed")
        live = daemon.virsh("dumpxml", "installed")
        assert "<memballoon model='virtio'>" in live
    finally:
        daemon.virsh("destroy", "installed")
    assert daemon.virsh("list", "--all", "--name").strip() == ""


def test_a_defined_guest_and_a_document(daemon: Daemon) -> None:
    shown = virt_install(daemon, "--name", "shown", "--disk", "none", "--machine", "q35", "--print-xml")
    root = ET.fromstring(shown)  # noqa: S314 - virt-install's own
    assert root.findtext("name") == "shown"
    document = daemon.root / "shown.xml"
    document.write_text(shown)
    daemon.virsh("create", str(document), "--paused")
    assert "machine='pc-q35-" in daemon.virsh("dumpxml", "shown")
    daemon.virsh("destroy", "shown")
    virt_install(daemon, "--name", "kept", "--disk", "none", "--boot", "uefi")
    try:
        assert "Persistent:     yes" in daemon.virsh("dominfo", "kept")
        log = (daemon.root / "var/log/libvirt/qemu/kept.log").read_text()
        assert daemon.virsh("domstate", "kept", "--reason").strip() == "running (booted)", log
        assert "OVMF_CODE" in daemon.virsh("dumpxml", "kept")
    finally:
        daemon.virsh_run("destroy", "kept")
        daemon.virsh("undefine", "kept", "--nvram")
