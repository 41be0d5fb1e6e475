"""Kinds of devices that come, go and change in running guests and in definitions, each with its own rules."""

import os
import re
import socket
from typing import Any

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InternalError,
    InvalidArg,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
    XmlDetail,
)
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import DeviceAdded, DeviceRemoved
from qvirt.runtime.plugging import hotplug, unplug
from tests.functional.runtime.instance import Recorder, document, instance, run, until
from tests.functional.runtime.test_hotplug import CHANNEL, SERIAL, USB, everything, start

pytestmark = pytest.mark.qemu

SPICE = "<graphics type='spice' port='-1' autoport='yes'/>"
DIMM = "<memory model='dimm'><target><size unit='MiB'>64</size><node>0</node></target></memory>"
ROOM = (
    "<maxMemory slots='2' unit='MiB'>512</maxMemory>",
    "<cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu>",
)


def roomy(name: str, *devices: str) -> str:
    """Return the document of a guest that has room for two more modules of memory."""
    text = document(name, *devices)
    text = re.sub(r"<memory.*?</memory>", f"<memory unit='MiB'>64</memory>{ROOM[0]}", text, flags=re.DOTALL)
    text = re.sub(r"<currentMemory.*?</currentMemory>", "", text, flags=re.DOTALL)
    return text.replace("<devices>", f"{ROOM[1]}<devices>")


def the(domain: Domain, tag: str, *, config: bool = False) -> list[str]:
    """Return the documents of a domain's devices of an element."""
    definition = domain.config if config else domain.live
    return [dev.to_xml() for dev in definition.devices.all() if dev.tag == tag]


def secret(domain: Domain) -> str | None:
    """Return what viewers of a domain's screen must say."""
    return domain.live.devices.graphics[0].passwd


async def refused(domain: Domain, text: str, flags: int, work: Any = hotplug.attach) -> QvirtError:
    with pytest.raises(QvirtError) as caught:
        await work(domain, text, flags)
    return caught.value


# ----------------------------------------------------------------- come and go


