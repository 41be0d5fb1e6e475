"""Guests of Debian's libvirtd taken over by ours, and given back: none stops, nothing of them is lost."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemon import virsh, wait_until
from tests.wire import libvirtd, takeover
from tests.wire.guests import guest_xml

pytestmark = pytest.mark.qemu

#: a boot sector that writes points to the serial line for ever
BUSY = bytes.fromhex("baf803b02eeeebfd").ljust(510, b"\0") + b"\x55\xaa"
NETWORK = """<network><name>n</name><bridge name='virbr7'/>
  <ip address='10.7.7.1' netmask='255.255.255.0'/></network>"""
GUESTS = 10
RUNNING = 3


def test_ten_guests_over_and_back(tree: libvirtd.Tree, tmp_path: Path) -> None:
    takeover.settings(tmp_path)
    subprocess.run(tree.inside("ip", "link", "set", "lo", "up"), check=True)
    tree.serve_libvirtd()
    takeover.virsh(tree, "net-create", takeover.file(tmp_path, "n", NETWORK))
    names = [f"g{number}" for number in range(GUESTS)]
    for number, name in enumerate(names):
        _make(tree, tmp_path, name, transient=number % 2 == 1, paused=number >= RUNNING)
    before = {name: _shape(tree, tmp_path, name) for name in names}
    ours = takeover.change(tree, "--check")
    assert ours.count(": ready\n") == GUESTS, ours
    assert {name: _shape(tree, tmp_path, name) for name in names} == before

    _grows(tmp_path, lambda: takeover.change(tree))
    assert {name: _shape(tree, tmp_path, name) for name in names} == before
    assert "qvirt" in takeover.daemon_words(tmp_path)
    # what libvirt started is ours to change and to end, and what we start is libvirt's to go on with
    _attach(tree, tmp_path, "g0", "vdb")
    takeover.virsh(tree, "destroy", "g9")
    image = tmp_path / "lib/g9.qcow2"
    assert (image.stat().st_uid, os.listxattr(image)) == (0, [])
    assert not (tmp_path / "lib/qemu/domain-10-g9").exists()
    _make(tree, tmp_path, "h", transient=True, paused=True)
    names = [*names[:-1], "h"]
    before = {name: _shape(tree, tmp_path, name) for name in names}

    _grows(tmp_path, lambda: takeover.change(tree, "--back"))
    assert {name: _shape(tree, tmp_path, name) for name in names} == before
    assert "libvirtd" in takeover.daemon_words(tmp_path)
    _attach(tree, tmp_path, "g0", "vdc")
    _attach(tree, tmp_path, "h", "vdb")
    takeover.virsh(tree, "destroy", "h")

    takeover.change(tree)
    names = names[:-1]
    after = {name: _shape(tree, tmp_path, name) for name in names}
    assert {name: shape[:2] for name, shape in after.items()} == {name: before[name][:2] for name in names}


def test_a_guest_that_cannot_be_taken_is_left_as_it_is(tree: libvirtd.Tree, tmp_path: Path) -> None:
    takeover.settings(tmp_path)
    tree.serve_libvirtd()
    takeover.virsh(tree, "define", takeover.file(tmp_path, "g0", _document("g0", with_network=False)))
    _image(tmp_path, "g0")
    _image(tmp_path, "copy")
    takeover.virsh(tree, "start", "g0", "--paused")
    takeover.virsh(
        tree, "blockcopy", "g0", "vda", "/var/lib/libvirt/copy.qcow2", "--reuse-external", "--transient-job"
    )
    status = tmp_path / "run/qemu/g0.xml"
    # a copy that is being made goes on by itself, and libvirtd writes down when it is whole
    wait_until(lambda: " state='ready'" in status.read_text(), "the copy is whole")
    text, pid = status.read_text(), _pid(tmp_path, "g0")

    said = takeover.change(tree, "--check", fails=True)
    assert "g0: not ready" in said
    assert "block job" in said
    assert "nothing is changed" in takeover.change(tree, fails=True)
    assert "libvirtd" in takeover.daemon_words(tmp_path)

    takeover.change(tree, "--leave")
    assert status.read_text() == text
    assert "runs under libvirt" in virsh(tree.uri, "start", "g0").stderr
    takeover.change(tree, "--back")
    assert _pid(tmp_path, "g0") == pid
    assert "Copy" in takeover.virsh(tree, "blockjob", "g0", "vda", "--raw")


#: stands in for udev: makes the nodes of a network namespace's macvtap devices, and takes them away again
NODES = """trap 'rm -f $made; exit' TERM; made=
while :; do
  for place in /sys/class/macvtap/tap*; do
    node=/dev/${place##*/}
    if [ -e "$place/dev" ] && [ ! -e "$node" ]; then
      IFS=: read -r major minor <"$place/dev"; mknod -m 600 "$node" c "$major" "$minor"; made="$made $node"
    fi
  done
  sleep 0.01
done"""


def test_guests_on_devices_of_the_host(tree: libvirtd.Tree, tmp_path: Path) -> None:
    takeover.settings(tmp_path)
    _ip(tree, "link", "set", "lo", "up")
    for name in ("va", "vb"):
        _ip(tree, "link", "add", name, "type", "veth", "peer", "name", f"{name}2")
        _ip(tree, "link", "set", name, "up")
    mac = _mac(tree, "vb")
    words = ("ip", "link", "add", "link", "va", "name", "try", "type", "macvtap")
    made = subprocess.run(tree.inside(*words), check=False, capture_output=True)
    if made.returncode:
        pytest.skip("no macvtap here")
    _ip(tree, "link", "del", "try")
    tree.start("sh", "-c", NODES)
    tree.serve_libvirtd()
    for name, device, mode in (
        ("g0", "va", "bridge"),
        ("g1", "va", "bridge"),
        ("g2", "vb", "passthrough"),
    ):
        _image(tmp_path, name)
        nic = f"<interface type='direct'><source dev='{device}' mode='{mode}'/></interface>"
        document = _document(name, with_network=False).replace("</devices>", f"{nic}</devices>")
        takeover.virsh(tree, "create", takeover.file(tmp_path, name, document))
    names = ["g0", "g1", "g2"]
    before = {name: _shape(tree, tmp_path, name) for name in names}
    taps = {name: before[name][4].split()[0] for name in names}
    assert _mac(tree, "vb") != mac
    takeover.change(tree)
    assert {name: _shape(tree, tmp_path, name) for name in names} == before
    assert set(taps.values()) <= _links(tree)
    # ours to end: the device goes, and what it was put on has its own address again
    for name in ("g1", "g2"):
        takeover.virsh(tree, "destroy", name)
        assert taps[name] not in _links(tree)
    assert _mac(tree, "vb") == mac
    # and what we start is libvirt's to end
    takeover.virsh(tree, "create", str(tmp_path / "g2.def"))
    ours = _shape(tree, tmp_path, "g2")
    assert _mac(tree, "vb") != mac
    takeover.change(tree, "--back")
    assert {name: _shape(tree, tmp_path, name) for name in ("g0", "g2")} == {
        "g0": before["g0"],
        "g2": ours,
    }
    for name in ("g0", "g2"):
        takeover.virsh(tree, "destroy", name)
    assert _links(tree) == {"lo", "va", "va2", "vb", "vb2"}
    assert _mac(tree, "vb") == mac


def _ip(tree: libvirtd.Tree, *words: str) -> str:
    return subprocess.run(tree.inside("ip", *words), check=True, capture_output=True, text=True).stdout


def _links(tree: libvirtd.Tree) -> set[str]:
    return {link["ifname"] for link in json.loads(_ip(tree, "-j", "link", "show"))}


def _mac(tree: libvirtd.Tree, name: str) -> str:
    (link,) = json.loads(_ip(tree, "-j", "link", "show", name))
    return str(link["address"])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """Make a disk of the host."""
    (tmp_path / "loop").write_bytes(b"\0" * (1 << 20))
    done = subprocess.run(
        ["losetup", "--show", "-f", tmp_path / "loop"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    node = done.stdout.strip()
    yield node
    subprocess.run(["losetup", "-d", node], check=False)


def test_a_guest_with_a_dev_of_its_own_gets_nodes_from_either_daemon(
    node: str, tree: libvirtd.Tree, tmp_path: Path
) -> None:
    # what hides KVM is mounted there, which libvirt cannot keep in a guest's own
    subprocess.run(tree.inside("umount", "/dev/kvm"), check=False, capture_output=True)
    takeover.settings(tmp_path, 'namespaces = [ "mount" ]')
    tree.serve_libvirtd()
    text = _document("g0", with_network=False).replace(
        "<serial ", "<controller type='scsi' model='virtio-scsi'/><serial "
    )
    _image(tmp_path, "g0")
    takeover.virsh(tree, "define", takeover.file(tmp_path, "g0", text))
    takeover.virsh(tree, "start", "g0", "--paused")
    own = Path(f"/proc/{_pid(tmp_path, 'g0')}/root{node}")
    assert not own.exists()
    before = os.stat(node).st_uid
    takeover.change(tree)
    for _ in ("ours", "libvirt's"):
        takeover.virsh(tree, "attach-disk", "g0", node, "sda", "--targetbus", "scsi", "--sourcetype", "block")
        assert (own.exists(), os.stat(node).st_uid) == (True, before)
        takeover.virsh(tree, "detach-disk", "g0", "sda")
        wait_until(lambda: node not in takeover.virsh(tree, "domblklist", "g0"), "the disk is gone")
        if "qvirt" in takeover.daemon_words(tmp_path):
            wait_until(lambda: not own.exists(), "its node is gone")  # libvirt leaves it there
            takeover.change(tree, "--back")
    takeover.virsh(tree, "destroy", "g0")


# ----------------------------------------------------------------------------- guests


def _image(directory: Path, name: str) -> None:
    """Make an image that starts with the boot sector."""
    path = directory / f"lib/{name}.qcow2"
    sector = directory / "sector"
    sector.write_bytes(BUSY.ljust(1 << 20, b"\0"))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", sector, path], check=True)


def _document(name: str, *, with_network: bool = True) -> str:
    network = "<interface type='network'><source network='n'/><model type='virtio'/></interface>"
    return (
        guest_xml(
            name,
            f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/{name}.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='/var/log/libvirt/{name}.serial'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    {network if with_network else ""}""",
        )
        .replace("<devices>", "<features><acpi/></features><devices>")
        .replace("<serial type='pty'/>", "")
    )


