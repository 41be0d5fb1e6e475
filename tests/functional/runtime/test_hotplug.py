"""Devices plugged into guests without a system: every step, its failure, its undoing; the same as at boot."""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InternalError,
    OperationFailed,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
    SystemError_,
    XmlError,
)
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.device import Device
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import Event, Json, JsonObject, JsonValue
from qvirt.runtime import monitor_events
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import DeviceAdded, DeviceRemoved
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug, unplug
from qvirt.runtime.running import Running
from tests.functional.runtime.instance import Instance, Recorder, disk, document, instance, run, until

pytestmark = pytest.mark.qemu

SCSI = "<controller type='scsi' index='0' model='virtio-scsi'/>"
SERIAL = "<controller type='virtio-serial' index='0'/>"
PS2 = "<input type='mouse' bus='ps2'/><input type='keyboard' bus='ps2'/>"
CHANNEL = "<channel type='unix'><target type='virtio' name='org.one'/></channel>"
USB = "<controller type='usb' index='0' model='qemu-xhci'/>"
NET = "<interface type='user'><mac address='52:54:00:11:22:33'/><model type='{}'/>{}</interface>"


def scsi_disk(path: Path, more: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>"
        f"<target dev='sda' bus='scsi'/>{more}</disk>"
    )


async def start(hv: Hypervisor, name: str, *devices: str, paused: bool = False) -> Domain:
    xml = document(name, *devices)
    if any("type='usb'" in device for device in devices):
        xml = xml.replace("<controller type='usb' model='none'/>", "")
    return await hv.create(xml, paused=paused)


# ------------------------------------------------------------------- what QEMU has


def named(domain: Domain, alias: str) -> Device:
    """Return the live definition's device of an alias."""
    return next(dev for dev in domain.live.devices.all() if dev.alias.name == alias)


def without_the_run(dev: Device) -> str:
    """Return a device's document without what is another one in each run."""
    return re.sub(r"/dev/pts/[0-9]+|/domain-[0-9]+-[^/]+/", "…", dev.to_xml())


async def tree(running: Running, path: str) -> dict[str, Any]:
    """Return a QOM object with all its properties and children, but for what tells that it was plugged.

    That is its place in the boot order, too: only what is there at boot is booted from.
    """
    listed = await running.execute("qom-list", {"path": path})
    assert isinstance(listed, list)
    found: dict[str, Any] = {}
    for item in sorted((one for one in listed if isinstance(one, dict)), key=lambda one: str(one["name"])):
        name, kind = str(item["name"]), str(item["type"])
        if name in ("hotplugged", "parent_bus", "bootindex"):
            continue
        if kind.startswith("child<"):
            found[name] = (kind, await tree(running, f"{path}/{name}"))
            continue
        try:
            found[name] = (kind, await running.execute("qom-get", {"path": path, "property": name}))
        except QmpError as error:
            found[name] = (kind, error.desc)
    return found


async def everything(domain: Domain) -> dict[str, Any]:
    """Return what a guest consists of for QEMU, by what names it."""
    running = domain.need_running()
    nodes = await running.execute("query-named-block-nodes", {"flat": True})
    chardevs = await running.execute("query-chardev")
    assert isinstance(nodes, list)
    assert isinstance(chardevs, list)
    plugged = await running.execute("qom-list", {"path": "/machine/peripheral"})
    assert isinstance(plugged, list)
    return {
        "devices": sorted(str(one["name"]) for one in plugged if isinstance(one, dict)),
        "nodes": sorted(str(one["node-name"]) for one in nodes if isinstance(one, dict)),
        "chardevs": sorted(str(one["label"]) for one in chardevs if isinstance(one, dict)),
        "document": await domain.xml_desc(),
        "loans": [(loan.path, loan.before) for loan in running.footprint.loans],
        "files": list(running.footprint.files),
        "plugging": list(running.footprint.plugging),
    }