@pytest.mark.parametrize(
    ("already", "device"),
    [
        ((SERIAL,), CHANNEL),
        ((SERIAL,), "<channel type='null'><target type='virtio' name='org.nil'/></channel>"),
        ((), "<channel type='null'><target type='guestfwd' address='10.0.2.9' port='4600'/></channel>"),
        ((USB,), "<serial type='null'><target type='usb-serial' port='0'/></serial>"),
        ((USB,), "<redirdev bus='usb' type='pty'/>"),
        ((USB,), "<input type='keyboard' bus='usb'/>"),
    ],
    ids=["channel", "null channel", "guestfwd", "usb serial", "redirdev", "usb keyboard"],
)
def test_devices_that_need_not_ask_the_guest(already: tuple[str, ...], device: str) -> None:
    """They are there, cannot come twice where they have a name, and leave nothing when they go."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await start(hv, "comes", *already)
                events = Recorder(hv)
                before = await everything(domain)
                await hotplug.attach(domain, device, Modify.LIVE)
                there = await everything(domain)
                assert there != before
                if "<channel" in device:
                    error = await refused(domain, device, Modify.LIVE)
                    assert isinstance(error, OperationInvalid)
                    assert "chardev already exists" in str(error)
                    assert await everything(domain) == there
                await hotplug.detach(domain, device, Modify.LIVE)
                assert await everything(domain) == before
                assert len(events.of(DeviceAdded)) == len(events.of(DeviceRemoved)) == 1
                assert it.processes() != []
                with pytest.raises(QvirtError):
                    await hotplug.detach(domain, device, Modify.LIVE)

    run(scenario())


def test_a_plugged_channel_works() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await start(hv, "talks", SERIAL)
                await hotplug.attach(domain, CHANNEL, Modify.LIVE)
                path = domain.live.devices.channels[0].path
                assert path is not None
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                await hotplug.detach_alias(domain, "channel0", Modify.LIVE)
                await until(lambda: not domain.live.devices.channels, "the channel goes")
                await until(lambda: not os.path.exists(path), "its socket goes with it")

    run(scenario())


REFUSED = [
    ("<serial type='pty'/>", OperationUnsupported, "type 'isa-serial' cannot be plugged into"),
    ("<parallel type='pty'/>", OperationUnsupported, "parallel device cannot be plugged into"),
    ("<console type='pty'/>", ConfigUnsupported, "unsupported console target type serial"),
    ("<watchdog model='ib700'/>", OperationUnsupported, "hotplug of watchdog of model ib700"),
    ("<input type='mouse' bus='ps2'/>", OperationUnsupported, "on bus 'ps2' cannot be hot plugged"),
    ("<redirdev bus='usb' type='spicevmc'/>", ConfigUnsupported, "not supported without spice graphics"),
    (
        "<redirdev bus='usb' type='tcp'><source host='127.0.0.1' service='1'/></redirdev>",
        InternalError,
        "Failed to connect to '127.0.0.1:1'",
    ),
    (DIMM, XmlDetail, "guest has no NUMA nodes configured"),
    ("<memballoon model='virtio'/>", OperationInvalid, "domain already has a memory balloon"),
    ("<video><model type='virtio'/></video>", OperationUnsupported, "live attach of device 'video'"),
    ("<graphics type='spice'/>", OperationUnsupported, "live attach of device 'graphics'"),
    ("<sound model='ich6'/>", OperationUnsupported, "live attach of device 'sound'"),
    ("<controller type='usb' index='3'/>", OperationUnsupported, "'usb' controller cannot be hot plugged"),
    ("<frob/>", ConfigUnsupported, "unknown device type 'frob'"),
]
MISSING = [
    (CHANNEL, DeviceMissing, "chr type 'channel' device not present"),
    ("<rng model='virtio'><backend model='random'/></rng>", DeviceMissing, "model 'random' RNG device not"),
    ("<watchdog model='i6300esb'/>", DeviceMissing, "watchdog device not present"),
    ("<input type='tablet' bus='usb'/>", DeviceMissing, "matching input device not found"),
    ("<redirdev bus='usb' type='pty'/>", OperationInvalid, "no matching redirdev was not found"),
    (DIMM, DeviceMissing, "model 'dimm' memory device not present"),
    ("<controller type='pci' model='pci-bridge'/>", OperationUnsupported, None),
    ("<video><model type='vga'/></video>", OperationUnsupported, "live detach of device 'video'"),
]


def test_what_is_refused() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await start(hv, "refuses", USB, "<memballoon model='virtio'/>")
                before = await everything(domain)
                for text, kind, words in REFUSED:
                    error = await refused(domain, text, Modify.LIVE)
                    assert type(error).__mro__[0] is kind or isinstance(error, kind), (text, error)
                    assert words in str(error)
                    assert await everything(domain) == before, text
                for text, kind, wanted in MISSING:
                    error = await refused(domain, text, Modify.LIVE, hotplug.detach)
                    if wanted is not None:
                        assert isinstance(error, kind), (text, error)
                        assert wanted in str(error)
                    assert await everything(domain) == before, text

    run(scenario())


# ------------------------------------------------------------------ definitions


def test_definitions() -> None:
    """What is attached to a definition is there at the next start; what is detached is not."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("kept", "<serial type='pty'/>"))
                first = await domain.xml_desc(2)
                for text in (
                    CHANNEL,
                    "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>",
                    "<watchdog model='i6300esb' action='reset'/>",
                    "<input type='mouse' bus='virtio'/>",
                    "<sound model='ich6'/>",
                    "<serial type='pty'><target port='1'/></serial>",
                ):
                    await hotplug.attach(domain, text, Modify.CONFIG)
                    assert await domain.xml_desc(2) != first
                    await hotplug.detach(domain, text, Modify.CONFIG)
                    # controllers that were added with a device stay, as in libvirt
                    rest = re.sub(r"    <controller type='virtio-serial'.*?</controller>\n", "",
                                  await domain.xml_desc(2), flags=re.DOTALL)  # fmt: skip
                    assert rest == first, text
                await hotplug.attach(domain, "<watchdog model='i6300esb'/>", Modify.CONFIG)
                error = await refused(domain, "<watchdog model='i6300esb'/>", Modify.CONFIG)
                assert "domain already has a watchdog" in str(error)
                serial = "<serial type='pty'><target port='0'/></serial>"
                await hotplug.detach(domain, serial, Modify.CONFIG)
                assert the(domain, "serial", config=True) == the(domain, "console", config=True) == []
                error = await refused(domain, serial, Modify.CONFIG, hotplug.detach)
                assert isinstance(error, InvalidArg)

    run(scenario())


# ----------------------------------------------------------------------- memory