def _make(tree: libvirtd.Tree, directory: Path, name: str, *, transient: bool, paused: bool) -> None:
    _image(directory, name)
    state = ["--paused"] if paused else []
    file = takeover.file(directory, name, _document(name))
    if transient:
        takeover.virsh(tree, "create", file, *state)
    else:
        takeover.virsh(tree, "define", file)
        takeover.virsh(tree, "start", name, *state)


def _pid(directory: Path, name: str) -> int:
    return int((directory / f"run/qemu/{name}.pid").read_text())


def _shape(tree: libvirtd.Tree, directory: Path, name: str) -> tuple[int, str, str, str, str, list[str]]:
    """Return what must not change: process, id, state, disks, network; and the devices by alias."""
    pid = _pid(directory, name)
    os.kill(pid, 0)
    live = takeover.virsh(tree, "dumpxml", name)
    return (
        pid,
        takeover.virsh(tree, "domid", name),
        takeover.virsh(tree, "domstate", name, "--reason"),
        takeover.virsh(tree, "domblklist", name, "--details"),
        takeover.virsh(tree, "domiflist", name),
        sorted(line.strip() for line in live.splitlines() if "<alias" in line and "'usb'" not in line),
    )


def _attach(tree: libvirtd.Tree, directory: Path, name: str, target: str) -> None:
    _image(directory, f"{name}-{target}")
    path = f"/var/lib/libvirt/{name}-{target}.qcow2"
    takeover.virsh(tree, "attach-disk", name, path, target, "--subdriver", "qcow2")
    assert path in takeover.virsh(tree, "domblklist", name)
    assert path in takeover.virsh(tree, "qemu-monitor-command", name, "--hmp", "info block")


def _grows(directory: Path, change: Callable[[], object]) -> None:
    """Make sure that running guests run before a change of daemons, and after."""
    for step in (None, change):
        if step is not None:
            step()
        for number in range(RUNNING):
            path = directory / f"log/g{number}.serial"
            wait_until(partial(_is_unlike, path, _written(path)), f"g{number} goes on writing")


def _written(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_ino


def _is_unlike(path: Path, before: tuple[int, int]) -> bool:
    return _written(path) != before


# ---------------------------------------------------------------------------- daemons
