"""The two example documents of libvirt's documentation for this driver."""

import shutil
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.netns import namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

EMULATED = """<domain type='qemu'>
  <name>QEmu-fedora-i686</name>
  <uuid>c7a5fdbd-cdaf-9455-926a-d65c16db1809</uuid>
  <memory>219200</memory>
  <currentMemory>219200</currentMemory>
  <vcpu>2</vcpu>
  <os>
    <type arch='i686' machine='pc'>hvm</type>
    <boot dev='cdrom'/>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='cdrom'>
      <source file='/home/user/boot.iso'/>
      <target dev='hdc'/>
      <readonly/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/home/user/fedora.img'/>
      <target dev='hda'/>
    </disk>
    <interface type='network'>
      <source network='default'/>
    </interface>
    <graphics type='vnc' port='-1'/>
  </devices>
</domain>"""

ACCELERATED = """<domain type='kvm'>
  <name>demo2</name>
  <uuid>4dea24b3-1d52-d8f3-2516-782e98a23fa0</uuid>
  <memory>131072</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="i686">hvm</type>
  </os>
  <clock sync="localtime"/>
  <devices>
    <emulator>/usr/bin/qemu-kvm</emulator>
    <disk type='file' device='disk'>
      <source file='/var/lib/libvirt/images/demo2.img'/>
      <target dev='hda'/>
    </disk>
    <interface type='network'>
      <source network='default'/>
      <mac address='24:42:53:21:52:45'/>
    </interface>
    <graphics type='vnc' port='-1' keymap='de'/>
  </devices>
</domain>"""


def put(daemon: Daemon, text: str) -> str:
    path = daemon.root / "example.xml"
    path.write_text(text)
    return str(path)


def here(daemon: Daemon, text: str) -> str:
    """Move the images into the daemon's tree, make them, and name an emulator that is there."""
    for name in ("/home/user/boot.iso", "/home/user/fedora.img", "/var/lib/libvirt/images/demo2.img"):
        if name in text:
            image = daemon.root / Path(name).name
            with image.open("wb") as file:
                file.truncate(4 * 1024 * 1024)
            text = text.replace(name, str(image))
    if "/usr/bin/qemu-kvm" in text and not Path("/usr/bin/qemu-kvm").exists():
        emulator = daemon.root / "qemu-kvm"
        if not emulator.exists():
            emulator.symlink_to(shutil.which("qemu-system-x86_64") or "")
        text = text.replace("/usr/bin/qemu-kvm", str(emulator))
    return text


def on_user_network(text: str) -> str:
    return text.replace(
        "<interface type='network'>\n      <source network='default'/>", "<interface type='user'>"
    )


def refused_without_kvm(daemon: Daemon, text: str) -> bool:
    """Tell whether there is no KVM here; then the document must not be taken either."""
    if daemon.virsh_run("domcapabilities", "--virttype", "kvm").returncode == 0:
        return False
    refused = daemon.virsh_run("define", put(daemon, here(daemon, text)))
    assert refused.returncode == 1
    assert "does not support virt type 'kvm'" in refused.stderr
    return True


def refused_by_mode(daemon: Daemon, name: str) -> bool:
    """Start a domain, paused; tells whether QEMU's user may not use KVM, which then is not offered either."""
    offered = "<domain type='kvm'/>" in daemon.virsh("capabilities")
    started = daemon.virsh_run("start", name, "--paused")
    is_kvm = "<domain type='kvm'" in daemon.virsh("dumpxml", name)
    if started.returncode == 0:
        assert offered or not is_kvm
        return False
    assert is_kvm
    assert not offered
    assert "Cannot access storage file '/dev/kvm'" in started.stderr
    assert "allow it with" in started.stderr
    assert daemon.virsh("domstate", name).strip() == "shut off"
    return True


@pytest.mark.parametrize("text", [EMULATED, ACCELERATED], ids=["emulated", "accelerated"])
def test_as_they_stand_they_wait_for_their_network(daemon: Daemon, text: str) -> None:
    if "type='kvm'" in text and refused_without_kvm(daemon, text):
        return
    name = text.partition("<name>")[2].partition("</name>")[0]
    daemon.virsh("define", put(daemon, here(daemon, text)))
    try:
        refused = daemon.virsh_run("start", name)
        assert refused.returncode == 1
        assert "Network not found: no network with matching name 'default'" in refused.stderr
        assert daemon.virsh("domstate", name).strip() == "shut off"
        assert daemon.qemu_pids() == []
    finally:
        daemon.virsh("undefine", name)


@pytest.mark.root
@pytest.mark.parametrize("text", [EMULATED, ACCELERATED], ids=["emulated", "accelerated"])
def test_as_they_stand_they_start_where_default_is_active(text: str) -> None:
    name = text.partition("<name>")[2].partition("</name>")[0]
    with namespace() as net, running_daemon("--default-network", prefix=net.prefix) as daemon:
        wait_until(lambda: "default" in daemon.virsh("net-list", "--name").split(), "default is active")
        if "type='kvm'" in text and refused_without_kvm(daemon, text):
            return
        daemon.virsh("define", put(daemon, here(daemon, text)))
        if refused_by_mode(daemon, name):
            return
        assert daemon.virsh("domiflist", name).split()[:3] == ["vnet0", "network", "default"]
        assert "vnet0" in net.ip("link", "show", "master", "virbr0")
        daemon.virsh("destroy", name)
        daemon.virsh("net-destroy", "default")
        assert net.links() == {"lo"}


def test_the_emulated_one_runs(daemon: Daemon) -> None:
    daemon.virsh("define", put(daemon, on_user_network(here(daemon, EMULATED))))
    try:
        daemon.virsh("start", "QEmu-fedora-i686")
        assert daemon.virsh("domstate", "QEmu-fedora-i686").strip() == "running"
        live = daemon.virsh("dumpxml", "QEmu-fedora-i686")
        assert "<type arch='i686' machine='pc-i440fx-" in live
        assert "<target dev='hdc' bus='ide'/>" in live
        assert "<address type='drive' controller='0' bus='1' target='0' unit='0'/>" in live
        assert daemon.virsh("vncdisplay", "QEmu-fedora-i686").startswith("127.0.0.1:")
        assert daemon.virsh("domblklist", "QEmu-fedora-i686").split() == [
            *("hda", str(daemon.root / "fedora.img")),
            *("hdc", str(daemon.root / "boot.iso")),
        ]
        daemon.virsh("destroy", "QEmu-fedora-i686")
        assert daemon.qemu_pids() == []
    finally:
        daemon.virsh_run("destroy", "QEmu-fedora-i686")
        daemon.virsh("undefine", "QEmu-fedora-i686")


def test_the_accelerated_one_starts(daemon: Daemon) -> None:
    if refused_without_kvm(daemon, ACCELERATED):
        return
    daemon.virsh("define", put(daemon, on_user_network(here(daemon, ACCELERATED))))
    try:
        # whether KVM then runs a guest is the host's affair
        if refused_by_mode(daemon, "demo2"):
            return
        live = daemon.virsh("dumpxml", "demo2")
        assert "<domain type='kvm' id='" in live
        assert "<clock offset='utc'/>" in live  # libvirt, too, no longer knows the attribute 'sync'
        assert "<mac address='24:42:53:21:52:45'/>" in live
        assert "keymap='de'" in live
        daemon.virsh("destroy", "demo2")
    finally:
        daemon.virsh_run("destroy", "demo2")
        daemon.virsh("undefine", "demo2")
