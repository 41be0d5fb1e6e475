"""A Linux guest that really boots: console, agent, power button, reboots, statistics."""

import asyncio
import os

import pytest

from qvirt.constants.domain import DomainRunningReason, DomainShutoffReason, DomainState
from qvirt.errors import OperationFailed
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import AgentLifecycle
from tests.functional.runtime.instance import Instance, Recorder, disk, instance, run, until
from tests.support.guest import Guest

pytestmark = pytest.mark.qemu

BOOT_PATIENCE = 90.0


def linux_document(it: Instance, linux: Guest, name: str = "linux", *devices: str, on: str = "") -> str:
    """Return a guest with serial console, agent channel, disk, balloon and a user network."""
    return f"""<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>192</memory><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{linux.kernel}</kernel><initrd>{linux.initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
  <features><acpi/></features>{on}
  <devices>
    {disk(it.image(f"{name}.img"))}
    <serial type='pty'/><console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <interface type='user'><model type='virtio'/></interface>
    <memballoon model='virtio'><stats period='1'/></memballoon>
    <graphics type='vnc' port='-1'/>{"".join(devices)}
  </devices></domain>"""


async def read_until(fd: int, text: bytes, patience: float = BOOT_PATIENCE) -> bytes:
    """Read a console until something was shown."""
    loop = asyncio.get_running_loop()
    seen = b""
    async with asyncio.timeout(patience):
        while text not in seen:
            ready = loop.create_future()
            loop.add_reader(fd, _wake, ready)
            try:
                await ready
            finally:
                loop.remove_reader(fd)
            chunk = os.read(fd, 4096)
            if not chunk:
                break
            seen += chunk
    return seen


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


async def wait_agent(domain: Domain) -> None:
    await until(lambda: domain.need_running().agent_connected, "agent", BOOT_PATIENCE)


def test_console_agent_and_shutdown(linux: Guest) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(linux_document(it, linux))
                await domain.start()
                console = await domain.open_console()
                with pytest.raises(OperationFailed, match="Active console session exists for this domain"):
                    await domain.open_console()
                await read_until(console.fd, b"guest# ")
                os.write(console.fd, b"echo $((6*7))\r")
                assert b"42" in await read_until(console.fd, b"42\r\n")
                dropped: list[bool] = []
                console.on_closed = lambda: dropped.append(True)
                taken = await domain.open_console(flags=1)
                assert dropped == [True]
                taken.close()

                await wait_agent(domain)
                assert [(e.state, e.reason) for e in seen.of(AgentLifecycle)] == [(2, 1), (1, 2)]
                seconds, nseconds = await domain.time()
                assert seconds > 0 <= nseconds
                assert await domain.hostname() == "guest"
                names = {interface.name for interface in await domain.interface_addresses(1)}
                assert "lo" in names
                assert await domain.fs_freeze() >= 0
                await domain.fs_thaw()
                params = {param.name: param.value for param in await domain.guest_info()}
                assert params["hostname"] == "guest"
                assert '"return":{}' in await domain.agent_command('{"execute":"guest-ping"}')
                assert await domain.vcpu_count(8) == 2
                tags = dict(await domain.memory_stats())
                assert tags[6] == 196608
                await domain.fs_info()

                (stats,) = await hv.bulk_stats([domain], 0)
                values = {param.name: param.value for param in stats.params}
                assert values["state.state"] == 1
                assert values["block.count"] == 1
                assert values["vcpu.current"] == 2
                assert int(values["cpu.time"]) > 10**8

                await domain.shutdown()  # by the agent, as it is there
                await seen.stopped()
                assert domain.reason == DomainShutoffReason.SHUTDOWN
                assert seen.lifecycle()[-2:] == [(6, 1), (5, 0)]
                assert it.traces() == []
                assert it.processes() == []

    run(scenario())


def test_power_button_reboot_and_on_actions(linux: Guest) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(linux_document(it, linux, on="<on_poweroff>restart</on_poweroff>"))
                await domain.start()
                pid = domain.need_running().qemu.pid
                await wait_agent(domain)
                console = await domain.open_console()
                # a power-off that on_poweroff turns into a restart, in the same QEMU
                os.write(console.fd, b"poweroff -f\r")
                await until(lambda: not domain.need_running().agent_connected, "agent gone", BOOT_PATIENCE)
                await wait_agent(domain)
                assert domain.need_running().qemu.pid == pid
                assert (domain.state, domain.reason)[0] == DomainState.RUNNING
                assert (6, 1) not in seen.lifecycle() or seen.lifecycle()[-1] != (5, 0)
                # reboot by the button: the guest powers off, we reset
                await domain.set_lifecycle_action(0, 0, 1)
                assert domain.live.on_poweroff == "destroy"
                before = len(seen.lifecycle())
                await domain.reboot(1)
                await until(lambda: not domain.need_running().agent_connected, "agent gone", BOOT_PATIENCE)
                await wait_agent(domain)
                assert domain.need_running().qemu.pid == pid
                assert (6, 1) not in seen.lifecycle()[before:]
                # shutdown by the button
                await domain.shutdown(1)
                await seen.stopped()
                assert domain.reason == DomainShutoffReason.SHUTDOWN

    run(scenario())


def test_guest_survives_two_daemons(linux: Guest) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(linux_document(it, linux))
                await wait_agent(domain)
            async with it.serve() as hv:
                domain = hv.domains.by_name("linux")
                assert domain.state == DomainState.RUNNING
                assert domain.reason in (DomainRunningReason.BOOTED, DomainRunningReason.UNKNOWN)
                assert domain.need_running().agent_connected
                assert await domain.hostname() == "guest"
                console = await domain.open_console()
                os.write(console.fd, b"\r")
                await read_until(console.fd, b"guest# ")
                await domain.destroy()

    run(scenario())
