"""USB devices of the host in guests: found in a made-up sysfs, lent, kept from other guests.

The device nodes are ordinary files, so QEMU refuses to open them; where a test needs one that is taken, the
monitor answers for the frontend alone.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import DeviceMissing, InternalError, OperationFailed, OperationInvalid, QvirtError
from qvirt.qemu.devices import hostdev
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import Json, JsonValue
from qvirt.runtime.domain import Domain
from qvirt.runtime.plugging import hotplug, usb
from tests.functional.runtime.instance import Instance, document, instance, run

pytestmark = pytest.mark.qemu

PLACE = "<source startupPolicy='optional'><address bus='9' device='77'/></source>"
CONTROLLER = "<controller type='usb' index='0' model='qemu-xhci'/>"
#: bus, device, vendor, product
PRESENT = ((1, 1, "1d6b", "0002"), (1, 9, "1234", "beef"), (2, 3, "1234", "beef"), (2, 10, "abcd", "0001"))


def by_kind(vendor: str, product: str, policy: str = "") -> str:
    return (
        f"<hostdev mode='subsystem' type='usb'><source{policy}>"
        f"<vendor id='0x{vendor}'/><product id='0x{product}'/></source></hostdev>"
    )


def by_place(bus: int, device: int) -> str:
    return (
        "<hostdev mode='subsystem' type='usb'><source>"
        f"<address bus='{bus}' device='{device}'/></source></hostdev>"
    )


ONLY = by_kind("abcd", "0001")


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An instance with USB devices; their nodes are root's."""
    with instance() as it:
        monkeypatch.setattr(usb, "ROOT", it.root)
        monkeypatch.setattr(hostdev, "USB_NODES", str(it.root / "usb"))
        for bus, device, vendor, product in PRESENT:
            entry = it.root / f"sys/bus/usb/devices/{bus}-{device}"
            entry.mkdir(parents=True)
            (entry.parent / f"{bus}-{device}:1.0").mkdir()
            for name, text in (
                ("busnum", bus),
                ("devnum", device),
                ("idVendor", vendor),
                ("idProduct", product),
            ):
                (entry / name).write_text(f"{text}\n")
            (it.root / f"usb/{bus:03d}").mkdir(parents=True, exist_ok=True)
            it.image(f"usb/{bus:03d}/{device:03d}").chmod(0o600)
        yield it


def node(it: Instance, bus: int, device: int) -> Path:
    return it.root / f"usb/{bus:03d}/{device:03d}"