def test_memory_modules() -> None:
    """A guest grows by a module, in slots as long as there are some, and as far as it may."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(roomy("grows"), paused=True)
                await hotplug.attach(domain, DIMM, Modify.LIVE)
                assert domain.live.memory is not None
                assert domain.live.current_memory is not None
                assert domain.live.memory.value == domain.live.current_memory.value == 128 << 10
                (module,) = the(domain, "memory")
                assert "<alias name='dimm0'/>" in module
                assert re.search(r"<address type='dimm' slot='0' base='0x[0-9a-f]+'/>", module)
                error = await refused(domain, DIMM.replace(">64<", ">640<"), Modify.LIVE)
                assert "would exceed domain's maxMemory config size '524288'" in str(error)
                await hotplug.attach(domain, DIMM, Modify.LIVE)
                error = await refused(domain, DIMM, Modify.LIVE)
                assert "memory device count '3' exceeds slots count '2'" in str(error)
                sizes = await domain.need_running().execute("query-memory-size-summary")
                assert isinstance(sizes, dict)
                assert sizes["plugged-memory"] == 128 << 20
                # the guest, which has no system, does not answer
                unplug_patience, unplug.PATIENCE = unplug.PATIENCE, 0.05
                try:
                    await hotplug.detach(domain, DIMM, Modify.LIVE)
                finally:
                    unplug.PATIENCE = unplug_patience
                assert len(the(domain, "memory")) == 2

    run(scenario())


def test_virtio_mem_is_asked_for_more() -> None:
    device = (
        "<memory model='virtio-mem'><target><size unit='MiB'>128</size><node>0</node>"
        "<block unit='MiB'>2</block><requested unit='MiB'>{}</requested></target></memory>"
    )

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(roomy("asks"), paused=True)
                await hotplug.attach(domain, device.format(0), Modify.LIVE)
                await hotplug.update(domain, device.format(32), Modify.LIVE)
                (info,) = await domain.need_running().execute("query-memory-devices")  # type: ignore[misc]
                assert isinstance(info, dict)
                assert info["data"]["requested-size"] == 32 << 20  # type: ignore[index, call-overload]
                named = device.format(32).replace("</memory>", "<alias name='virtiomem0'/></memory>")
                error = await refused(domain, named.replace(">2<", ">4<"), Modify.LIVE, hotplug.update)
                assert isinstance(error, OperationUnsupported)
                assert "only the requested size of virtio-mem changes" in str(error)

    run(scenario())


# --------------------------------------------------------------------- displays


VNC = "<graphics type='vnc' port='-1' autoport='yes' listen='{}' {}/>"


def test_displays_change() -> None:
    """Passwords, until when they are good, and where VNC listens."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(
                    document("shown", VNC.format("127.0.0.1", "passwd='one'")), paused=True
                )
                running = domain.need_running()

                async def vnc() -> dict[str, Any]:
                    answer = await running.execute("query-vnc")
                    assert isinstance(answer, dict)
                    return answer

                assert (await vnc())["host"] == "127.0.0.1"
                change = VNC.format("127.0.0.1", "passwd='two' passwdValidTo='2040-01-01T00:00:00'")
                await hotplug.update(domain, change, Modify.LIVE)
                assert secret(domain) == "two"
                port = domain.live.devices.graphics[0].port
                # a document without the password, as dumpxml gives it, leaves it
                await hotplug.update(domain, VNC.format("127.0.0.2", ""), Modify.LIVE)
                assert (await vnc())["host"] == "127.0.0.2"
                assert secret(domain) == "two"
                with socket.create_connection(("127.0.0.2", int(port or 0)), 5) as client:
                    assert client.recv(12).startswith(b"RFB 003.")
                for text, words in (
                    ("<graphics type='vnc' port='5999'/>", "cannot change port settings on vnc graphics"),
                    (VNC.format("127.0.0.2", "keymap='de'"), "cannot change keymap setting on vnc graphics"),
                    (VNC.format("127.0.0.2", "sharePolicy='ignore'"), "cannot change VNC share policy"),
                ):
                    error = await refused(domain, text, Modify.LIVE, hotplug.update)
                    assert isinstance(error, OperationUnsupported)
                    assert words in str(error)
                error = await refused(domain, SPICE, Modify.LIVE, hotplug.update)
                assert isinstance(error, DeviceMissing)
                open_to_all = await hv.create(document("open", VNC.format("127.0.0.1", "")), paused=True)
                error = await refused(open_to_all, change, Modify.LIVE, hotplug.update)
                assert "started without a password" in str(error)

    run(scenario())


def test_an_address_that_cannot_be_listened_on() -> None:
    """The display goes on where it was."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("stays", VNC.format("127.0.0.1", "")), paused=True)
                before = await domain.xml_desc(0)
                await refused(domain, VNC.format("192.0.2.1", ""), Modify.LIVE, hotplug.update)
                assert await domain.xml_desc(0) == before
                answer = await domain.need_running().execute("query-vnc")
                assert isinstance(answer, dict)
                assert answer["host"] == "127.0.0.1"

    run(scenario())


# ---------------------------------------------------------------------- balloon


def test_the_balloon() -> None:
    """Its reports change, it comes to a guest that has none."""

    async def period(domain: Domain) -> object:
        alias = domain.live.devices.memballoons[0].alias.name
        path = f"/machine/peripheral/{alias}"
        name = "guest-stats-polling-interval"
        return await domain.need_running().execute("qom-get", {"path": path, "property": name})

    async def scenario() -> None:
        balloon = "<memballoon model='virtio'><stats period='{}'/></memballoon>"
        with instance() as it:
            async with it.serve() as hv:
                domain = await start(hv, "swells", balloon.format(3))
                await hotplug.update(domain, balloon.format(9), Modify.LIVE)
                assert await period(domain) == 9
                assert "<stats period='9'/>" in await domain.xml_desc(0)
                bare = await start(hv, "bare", "<memballoon model='none'/>")
                await hotplug.attach(bare, balloon.format(4), Modify.LIVE)
                assert await period(bare) == 4
                assert len(bare.live.devices.memballoons) == 1

    run(scenario())
