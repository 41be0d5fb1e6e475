"""What boots: boot order, ``-boot``, kernel and initrd, firmware images, SMBIOS strings."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlDetail, XmlError
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.model.os import OsBoot
from qvirt.model.sysinfo import Entries, Sysinfo
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_q35, is_x86
from qvirt.qemu.switches import KeyValue, Option, Pairs, Switch
from qvirt.xml.codecs import uuid

#: which ``<boot dev>`` stands for a disk of a kind
_DISK_WORDS = {"disk": "hd", "lun": "hd", "cdrom": "cdrom", "floppy": "fd"}


def default_boot(ctx: Context) -> None:
    """Boot from the first hard disk when the document says nothing, refuse mixed ways of saying it."""
    domain = ctx.domain
    os = domain.os
    orders: dict[int, Device] = {}
    for dev in domain.devices.all():
        if dev.boot is None:
            continue
        if dev.boot.order in orders:
            raise XmlError(f"boot order '{dev.boot.order}' used for more than one device")
        orders[dev.boot.order] = dev
    if orders and os.boots:
        raise ConfigUnsupported("per-device boot elements cannot be used together with os/boot elements")
    if not orders and not os.boots:
        os.boots.append(OsBoot(dev="hd"))


def boot_indexes(domain: Domain) -> dict[int, int]:
    """Return the effective boot index of each device that has one, by ``id(device)``.

    A device's own ``<boot order>`` counts. With ``<boot dev>`` the index is the word's place in the list,
    given to the first disk of that kind or the first interface; a word without a device leaves a gap.
    """
    words = {boot.dev: place for place, boot in enumerate(domain.os.boots, start=1)}
    if not words:
        return {id(dev): dev.boot.order for dev in domain.devices.all() if dev.boot is not None}
    found: dict[int, int] = {}
    for disk in domain.devices.disks:
        place = words.pop(_DISK_WORDS.get(disk.device or "disk", ""), None)
        if place is not None:
            found[id(disk)] = place
    if "network" in words and domain.devices.interfaces:
        found[id(domain.devices.interfaces[0])] = words["network"]
    return found


def boot_index(dev: Device, domain: Domain) -> int | None:
    """Return the effective boot index of one device."""
    if not domain.os.boots:
        return dev.boot.order if dev.boot is not None else None
    return boot_indexes(domain).get(id(dev))


def boot_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield ``-boot``, the kernel and ACPI tables."""
    os = domain.os
    props: dict[str, JsonValue] = {}
    if os.bootmenu is not None and os.bootmenu.enable is not None:
        props["menu"] = os.bootmenu.enable
    if os.bootmenu is not None and os.bootmenu.enable and os.bootmenu.timeout is not None:
        props["splash-time"] = os.bootmenu.timeout
    if os.bios.reboot_timeout is not None:
        props["reboot-timeout"] = os.bios.reboot_timeout
    props["strict"] = True
    yield KeyValue("boot", props, origin=os)
    for name in ("kernel", "initrd"):
        path: str | None = getattr(os, name)
        if path:
            yield Option(name, path, origin=os)
    if os.cmdline:
        yield Option("append", os.cmdline, origin=os)
    if os.dtb:
        yield Option("dtb", os.dtb, origin=os)
    if os.acpi is not None and os.acpi.table is not None:
        yield KeyValue("acpitable", {"sig": "SLIC", "file": os.acpi.table.path or ""}, origin=os.acpi)


def power_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the sleep states the firmware offers."""
    for field, name in (("suspend_to_mem", "disable_s3"), ("suspend_to_disk", "disable_s4")):
        state = getattr(domain.pm, field) if "pm" in domain.__dict__ else None
        if state is not None and state.enabled is not None:
            device = "ICH9-LPC" if is_q35(domain) else "PIIX4_PM"
            yield Option("global", f"{device}.{name}={0 if state.enabled else 1}", origin=state)


def check_power(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for sleep states the machine cannot be told about."""
    for field, word in (("suspend_to_mem", "S3"), ("suspend_to_disk", "S4")):
        state = getattr(domain.pm, field) if "pm" in domain.__dict__ else None
        if state is None or state.enabled is None:
            continue
        device = "ICH9-LPC" if is_q35(domain) else "PIIX4_PM"
        if not is_x86(domain) or not ctx.caps.has_device(device):
            raise ConfigUnsupported(f"setting ACPI {word} not supported")


# ------------------------------------------------------------------ SMBIOS


def smbios_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the SMBIOS strings and the blobs for fw_cfg."""
    mode = domain.os.smbios.mode if domain.os.smbios is not None else "none"
    if mode == "host":
        raise ConfigUnsupported("Host SMBIOS information is not available")
    if mode == "sysinfo":
        source = next((x for x in domain.sysinfos if x.type == "smbios"), None)
        if source is None:
            raise XmlError(f"Domain '{domain.name}' sysinfo are not available")
        yield from _smbios(source)
    for sysinfo in domain.sysinfos:
        if sysinfo.type == "fwcfg":
            for entry in sysinfo.entries:
                key, value = ("string", entry.value) if entry.value else ("file", entry.file)
                yield KeyValue("fw_cfg", {"name": entry.name, key: value}, origin=sysinfo)


def _smbios(source: Sysinfo) -> Iterator[Switch]:
    boards: list[Entries] = list(source.base_boards)
    if len(boards) > 1:
        raise ConfigUnsupported("qemu does not support more than one entry to Type 2 in SMBIOS table")
    for number, table in (
        (0, source.bios),
        (1, source.system),
        *((2, x) for x in boards),
        (3, source.chassis),
    ):
        if table is None or not table.entries:
            continue
        props: dict[str, JsonValue] = {"type": number}
        props |= {entry.name or "": entry.value for entry in table.entries}
        yield KeyValue("smbios", props, origin=table)
    if source.oem_strings is not None and source.oem_strings.entries:
        pairs: list[tuple[str, JsonValue]] = [("type", 11)]
        pairs += [("value", entry.value) for entry in source.oem_strings.entries]
        yield Pairs("smbios", pairs, origin=source.oem_strings)


def default_uuid(ctx: Context) -> None:
    """Give the domain the UUID its SMBIOS tables show, or a new one."""
    domain = ctx.domain
    for sysinfo in domain.sysinfos:
        said = sysinfo.system.get("uuid") if sysinfo.system is not None else None
        if said is None:
            continue
        try:
            shown = uuid.parse(said)
        except ValueError:
            raise XmlDetail("malformed <sysinfo> uuid element") from None
        if domain.uuid is None:
            domain.uuid = shown
        elif shown != domain.uuid:
            raise XmlDetail("UUID mismatch between <uuid> and <sysinfo>")
    if domain.uuid is None:
        domain.uuid = ctx.generate_uuid()


def check_bios(domain: Domain) -> None:
    """Raise XmlError for firmware output that has nowhere to go."""
    if domain.os.bios.useserial and not domain.devices.serials:
        raise XmlError("need at least one serial port to use BIOS serial output")