@pytest.mark.parametrize(
    ("already", "device"),
    [
        ((), disk(Path("{root}/a.img"), "vdb", "<serial>abc</serial>")),
        ((SCSI,), scsi_disk(Path("{root}/a.img"), "<wwn>5000c50015ea71aa</wwn><readonly/>")),
        ((USB,), disk(Path("{root}/a.img"), "sdb").replace("'virtio'", "'usb'")),
        ((), NET.format("virtio", "<link state='down'/>")),
        ((), NET.format("e1000", "")),
        ((), SCSI),
        ((), "<controller type='virtio-serial' index='0' ports='5'/>"),
        ((SERIAL,), CHANNEL),
        ((SERIAL,), "<channel type='pty'><target type='virtio' name='org.two'/></channel>"),
        ((SERIAL,), "<console type='pty'><target type='virtio'/></console>"),
        ((), "<serial type='pty'><target type='pci-serial'/></serial>"),
        ((USB,), "<serial type='null'><target type='usb-serial'/></serial>"),
        ((), "<rng model='virtio'><rate bytes='99'/><backend model='random'>/dev/urandom</backend></rng>"),
        ((), "<watchdog model='i6300esb' action='pause'/>"),
        ((USB, PS2), "<input type='tablet' bus='usb'/>"),
        ((PS2,), "<input type='mouse' bus='virtio'/>"),
        ((USB,), "<redirdev bus='usb' type='pty'/>"),
        ((), "<memballoon model='virtio'><stats period='7'/></memballoon>"),
    ],
    ids=[
        *("virtio disk", "scsi disk", "usb disk", "virtio card", "e1000", "scsi", "virtio-serial"),
        *("channel", "pty channel", "virtio console", "pci serial", "usb serial", "rng", "watchdog"),
        *("usb tablet", "virtio mouse", "redirdev", "balloon"),
    ],
)
def test_plugged_is_as_booted(already: Sequence[str], device: str) -> None:
    """A device that was plugged in is to QEMU, in all its properties, the one that was there at boot."""

    async def scenario() -> None:
        with instance() as it:
            it.image("a.img")
            text = device.replace("{root}", str(it.root))
            async with it.serve() as hv:
                # held before their first instruction: firmware sets up what it finds
                booted = await start(hv, "booted", *already, text, paused=True)
                plain = await start(hv, "plugged", *already, paused=True)
                before = (await everything(plain))["devices"]
                shape = await everything(booted)
                new = [name for name in shape["devices"] if name not in before]
                trees = [await tree(booted.need_running(), f"/machine/peripheral/{name}") for name in new]
                nodes = await booted.need_running().execute("query-named-block-nodes", {"flat": True})
                there = named(booted, new[0])
                await booted.destroy()
                await hotplug.attach(plain, text, Modify.LIVE)
                now = await everything(plain)
                assert [name for name in now["devices"] if name not in before] == new
                assert len(new) == 1
                again = [await tree(plain.need_running(), f"/machine/peripheral/{name}") for name in new]
                assert again == trees
                assert await plain.need_running().execute("query-named-block-nodes", {"flat": True}) == nodes
                plugged = named(plain, new[0])
                assert without_the_run(plugged) == without_the_run(there)

    run(scenario())


# --------------------------------------------------------------------------- undone


class Refusing:
    """A monitor that answers one command with an error of QEMU's; all others are QEMU's to answer."""

    def __init__(self, monitor: Monitor, number: int) -> None:
        self.monitor = monitor
        self.left = number
        self.refused: str | None = None

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        deadline: float | None = None,
        oob: bool = False,
    ) -> Json:
        if self.refused is None and not command.startswith(("query", "qom-list")):
            if self.left == 0:
                self.refused = command
                raise QmpError(command, "GenericError", "it does not feel like it")
            self.left -= 1
        return await self.monitor.execute(command, arguments, fds=fds, deadline=deadline, oob=oob)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)


