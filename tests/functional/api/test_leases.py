"""Leases, which nobody holds without a lock manager, and what other hypervisors' documents say, kept."""

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, make_root

pytestmark = [pytest.mark.virsh, pytest.mark.qemu]

LEASE = (
    "<lease><lockspace>space</lockspace><key>key</key><target path='/no/such/file' offset='1024'/></lease>"
)
GUEST = """<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>16</memory><os><type machine='pc'>hvm</type></os>{inside}
  <devices>{devices}</devices>
</domain>"""


@pytest.fixture
def locking_daemon() -> Iterator[Daemon]:
    daemon = Daemon(make_root())
    conf = daemon.root / "etc/libvirt/qemu.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text('lock_manager = "lockd"\n')
    try:
        yield daemon.start()
    finally:
        daemon.clean()


def define(daemon: Daemon, name: str, devices: str = "", inside: str = "") -> str:
    path = daemon.root / "guest.xml"
    path.write_text(GUEST.format(name=name, devices=devices, inside=inside))
    daemon.virsh("define", str(path))
    return name


def test_a_guest_starts_with_leases_and_a_containers_users(daemon: Daemon) -> None:
    users = (
        "<idmap><uid start='0' target='1000' count='10'/><gid start='0' target='1000' count='10'/></idmap>"
    )
    name = define(daemon, "leased", LEASE, users)
    daemon.virsh("start", name, "--paused")
    try:
        shown = daemon.virsh("dumpxml", name)
        assert "<target path='/no/such/file' offset='1024'/>" in shown
        assert "<uid start='0' target='1000' count='10'/>" in shown
    finally:
        daemon.virsh("destroy", name)


@pytest.mark.parametrize("flag", ["--live", "--config"])
def test_a_lease_comes_and_goes(daemon: Daemon, flag: str) -> None:
    name = define(daemon, f"plug{flag}")
    daemon.virsh("start", name, "--paused")
    try:
        lease = daemon.root / "lease.xml"
        lease.write_text(LEASE)
        show = ("dumpxml", name, *(["--inactive"] if flag == "--config" else []))
        daemon.virsh("attach-device", name, str(lease), flag)
        assert "<key>key</key>" in daemon.virsh(*show)
        again = daemon.virsh_run("attach-device", name, str(lease), flag)
        assert "Lease key in lockspace space already exists" in again.stderr
        daemon.virsh("detach-device", name, str(lease), flag)
        assert "<lease>" not in daemon.virsh(*show)
        gone = daemon.virsh_run("detach-device", name, str(lease), flag)
        assert "device not found: Lease key in lockspace space does not exist" in gone.stderr
    finally:
        daemon.virsh("destroy", name)


def test_no_guest_runs_without_the_locks_it_is_to_have(locking_daemon: Daemon) -> None:
    name = define(locking_daemon, "locked")
    refused = locking_daemon.virsh_run("start", name)
    assert "lock_manager 'lockd' of qemu.conf is not known here;" in refused.stderr
    assert not locking_daemon.qemu_pids()
