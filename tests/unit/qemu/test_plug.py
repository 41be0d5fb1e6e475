"""Devices that come to a running guest: what its document gives them, and what it does not."""

import re
from collections.abc import Sequence
from functools import partial

import pytest

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    NoSource,
    OperationDenied,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
    XmlDetail,
    XmlError,
)
from qvirt.model.devices import parse_device
from qvirt.model.devices.device import Device
from qvirt.model.devices.memory import Memory
from qvirt.model.domain import Domain
from qvirt.qemu import plug
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.base import DirectoryResource, handler
from qvirt.qemu.names import assign_aliases
from qvirt.runtime.live import set_module
from tests.support.pure import completed, context
from tests.unit.qemu.addresses.documents import document


def test_only_what_is_there_at_boot_is_booted_from() -> None:
    disk = "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
    live = completed(document("<memballoon model='none'/>"))
    ctx = context(live)
    assign_aliases(live, ctx)
    ctx.domain = live.copy()
    devices = plug.place(parse_device(disk), ctx)
    plug.name(devices, ctx)
    plugged = [step.arguments for _, step in plug.steps(devices, ctx) if step.command == "device_add"]
    assert [(props["driver"], "bootindex" in props) for props in plugged] == [("virtio-blk-pci", False)]
    assert [boot.dev for boot in live.os.boots] == ["hd"]


DISK = "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='{}' bus='{}'/>{}</disk>"
CARD = "<interface type='{}'><mac address='52:54:00:00:00:07'/>{}<model type='virtio'/>{}</interface>"
BRIDGED = partial(CARD.format, "bridge", "<source bridge='br0'/><target dev='t7'/>")
MODULE = "<memory model='{}'><target><size unit='MiB'>{}</size>{}</target></memory>"
PCI = "<address type='pci' domain='{}' bus='{}' slot='{}' function='0'/>"
DRIVE = "<address type='drive' controller='0' bus='0' target='0' unit='{}'/>"

GUEST = f"""
<controller type='scsi' index='0' model='virtio-scsi'/>
{DISK.format("sda", "scsi", "<boot order='1'/>" + DRIVE.format(0))}
{DISK.format("vda", "virtio", "<alias name='ua-mine'/>" + PCI.format(0, 0, 9))}
<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>
{BRIDGED("<boot order='2'/><mtu size='1400'/>")}
<memballoon model='none'/>"""


def guest(*, live: bool) -> BuildContext:
    text = document(GUEST).replace("<boot dev='hd'/>", "")
    text = text.replace(
        "<os>",
        "<maxMemory slots='2' unit='MiB'>1024</maxMemory>"
        "<cpu><numa><cell id='0' cpus='0' memory='512' unit='MiB'/></numa></cpu><os>",
    )
    domain = completed(text)
    ctx = context(domain)
    if live:
        assign_aliases(domain, ctx)
        domain.id = 1
    ctx.domain = domain.copy()
    return ctx


def attach(text: str, *, live: bool) -> Device:
    ctx, dev = guest(live=live), parse_device(text)
    if live:
        devices = plug.place(dev, ctx)
        plug.name(devices, ctx)
        assert plug.steps(devices, ctx)
    else:
        plug.define(dev, ctx)
    return dev


def update(text: str) -> Device:
    """Return what the live document says afterwards."""
    ctx, new = guest(live=True), parse_device(text)
    old = plug.find(new, ctx, live=True, update=True)
    twin = old.copy()
    ctx.domain.devices.replace(old, twin)
    plug.replace(twin, new, ctx)
    plug.update(twin, new, ctx, force=False)
    return new


BOTH = (True, False)