def test_every_step_refused() -> None:
    """QEMU refuses one step after the other: each time everything is as it was, and nobody is told."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            text = scsi_disk(image, "<iotune><total_bytes_sec>1000000</total_bytes_sec></iotune>")
            async with it.serve() as hv:
                domain = await start(hv, "refuses", SCSI)
                events = Recorder(hv)
                running = domain.need_running()
                before = await everything(domain)
                monitor = running.monitor
                steps: list[str] = []
                for number in range(10):
                    refusing = Refusing(monitor, number)
                    running.link = refusing  # type: ignore[assignment]
                    try:
                        await hotplug.attach(domain, text, Modify.LIVE)
                    except QmpError:
                        steps.append(str(refusing.refused))
                        running.link = monitor
                        assert await everything(domain) == before
                        assert image.stat().st_uid == os.getuid()
                        assert events.of(DeviceAdded) == []
                        assert "a.img" not in hv.paths.status("refuses").read_text()
                    else:
                        running.link = monitor
                        break
                assert steps == ["blockdev-add", "blockdev-add", "device_add", "block_set_io_throttle"]
                assert [event.dev_alias for event in events.of(DeviceAdded)] == ["scsi0-0-0-0"]
                await hotplug.detach(domain, text, Modify.LIVE)
                assert await everything(domain) == before
                assert [event.dev_alias for event in events.of(DeviceRemoved)] == ["scsi0-0-0-0"]
                assert image.stat().st_uid == os.getuid()

    run(scenario())


def test_image_vanishes_between_check_and_open() -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")

            def checkpoint(name: str) -> None:
                if name == "device's files given":
                    image.unlink()

            async with it.serve(checkpoint=checkpoint) as hv:
                domain = await start(hv, "vanishes")
                before = await everything(domain)
                with pytest.raises(QmpError, match=r"Could not open '.*a\.img': No such file or directory"):
                    await hotplug.attach(domain, disk(image), Modify.LIVE)
                assert await everything(domain) == before
                with pytest.raises(SystemError_, match=r"Cannot access storage file '.*a\.img'"):
                    await hotplug.attach(domain, disk(image), Modify.LIVE)
                assert await everything(domain) == before

    run(scenario())


def test_controllers_are_numbered() -> None:
    """A controller that does not say its number gets the first one that is free, live and configured."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("numbers", SCSI))
                await domain.start()
                both = Modify.LIVE | Modify.CONFIG
                for number in (1, 2):
                    await hotplug.attach(domain, "<controller type='scsi' model='virtio-scsi'/>", both)
                    assert f"scsi{number}" in (await everything(domain))["devices"]
                    assert f"<controller type='scsi' index='{number}' model='virtio-scsi'>" in domain.text

    run(scenario())


def test_shared_disk() -> None:
    """A disk that is shared for writing bypasses the host's cache, and the live document says so."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            async with it.serve() as hv:
                domain = await start(hv, "shares", SCSI)
                await hotplug.attach(domain, scsi_disk(image, "<shareable/>"), Modify.LIVE)
                assert "<driver name='qemu' type='raw' cache='none'/>" in await domain.xml_desc()
                other = await start(hv, "other", SCSI, scsi_disk(image, "<shareable/>"))
                assert "<driver name='qemu' type='raw' cache='none'/>" in await other.xml_desc()
                await hotplug.detach(domain, scsi_disk(image), Modify.LIVE)
                await other.destroy()
                assert image.stat().st_uid == os.getuid()

    run(scenario())


def test_controller_is_added_and_undone() -> None:
    """A SCSI disk brings the controller it needs, and one that cannot be opened brings none."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            async with it.serve() as hv:
                domain = await start(hv, "scsi")
                before = await everything(domain)
                bad = scsi_disk(image).replace("type='raw'", "type='qcow2'")
                with pytest.raises(QvirtError, match="Image is not in qcow2 format"):
                    await hotplug.attach(domain, bad, Modify.LIVE)
                assert await everything(domain) == before
                events = Recorder(hv)
                await hotplug.attach(domain, scsi_disk(image), Modify.LIVE)
                assert {"scsi0", "scsi0-0-0"} <= set((await everything(domain))["devices"])
                assert [event.dev_alias for event in events.of(DeviceAdded)] == ["scsi0-0-0"]

    run(scenario())