class Accepting:
    """A monitor that takes host devices, which QEMU cannot open here; all else is QEMU's to answer."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.there: list[str] = []

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        deadline: float | None = None,
        oob: bool = False,
    ) -> Json:
        said = arguments or {}
        if command == "device_add" and said.get("driver") == "usb-host":
            self.there.append(str(said["id"]))
            return {}
        if command == "device_del" and said["id"] in self.there:
            self.there.remove(str(said["id"]))
            raise QmpError(command, "DeviceNotFound", "it has gone at once")
        return await self.monitor.execute(command, arguments, fds=fds, deadline=deadline, oob=oob)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)


def accept(domain: Domain) -> None:
    running = domain.need_running()
    running.link = Accepting(running.monitor)  # type: ignore[assignment]


def usb_document(name: str, *devices: str) -> str:
    return document(name, CONTROLLER, *devices).replace("<controller type='usb' model='none'/>", "")


def test_come_and_go(it: Instance) -> None:
    """By what it is or where it is, a device is found, lent, kept from others and given back."""

    async def scenario() -> None:
        async with it.serve() as hv:
            one = await hv.create(usb_document("one"))
            other = await hv.create(usb_document("other"))
            accept(one)
            accept(other)
            await hotplug.attach(one, ONLY, Modify.LIVE)
            text = await one.xml_desc()
            assert "<vendor id='0xabcd'/>" in text
            assert "<address bus='2' device='10'/>" in text
            assert "<alias name='hostdev0'/>" in text
            assert "<address type='usb' bus='0' port='1'/>" in text
            if hv.user is not None:
                assert node(it, 2, 10).stat().st_uid == hv.user.uid
            taken = r"USB device 002:012 is in use by driver QEMU, domain one"
            for domain in (one, other):
                for same in (ONLY, by_place(2, 10)):
                    with pytest.raises(OperationInvalid, match=taken):
                        await hotplug.attach(domain, same, Modify.LIVE)
            with pytest.raises(OperationInvalid, match=taken):
                await hv.create(usb_document("third", ONLY))
            with pytest.raises(DeviceMissing, match="host usb device vendor=0x1234 product=0xbeef not found"):
                await hotplug.detach(one, by_kind("1234", "beef"), Modify.LIVE)
            with pytest.raises(DeviceMissing, match=r"host usb device 001\.009 not found"):
                await hotplug.detach(one, by_place(1, 9), Modify.LIVE)
            await hotplug.detach(one, by_place(2, 10), Modify.LIVE)
            assert "<hostdev" not in await one.xml_desc()
            assert node(it, 2, 10).stat().st_uid == os.getuid()
            await hotplug.attach(other, by_place(2, 10), Modify.LIVE)
            await hotplug.detach(other, by_place(2, 10), Modify.LIVE)

    run(scenario())


@pytest.mark.parametrize(
    ("device", "error", "sentence"),
    [
        (by_kind("1234", "beef"), OperationFailed, "Multiple USB devices for 1234:beef, use <address>"),
        (by_kind("dead", "0001"), InternalError, "Did not find USB device dead:0001"),
        (by_place(7, 7), InternalError, "Did not find USB device bus:7 device:7"),
        (ONLY, QvirtError, "failed to open host usb device"),
    ],
    ids=["several", "none", "nothing there", "QEMU refuses"],
)
def test_refused(it: Instance, device: str, error: type[QvirtError], sentence: str) -> None:
    """What cannot be had is refused at start and live, and nothing stays of it."""

    async def scenario() -> None:
        async with it.serve() as hv:
            domain = await hv.create(usb_document("plain"))
            before = await domain.xml_desc()
            with pytest.raises(error, match=sentence):
                await hotplug.attach(domain, device, Modify.LIVE)
            assert await domain.xml_desc() == before
            with pytest.raises(error, match=sentence):
                await hv.create(usb_document("starts", device))
            assert hv.domains.find("starts") is None
            assert node(it, 2, 10).stat().st_uid == os.getuid()

    run(scenario())


def test_may_be_missing(it: Instance) -> None:
    """A guest does without a device that may be missing, as its document says; the definition keeps it."""

    async def scenario() -> None:
        by_place = f"<hostdev mode='subsystem' type='usb'>{PLACE}</hostdev>"
        gone = by_kind("dead", "0001", " startupPolicy='optional'")
        async with it.serve() as hv:
            domain = await hv.define(usb_document("without", gone, by_place))
            await domain.start()
            before = await domain.xml_desc()
            assert before.count("<source startupPolicy='optional' missing='yes'>") == 2
            assert "missing" not in domain.text
            assert "missing" not in await domain.xml_desc(DomainXMLFlags.INACTIVE)
            tree = await domain.need_running().execute("qom-list", {"path": "/machine/peripheral"})
            assert "hostdev1" in str(tree)
            # the place is nobody's: another guest may ask for what comes there
            await hv.create(usb_document("other", by_place))
        async with it.serve() as hv:
            domain = hv.domains.by_name("without")
            assert await domain.xml_desc() == before
            await hotplug.detach(domain, gone, Modify.LIVE)
            assert (await domain.xml_desc()).count("missing='yes'") == 1
            for policy in ("mandatory", "requisite"):
                needed = by_kind("dead", "0001", f" startupPolicy='{policy}'")
                with pytest.raises(InternalError, match="Did not find USB device dead:0001"):
                    await hv.create(usb_document("needs", needed))
                with pytest.raises(InternalError, match="Did not find USB device dead:0001"):
                    await hotplug.attach(domain, needed, Modify.LIVE)
            await hotplug.attach(domain, gone, Modify.LIVE)
            assert (await domain.xml_desc()).count("missing='yes'") == 2

    run(scenario())


def test_definition(it: Instance) -> None:
    """In a definition a device is there once; it is not looked for."""

    async def scenario() -> None:
        async with it.serve() as hv:
            domain = await hv.define(usb_document("kept"))
            before = domain.text
            gone = by_kind("dead", "0001")
            await hotplug.attach(domain, gone, Modify.CONFIG)
            with pytest.raises(OperationInvalid, match="device is already in the domain configuration"):
                await hotplug.attach(domain, gone, Modify.CONFIG)
            await hotplug.detach(domain, gone, Modify.CONFIG)
            assert domain.text == before
            with pytest.raises(DeviceMissing, match="device not present in domain configuration"):
                await hotplug.detach(domain, gone, Modify.CONFIG)

    run(scenario())