@pytest.mark.parametrize(
    ("text", "ways", "error", "domain", "said"),
    [
        (DISK.format("vdb", "virtio", PCI.format(0, 0, 9)), BOTH, XmlError, ErrorDomain.DOMAIN,
         "Attempted double use of PCI Address 0000:00:09.0"),
        (DISK.format("vdb", "virtio", PCI.format(0, 0, 1)), BOTH, XmlError, ErrorDomain.DOMAIN,
         "Attempted double use of PCI Address 0000:00:01.0"),
        (BRIDGED(PCI.format(0, 5, 1)), (True,), XmlError, ErrorDomain.DOMAIN,
         "Invalid PCI address 0000:05:01.0. Only PCI buses up to 0 are available"),
        (DISK.format("vdb", "virtio", PCI.format(1, 0, 3)), BOTH, XmlError, ErrorDomain.DOMAIN,
         "Invalid PCI address 0001:00:03.0. Only PCI domain 0 is available"),
        (DISK.format("sdb", "scsi", DRIVE.format(0)), BOTH, OperationInvalid, ErrorDomain.QEMU,
         "Domain already contains a disk with that address"),
        (DISK.format("sdb", "scsi", "<boot order='2'/>"), BOTH, ConfigUnsupported, ErrorDomain.DOMAIN,
         "boot order 2 is already used by another device"),
        (DISK.format("sdb", "scsi", "<alias name='ua-mine'/>"), BOTH, ConfigUnsupported, ErrorDomain.DOMAIN,
         "non unique alias detected: ua-mine"),
        (DISK.format("sdb", "scsi", PCI.format(0, 0, 20)), BOTH, ConfigUnsupported, ErrorDomain.DOMAIN,
         "Invalid address type 'pci' for the disk 'sdb' with the bus type 'scsi'"),
        ("<controller type='xenbus'/>", (True,), OperationUnsupported, ErrorDomain.QEMU,
         "'xenbus' controller cannot be hot plugged."),
        ("<controller type='usb' index='0'/>", (True,), OperationUnsupported, ErrorDomain.QEMU,
         "'usb' controller cannot be hot plugged."),
        (BRIDGED("<script path='/s'/>"), (True,), ConfigUnsupported, ErrorDomain.QEMU,
         "scripts are not supported on interfaces of type bridge"),
        (CARD.format("user", "", "<vlan><tag id='4'/></vlan>"), (True,), ConfigUnsupported,
         ErrorDomain.DOMAIN, "vlan tag not supported for this connection type"),
        (BRIDGED("<link state='sideways'/>"), BOTH, ConfigUnsupported, ErrorDomain.DOMAIN,
         "unknown interface link state 'sideways'"),
        ("<redirfilter/>", BOTH, ConfigUnsupported, ErrorDomain.DOMAIN, "unknown device type 'redirfilter'"),
        (MODULE.format("dimm", 128, "<node>1</node>"), BOTH, XmlDetail, ErrorDomain.DOMAIN,
         "can't add memory backend for guest node '1' as the guest has only '1' NUMA nodes configured"),
        (MODULE.format("dimm", 1024, "<node>0</node>"), BOTH, ConfigUnsupported, ErrorDomain.DOMAIN,
         "Attaching memory device with size '1048576' would exceed domain's maxMemory config size '1048576'"),
        (MODULE.format("dimm", 128, ""), (True,), ConfigUnsupported, ErrorDomain.QEMU,
         "target NUMA node needs to be specified for memory device"),
        (MODULE.format("virtio-mem", 128, "<block unit='MiB'>2</block><requested unit='MiB'>256</requested>"),
         BOTH, XmlDetail, ErrorDomain.DOMAIN, "requested size must be smaller than or equal to @size"),
        (MODULE.format("virtio-mem", 128, "<block unit='KiB'>3</block><requested>0</requested>"),
         BOTH, XmlDetail, ErrorDomain.DOMAIN, "block size must be a power of two"),
    ],
)  # fmt: skip
def test_what_is_not_attached(
    text: str, ways: Sequence[bool], error: type[QvirtError], domain: int, said: str
) -> None:
    for live in ways:
        with pytest.raises(error, match=re.escape(said)) as raised:
            attach(text, live=live)
        assert raised.value.domain == domain