# ------------------------------------------------------------------------- refused


def test_refusals() -> None:
    """Each with libvirt's sentence, and before anything changes."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            async with it.serve() as hv:
                domain = await hv.define(document("refusals", disk(image, "vdb"), SCSI))
                both = Modify.LIVE | Modify.CONFIG
                with pytest.raises(OperationInvalid, match="target vdb already exists"):
                    await hotplug.attach(domain, disk(image, "vdb"), Modify.CONFIG)
                with pytest.raises(OperationInvalid, match="domain is not running"):
                    await hotplug.attach(domain, disk(image, "vdc"), Modify.LIVE)
                with pytest.raises(DeviceMissing, match="no target device vdx"):
                    await hotplug.detach(domain, disk(image, "vdx"), Modify.CONFIG)
                await domain.start()
                before = await everything(domain), domain.text
                with pytest.raises(XmlError, match="target 'vdb' duplicated for disk sources"):
                    await hotplug.attach(domain, disk(image, "vdb"), Modify.LIVE)
                ide = disk(image, "hda").replace("'virtio'", "'ide'")
                with pytest.raises(OperationUnsupported, match="disk bus 'ide' cannot be hotplugged"):
                    await hotplug.attach(domain, ide, both)
                with pytest.raises(DeviceMissing, match="disk vdx not found"):
                    await hotplug.detach(domain, disk(image, "vdx"), Modify.LIVE)
                with pytest.raises(DeviceMissing, match=r"no device found .*MAC address '52:54:00:11:22:33'"):
                    await hotplug.detach(domain, NET.format("virtio", ""), both)
                with pytest.raises(InternalError, match="no device found with alias nothing"):
                    await hotplug.detach_alias(domain, "nothing", Modify.LIVE)
                with pytest.raises(OperationUnsupported, match="live attach of device 'video' is not"):
                    await hotplug.attach(domain, "<video><model type='vga'/></video>", Modify.LIVE)
                with pytest.raises(OperationUnsupported, match="cannot modify field 'serial' of the disk"):
                    await hotplug.update(domain, disk(image, "vdb", "<serial>x</serial>"), Modify.LIVE)
                with pytest.raises(ConfigUnsupported, match="only in removable drives"):
                    await hotplug.update(domain, disk(it.image("b.img"), "vdb"), both)
                with pytest.raises(QvirtError, match="unknown device type 'teapot'"):
                    await hotplug.attach(domain, "<teapot/>", Modify.LIVE)
                with pytest.raises(QvirtError, match="os/boot elements"):
                    await hotplug.attach(domain, disk(image, "vdd", "<boot order='1'/>"), both)
                assert (await everything(domain), domain.text) == before

    run(scenario())


def test_full_bus() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await start(hv, "full")
                text = "<controller type='scsi' index='{}' model='virtio-scsi'/>"
                for index in range(30):  # of 31 slots the chipset has one
                    await hotplug.attach(domain, text.format(index), Modify.LIVE)
                before = await everything(domain)
                with pytest.raises(InternalError, match="No more available PCI slots"):
                    await hotplug.attach(domain, text.format(30), Modify.LIVE)
                assert await everything(domain) == before
                slots = {
                    dev.address.slot
                    for dev in domain.live.devices.controllers
                    if isinstance(dev.address, PciAddress)
                }
                assert len(slots) == 30

    run(scenario())


# ------------------------------------------------------------------- late answers


async def reset(it: Instance, domain: Domain) -> None:
    """Reset a guest without the daemon's knowing; QEMU then lets go of what it was asked for."""
    monitor = await Monitor.connect(domain.need_running().monitor_path)
    await monitor.execute("system_reset")
    monitor.close()


