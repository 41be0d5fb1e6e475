"""Disks and host devices behind an iSCSI target that asks who comes, by CHAP: at a start, and plugged in."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, make_root, wait_until
from tests.support.iscsi import iscsi_target
from tests.support.netns import namespace

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

TARGET = "iqn.2020-01.org.example:store"
PASSWORD = "twelve chars"  # noqa: S105 - made up; CHAP wants 12 to 16
UUIDS = {"right": "11111111-0000-0000-0000-000000000001", "wrong": "11111111-0000-0000-0000-000000000002"}

DISK = """<disk type='network' device='disk'>
  <source protocol='iscsi' name='{target}/1'><host name='127.0.0.1' port='3260'/>
    <auth username='me'><secret type='iscsi' usage='{secret}'/></auth>
  </source>
  <target dev='sdb' bus='scsi'/>
</disk>"""
HOSTDEV = """<hostdev mode='subsystem' type='scsi'>
  <source protocol='iscsi' name='{target}/2'><host name='127.0.0.1' port='3260'/>
    <auth username='me'><secret type='iscsi' uuid='{uuid}'/></auth>
  </source>
</hostdev>"""
GUEST = """<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory>
  <os><type machine='pc'>hvm</type></os>
  <devices><controller type='scsi' model='virtio-scsi'/>{devices}</devices>
</domain>"""


def device(kind: str, secret: str) -> str:
    return {"disk": DISK, "hostdev": HOSTDEV}[kind].format(
        target=TARGET, secret=secret, uuid=UUIDS.get(secret, UUIDS["right"])
    )


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with namespace() as network:
        network.ip("link", "set", "lo", "up")
        daemon = Daemon(make_root(), prefix=network.prefix)
        try:
            images = [daemon.root / "one", daemon.root / "two"]
            for image in images:
                image.write_bytes(bytes(1 << 20))
            with iscsi_target(network, TARGET, *images, user="me", password=PASSWORD):
                daemon.start()
                for usage, value in (("right", PASSWORD), ("wrong", "sorry, not it")):
                    path = write(
                        daemon,
                        f"<secret private='yes'><uuid>{UUIDS[usage]}</uuid>"
                        f"<usage type='iscsi'><target>{usage}</target></usage></secret>",
                    )
                    daemon.virsh("secret-define", str(path))
                    daemon.virsh(
                        "secret-set-value", UUIDS[usage], "--file", str(write(daemon, value)), "--plain"
                    )
                yield daemon
        finally:
            daemon.clean()


def write(daemon: Daemon, text: str) -> Path:
    path = daemon.root / "words"
    path.write_text(text)
    return path


def secrets_of(daemon: Daemon, name: str) -> list[str]:
    """Return the ids of the secret objects a guest's QEMU has, its master key apart."""
    said = daemon.virsh("qemu-monitor-command", name, "--hmp", "qom-list /objects")
    names = [line.split()[0] for line in said.splitlines() if "(child<secret>)" in line]
    return [name for name in names if name != "masterKey0"]


@pytest.mark.parametrize("kind", ["disk", "hostdev"])
def test_a_guest_starts_with_the_right_password(daemon: Daemon, kind: str) -> None:
    name = f"good-{kind}"
    text = GUEST.format(name=name, devices=device(kind, "right"))
    daemon.virsh("create", str(write(daemon, text)), "--paused")
    try:
        assert len(secrets_of(daemon, name)) == 1
        (pid,) = daemon.qemu_pids()
        words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert PASSWORD.encode() not in words
        assert PASSWORD not in (daemon.root / f"var/log/libvirt/qemu/{name}.log").read_text()
        assert PASSWORD not in (daemon.root / f"run/libvirt/qemu/{name}.xml").read_text()
    finally:
        daemon.virsh("destroy", name)


@pytest.mark.parametrize("kind", ["disk", "hostdev"])
@pytest.mark.parametrize(
    ("secret", "said"),
    [("wrong", "iSCSI"), ("missing", "Secret not found: no secret with matching usage 'missing'")],
)
def test_a_guest_does_not_start_without_it(daemon: Daemon, kind: str, secret: str, said: str) -> None:
    if kind == "hostdev" and secret not in UUIDS:
        text = device(kind, secret).replace(f"uuid='{UUIDS['right']}'", "usage='missing'")
    else:
        text = device(kind, secret)
    text = GUEST.format(name="bad", devices=text)
    done = daemon.virsh_run("create", str(write(daemon, text)), "--paused")
    assert done.returncode
    assert said in done.stderr
    assert not daemon.qemu_pids()


@pytest.mark.parametrize("kind", ["disk", "hostdev"])
def test_it_is_plugged_in_and_out(daemon: Daemon, kind: str) -> None:
    name = f"plug-{kind}"
    daemon.virsh("create", str(write(daemon, GUEST.format(name=name, devices=""))), "--paused")
    try:
        refused = daemon.virsh_run("attach-device", name, str(write(daemon, device(kind, "wrong"))))
        assert refused.returncode
        assert "iSCSI" in refused.stderr
        assert not secrets_of(daemon, name)
        daemon.virsh("attach-device", name, str(write(daemon, device(kind, "right"))))
        assert len(secrets_of(daemon, name)) == 1
        assert "<auth username='me'>" in daemon.virsh("dumpxml", name)
        daemon.virsh("detach-device", name, str(daemon.root / "words"))
        wait_until(lambda: "<auth" not in daemon.virsh("dumpxml", name), "it is gone")
        assert not secrets_of(daemon, name)
    finally:
        daemon.virsh("destroy", name)