@pytest.mark.parametrize(
    ("node", "said"),
    [("<node>0</node>", "guest has no NUMA nodes configured"), ("", "domain 'maxMemory' is not defined")],
)
def test_where_memory_has_no_place(node: str, said: str) -> None:
    ctx = context(completed(document("")))
    dev = parse_device(MODULE.format("dimm", 128, node))
    for live in BOTH:
        error = handler(dev).clash(dev, ctx, live=live)
        assert error is not None
        assert said in error.detail


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (BRIDGED("<driver packed='on'/>"), OperationUnsupported, "network device driver options"),
        (BRIDGED("<driver iommu='on'/>"), OperationUnsupported, "network device driver options"),
        (BRIDGED("<driver rss='on'/>"), OperationUnsupported, "network device driver attributes"),
        (BRIDGED("<boot order='3'/>"), OperationUnsupported, "boot index setting"),
        (BRIDGED("<acpi index='4'/>"), OperationDenied, "changing device 'acpi index' is not allowed"),
        (BRIDGED("<tune><sndbuf>9</sndbuf></tune>"), OperationUnsupported, "config on 'bridge' network type"),
        (CARD.format("user", "", ""), OperationUnsupported, "change config on 'user' network type"),
        (DISK.format("vda", "virtio", "<alias name='ua-x'/>"), OperationDenied, "changing device alias"),
        (DISK.format("vda", "virtio", PCI.format(0, 0, 8)), OperationUnsupported, "field 'address'"),
        (
            "<disk device='cdrom'><source file='/b'/><target dev='hdc' bus='ide' tray='open'/></disk>",
            OperationUnsupported,
            "cannot modify field 'tray' of the disk",
        ),
        (MODULE.format("dimm", 128, "<node>0</node>"), ConfigUnsupported, "memory '(null)' not found"),
    ],
)
def test_what_is_not_updated(text: str, error: type[QvirtError], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        update(text)


def test_what_a_card_is_made_with_stays() -> None:
    """A document that does not say it, or says it in vain, changes nothing of it."""
    said = "<backend tap='/dev/x'/><guest dev='eth0'/><downscript path='/d'/><teaming type='persistent'/>"
    text = update(BRIDGED(f"{said}<link state='down'/>")).to_xml()
    assert "<boot order='2'/>" in text
    assert "<mtu size='1400'/>" in text
    assert "<link state='down'/>" in text
    assert not any(word in text for word in ("backend", "guest", "script", "teaming"))


def test_how_snapshots_treat_a_disk_changes() -> None:
    text = DISK.format("vda", "virtio", "").replace("<disk", "<disk snapshot='no'")
    assert "snapshot='no'" in update(text).to_xml()


def test_a_card_that_is_not_on_pci() -> None:
    dev = attach(BRIDGED("").replace("virtio", "usb-net").replace(":07", ":08"), live=True)
    assert dev.address is None


def test_a_disk_is_found_by_its_target_alone() -> None:
    text = "<disk><target dev='sda'/></disk>"
    with pytest.raises(NoSource):
        parse_device(text)
    found = plug.find(parse_device(text, names_only=True), guest(live=True), live=True)
    assert found.alias.name == "scsi0-0-0-0"


@pytest.mark.parametrize("alias", ["net0", "ua-new"])
def test_an_alias_means_nothing_where_there_is_none(alias: str) -> None:
    """A definition has few; one that a device of it has must be the same."""
    wanted = parse_device(BRIDGED(f"<alias name='{alias}'/>"))
    ctx = guest(live=False)
    assert plug.find(wanted, ctx, live=False) is ctx.domain.devices.interfaces[0]
    ctx.domain.devices.interfaces[0].alias.name = "ua-other"
    with pytest.raises(DeviceMissing):
        plug.find(wanted, ctx, live=False)


OFFERED = MODULE.format(
    "virtio-mem", 128, "<node>0</node><block unit='MiB'>2</block><requested unit='MiB'>64</requested>"
)


@pytest.mark.parametrize(
    ("text", "current"), [(OFFERED, 512), (MODULE.format("dimm", 128, "<node>0</node>"), 640)]
)
def test_what_a_guest_has_of_new_memory(text: str, current: int) -> None:
    """A DIMM is in use at once, of a virtio-mem device the guest has nothing until it takes it. MiB."""
    domain = plugged(text)
    assert domain.memory is not None
    assert domain.current_memory is not None
    assert (domain.memory.value, domain.current_memory.value) == (640 * 1024, current * 1024)


@pytest.mark.parametrize(("size", "has"), [(64 << 20, 64), (1 << 40, 128), (0, 0)])
def test_what_a_guest_takes_of_offered_memory(size: int, has: int) -> None:
    """Bytes are told, MiB believed: not more than there are."""
    domain = plugged(OFFERED)
    (module,) = domain.devices.memory
    for told in (32 << 20, size):
        set_module(domain, str(module.alias.name), told)
    assert module.target.current is not None
    assert domain.current_memory is not None
    assert (module.target.current.value, domain.current_memory.value) == (has * 1024, (512 + has) * 1024)


def plugged(text: str) -> Domain:
    ctx = guest(live=True)
    plug.name(plug.place(parse_device(text), ctx), ctx)
    return ctx.domain


def test_the_file_of_shared_memory_has_a_folder() -> None:
    ctx = guest(live=True)
    (dev,) = plug.place(parse_device(MODULE.format("dimm", 128, "<node>0</node>")), ctx)
    assert isinstance(dev, Memory)
    assert not list(handler(dev).resources(dev, ctx))
    dev.access = "shared"
    (folder,) = handler(dev).resources(dev, ctx)
    assert isinstance(folder, DirectoryResource)
    plug.name([dev], ctx)
    backend = plug.steps([dev], ctx)[0][1]
    assert str(backend.arguments["mem-path"]).startswith(f"{folder.path}/")