def test_guest_answers_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest without a system never answers; the reset that comes hours later does."""
    monkeypatch.setattr(unplug, "PATIENCE", 0.05)

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            async with it.serve() as hv:
                domain = await start(hv, "late")
                before = await everything(domain)
                events = Recorder(hv)
                await hotplug.attach(domain, disk(image), Modify.LIVE)
                await hotplug.detach(domain, disk(image), Modify.LIVE)
                assert "vda" in await domain.xml_desc()
                assert events.of(DeviceRemoved) == []
                assert image.stat().st_uid != os.getuid() or hv.user is None
                await domain.reset()
                await until(lambda: events.of(DeviceRemoved), "device removed")
                assert await everything(domain) == before
                assert image.stat().st_uid == os.getuid()
                assert "vda" not in hv.paths.status("late").read_text()
                await hotplug.attach(domain, disk(image), Modify.LIVE)

    run(scenario())


def test_guest_answers_while_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "PATIENCE", 0.05)

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            async with it.serve() as hv:
                domain = await start(hv, "absent")
                before = await everything(domain)
                await hotplug.attach(domain, disk(image), Modify.LIVE)
                await hotplug.detach_alias(domain, "virtio-disk0", Modify.LIVE)
                assert "vda" in await domain.xml_desc()
            await reset(it, domain)
            async with it.serve() as hv:
                found = hv.domains.by_name("absent")
                assert await everything(found) == before
                assert image.stat().st_uid == os.getuid()
                await found.destroy()
            assert it.traces() == []

    run(scenario())


def test_guest_refuses() -> None:
    """The guest's no ends the wait, in either of the words it may say it in; the device stays."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img")
            async with it.serve() as hv:
                domain = await start(hv, "refuses")
                running = domain.need_running()
                await hotplug.attach(domain, disk(image), Modify.LIVE)
                before = await everything(domain)
                events = Recorder(hv)
                ost: JsonObject = {"device": "virtio-disk0", "source": 3, "status": 1, "slot-type": "DIMM"}
                for said in (
                    Event("DEVICE_UNPLUG_GUEST_ERROR", {"device": "virtio-disk0", "path": "/x"}, 1, 2),
                    Event("ACPI_DEVICE_OST", {"info": ost}, 1, 2),
                ):
                    asked = asyncio.ensure_future(hotplug.detach(domain, disk(image), Modify.LIVE))
                    await until(lambda: "virtio-disk0" in running.unplugs, "the guest is asked")
                    monitor_events.handle(domain, running, said)
                    with pytest.raises(OperationFailed, match="unplug of device was rejected by the guest"):
                        await asked
                    # a guest that has said no can be asked again only after a reset, as QEMU sees it
                    assert await everything(domain) == before
                    await domain.reset()
                    await until(lambda: events.of(DeviceRemoved), "the reset takes it")
                    events.events.clear()
                    await hotplug.attach(domain, disk(image), Modify.LIVE)
                    before = await everything(domain)

    run(scenario())


