"""Events as a client receives them, in both styles of registration."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import QvirtError
from qvirt.rpc import packet, protocol
from qvirt.runtime import events
from tests.unit.daemon.fakes import RawClient, running

REGISTER = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
DEREGISTER = "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY"


async def event(client: RawClient) -> tuple[str, tuple[Any, ...]]:
    received = await client.get()
    assert (received.type, received.serial, received.status) == (packet.MESSAGE, 1, packet.OK)
    procedure = protocol.program(received.program).by_number[received.procedure]
    assert procedure.msg is not None
    return procedure.name, procedure.msg.decode(received.payload)


def test_both_styles_filters_and_the_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as new, it.connect() as old:
            one, two = it.hypervisor.domains.add("one"), it.hypervisor.domains.add("two")
            dom = (await new.call("DOMAIN_LOOKUP_BY_NAME", "one"))[0]
            every = (await new.call(REGISTER, 0, None))[0]
            only = (await new.call(REGISTER, 0, dom))[0]
            assert every != only
            await old.call("CONNECT_DOMAIN_EVENT_REGISTER")
            for domain in (two, one):
                it.hypervisor.events.publish(events.Lifecycle(domain.ref, 4, 0))
            name, got = await event(new)
            assert (name, got[0], got[1].dom.name) == ("DOMAIN_EVENT_CALLBACK_LIFECYCLE", every, "two")
            received = [(await event(new))[1] for _ in range(2)]
            assert sorted((got[0], got[1].dom.name, got[1].event) for got in received) == [
                (every, "one", 4),
                (only, "one", 4),
            ]
            for name in ("two", "one"):
                kind, got = await event(old)
                assert (kind, got[0].name, got[1:]) == ("DOMAIN_EVENT_LIFECYCLE", name, (4, 0))
            await new.call(DEREGISTER, only)
            it.hypervisor.events.publish(events.Lifecycle(one.ref, 2, 0))
            assert (await event(new))[1][0] == every
            await new.call(DEREGISTER, every)
            it.hypervisor.events.publish(events.Lifecycle(one.ref, 2, 0))
            assert await new.call("CONNECT_GET_LIB_VERSION") == (9000000,)

    asyncio.run(run())


def test_what_cannot_be_registered(tmp_path: Path) -> None:
    async def refused(client: RawClient, name: str, *arguments: Any) -> tuple[int, int, str]:
        with pytest.raises(QvirtError) as caught:
            await client.call(name, *arguments)
        return caught.value.code, caught.value.domain, caught.value.message

    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            unsupported = (1, 7, "internal error: unsupported event ID %d")
            answer = await refused(client, REGISTER, 28, None)
            assert answer == (*unsupported[:2], unsupported[2] % 28)
            answer = await refused(client, "CONNECT_DOMAIN_EVENT_REGISTER_ANY", 16)
            assert answer == (*unsupported[:2], unsupported[2] % 16)
            await client.call(REGISTER, 3, None)
            answer = await refused(client, REGISTER, 3, None)
            assert answer == (8, 0, "invalid argument: event callback already tracked")
            answer = await refused(client, DEREGISTER, 999)
            assert answer == (1, 7, "internal error: domain event callback 999 not registered")
            # Every number there is can be had, whether it fires or not.
            for number in [*range(3), *range(4, 28)]:
                await client.call(REGISTER, number, None)

    asyncio.run(run())


def samples(dom: events.DomainRef) -> list[tuple[events.DomainEvent, list[str]]]:
    address = events.GraphicsAddress(0, "127.0.0.1", "5900")
    return [
        (events.Reboot(dom), ["REBOOT"]),
        (events.RtcChange(dom, -3), ["RTC_CHANGE"]),
        (events.Watchdog(dom, 3), ["WATCHDOG"]),
        (events.IoError(dom, "/x", "virtio-disk0", 1, "enospc"), ["IO_ERROR", "IO_ERROR_REASON"]),
        (events.Graphics(dom, 0, address, address, "none", (("x509dname", "CN=x"),)), ["GRAPHICS"]),
        (events.ControlError(dom), ["CONTROL_ERROR"]),
        (events.BlockJob(dom, "/x", "vda", 2, 0), ["BLOCK_JOB", "BLOCK_JOB_2"]),
        (events.DiskChange(dom, "/x", None, "ide0-0-0", 0), ["DISK_CHANGE"]),
        (events.TrayChange(dom, "ide0-0-0", 1), ["TRAY_CHANGE"]),
        (events.PmWakeup(dom), ["PMWAKEUP"]),
        (events.PmSuspend(dom), ["PMSUSPEND"]),
        (events.PmSuspendDisk(dom), ["PMSUSPEND_DISK"]),
        (events.BalloonChange(dom, 1024), ["BALLOON_CHANGE"]),
        (events.DeviceAdded(dom, "net1"), ["DEVICE_ADDED"]),
        (events.DeviceRemoved(dom, "net1"), ["DEVICE_REMOVED"]),
        (events.DeviceRemovalFailed(dom, "net1"), ["DEVICE_REMOVAL_FAILED"]),
        (events.Tunable(dom, (("cputune.vcpupin0", 7, "0-1"), ("x", 4, 5))), ["TUNABLE"]),
        (events.AgentLifecycle(dom, 1, 2), ["AGENT_LIFECYCLE"]),
        (events.MetadataChange(dom, 2, "http://x"), ["METADATA_CHANGE"]),
        (events.BlockThreshold(dom, "vda[1]", None, 5, 6), ["BLOCK_THRESHOLD"]),
        (events.MemoryFailure(dom, 0, 1, 2), ["MEMORY_FAILURE"]),
        (events.MemoryDeviceSizeChange(dom, "virtiomem0", 4), ["MEMORY_DEVICE_SIZE_CHANGE"]),
    ]


def test_every_kind_of_event_reaches_every_style(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as new, it.connect() as old:
            domain = it.hypervisor.domains.add("one")
            numbers = {}
            for event_id in protocol.event_ids("domain").values():
                numbers[event_id.name] = (await new.call(REGISTER, event_id.number, None))[0]
                if event_id.legacy is not None:
                    await old.call("CONNECT_DOMAIN_EVENT_REGISTER_ANY", event_id.number)
            for happened, names in samples(domain.ref):
                it.hypervisor.events.publish(happened)
                for name in names:
                    kind, got = await event(new)
                    assert kind in (f"DOMAIN_EVENT_CALLBACK_{name}", f"DOMAIN_EVENT_{name}")
                    assert got[0] == numbers[name]
                    ids = {each.name: each for each in protocol.event_ids("domain").values()}
                    if ids[name].legacy is not None:
                        kind, got = await event(old)
                        assert (kind, got[0].name) == (f"DOMAIN_EVENT_{name}", "one")

    asyncio.run(run())


def test_raw_monitor_events(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            domain = it.hypervisor.domains.add("one")
            register = "CONNECT_DOMAIN_MONITOR_EVENT_REGISTER"

            async def want(event: str | None, flags: int) -> int:
                return int((await client.call(register, None, event, flags, program=protocol.QEMU))[0])

            exact, pattern = await want("STOP", 0), await want("^stop|res", 3)
            for name in ("RESUME", "STOPPED", "STOP"):
                it.hypervisor.events.publish(events.MonitorEvent(domain.ref, name, 5, 6, None))
            got = [(await event(client))[1] for _ in range(4)]
            assert [(each[0], each[2]) for each in got[:2]] == [(pattern, "RESUME"), (pattern, "STOPPED")]
            assert sorted((each[0], each[2]) for each in got[2:]) == [(exact, "STOP"), (pattern, "STOP")]
            for number in (exact, pattern):
                await client.call("CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER", number, program=protocol.QEMU)

    asyncio.run(run())
