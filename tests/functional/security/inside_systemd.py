"""Run by `test_systemd.py` as root of a machine that systemd runs, with version 2 of control groups alone."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from qvirt.host import bpf
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.host.machined import escape
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.life import cgroups
from tests.functional.runtime.instance import EMULATOR, document, instance, until
from tests.functional.security.test_inside import loop as loop  # a fixture
from tests.functional.security.test_inside import wrapped

TUNE = (
    "<memtune><hard_limit unit='MiB'>900</hard_limit></memtune><memoryBacking><locked/></memoryBacking>"
    "<cputune><shares>333</shares><period>100000</period><quota>50000</quota></cputune>"
)


@pytest.fixture(autouse=True)
def _with_the_hosts_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is the test's own."""
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")


def machines() -> list[str]:
    """Return the machines systemd knows."""
    done = subprocess.run(["machinectl", "list", "--no-legend"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def scopes() -> list[str]:
    return [path.name for path in Path("/sys/fs/cgroup/machine.slice").glob("machine-qemu*")]


def within(seconds: float) -> int:
    """Everything is emulated twice here."""
    return int(seconds * 10)


def test_a_guest_in_its_scope() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                assert hv.reports == []
                assert hv.cgroups.machined is not None
                domain = await hv.create(document("a-b", extra=TUNE), paused=True)
                running = domain.need_running()
                group = running.group
                assert group is not None
                (machine,) = machines()
                assert group.path == f"machine.slice/machine-{escape(machine)}.scope/libvirt"
                assert Path(f"/proc/{running.pid}/cgroup").read_text() == f"0::/{group.path}/emulator\n"
                folder = Path("/sys/fs/cgroup") / group.path
                assert (folder / "cgroup.type").read_text() == "domain threaded\n"
                assert int((folder / "memory.max").read_text()) == 900 << 20
                assert (folder / "cpu.weight").read_text() == "333\n"
                assert (folder / "vcpu0/cpu.max").read_text() == "50000 100000\n"
                assert (folder / "vcpu0/cgroup.threads").read_text() == f"{running.vcpu_threads[0]}\n"
                assert len(bpf.rules(folder)) >= len(hv.config.device_acl)
                status = Path(f"/proc/{running.pid}/status").read_text()
                assert int(status.partition("VmLck:")[2].split()[0]) > 0
            async with it.serve() as hv:
                domain = hv.domains.by_name("a-b")
                assert domain.need_running().group is not None
                await domain.destroy()
                await until(lambda: not machines() and not scopes(), "the machine is gone")
                domain = await hv.create(document("killed"), paused=True)
                await cgroups.placed(domain.need_running())
                assert len(machines()) == 1
                os.kill(domain.need_running().pid, 9)
                await until(lambda: not domain.active, "the domain is gone")
                await until(lambda: not machines() and not scopes(), "the killed guest's machine is gone")

    asyncio.run(asyncio.wait_for(scenario(), within(30)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("namespaces = [ ]", "Operation not permitted"),
        ('cgroup_controllers = [ "cpu" ]', "No such file or directory"),
    ],
    ids=["list alone", "own /dev alone"],
)
def test_each_layer_alone_refuses_a_disk_of_the_host(loop: str, options: str, expected: str) -> None:  # noqa: F811
    async def scenario() -> None:
        with instance() as it:
            emulator, out = wrapped(it, {"loop": loop})
            config = make_config(parse_conf(options, "qemu.conf"), privileged=True)
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                text = document("probed").replace(EMULATOR, str(emulator))
                domain = await hv.create(text, paused=True)
                path = domain.need_running().footprint.cgroup
                await domain.destroy()
            finally:
                await hv.close()
            found = json.loads(out.read_text())
            assert found["tried"]["loop"] == expected
            assert found["status"]["groups"] == f"0::/{path}/emulator\n"

    asyncio.run(asyncio.wait_for(scenario(), within(30)))