def test_definition_follows() -> None:
    """What is attached, updated and detached in a definition is completed as if it had been written so."""

    async def scenario() -> None:
        with instance() as it:
            images = [it.image(name) for name in ("a.img", "b.img")]
            async with it.serve() as hv:
                domain = await hv.define(document("kept", disk(images[0])))
                before = domain.text
                await hotplug.attach(domain, scsi_disk(images[1]), Modify.CONFIG)
                assert "<controller type='scsi' index='0' model='lsilogic'>" in domain.text
                assert "<address type='drive' controller='0'" in domain.text
                await hotplug.update(domain, scsi_disk(images[1], "<serial>changed</serial>"), Modify.CONFIG)
                assert "<serial>changed</serial>" in domain.text
                await hotplug.attach(domain, NET.format("virtio", ""), Modify.CURRENT)
                assert domain.text.count("52:54:00:11:22:33") == 1
                await hotplug.detach(domain, NET.format("virtio", ""), Modify.CONFIG)
                await hotplug.detach(domain, scsi_disk(images[1]), Modify.CONFIG)
                controller = "<controller type='scsi' index='0'/>"
                await hotplug.detach(domain, controller, Modify.CONFIG)
                assert domain.text == before
                with pytest.raises(DeviceMissing, match="device not present in domain configuration"):
                    await hotplug.detach(domain, controller, Modify.CONFIG)
                with pytest.raises(OperationUnsupported, match="persistent update of device 'controller'"):
                    await hotplug.update(domain, controller, Modify.CONFIG)

    run(scenario())


class Closing:
    """A monitor of a guest that closes the tray right before one command of a kind; the rest is QEMU's."""

    def __init__(self, monitor: Monitor, command: str, drive: str) -> None:
        self.monitor = monitor
        self.command = command
        self.drive = drive
        self.closed = 0

    async def execute(
        self, command: str, arguments: Mapping[str, JsonValue] | None = None, **more: Any
    ) -> Json:
        if command == self.command and not self.closed:
            self.closed += 1
            await self.monitor.execute("blockdev-close-tray", {"id": self.drive})
        return await self.monitor.execute(command, arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)


@pytest.mark.parametrize("command", ["blockdev-remove-medium", "blockdev-insert-medium"])
def test_a_guest_that_closes_the_tray_meanwhile(command: str) -> None:
    """It is opened again, and the new medium is in."""

    async def scenario() -> None:
        with instance() as it:
            first, second = it.image("a.iso"), it.image("b.iso")
            drive = (
                "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>"
                "<target dev='hdc' bus='ide'/><readonly/></disk>"
            )
            async with it.serve() as hv:
                domain = await hv.create(document("closes", drive.format(first)), paused=True)
                running = domain.need_running()
                monitor = running.monitor
                running.link = closing = Closing(monitor, command, "ide0-1-0")  # type: ignore[assignment]
                await hotplug.update(domain, drive.format(second), Modify.LIVE | Modify.FORCE)
                running.link = monitor
                assert closing.closed == 1
                nodes = str(await running.execute("query-named-block-nodes", {"flat": True}))
                assert str(second) in nodes
                assert str(first) not in nodes
                assert f"<source file='{second}' " in await domain.xml_desc()

    run(scenario())


def test_medium_changes() -> None:
    """A drive's medium is ejected, put in and changed; nodes and owners of the old one go."""

    async def scenario() -> None:
        with instance() as it:
            first, second = it.image("a.iso"), it.image("b.iso")
            drive = (
                "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>{}"
                "<target dev='hdc' bus='ide'/><readonly/></disk>"
            )
            forced = Modify.LIVE | Modify.FORCE  # the firmware may have locked the tray
            async with it.serve() as hv:
                domain = await start(hv, "drive", drive.format(f"<source file='{first}'/>"))
                running = domain.need_running()
                for source in (f"<source file='{second}'/>", "", f"<source file='{first}'/>"):
                    await hotplug.update(domain, drive.format(source), forced)
                    assert (await domain.xml_desc()).count("<source file=") == bool(source)
                    nodes = str(await running.execute("query-named-block-nodes", {"flat": True}))
                    for path in (first, second):
                        assert (str(path) in nodes) == (str(path) in source)
                before = await everything(domain)
                with pytest.raises(SystemError_):
                    await hotplug.update(domain, drive.format(f"<source file='{it.root}/no'/>"), forced)
                bad = drive.format(f"<source file='{second}'/>").replace("raw", "vdi")
                with pytest.raises(QmpError):
                    await hotplug.update(domain, bad, forced)
                assert await everything(domain) == before

    run(scenario())
