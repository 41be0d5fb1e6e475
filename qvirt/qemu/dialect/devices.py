"""How what is left is spelled: ``key=value`` for JSON, older names of types, properties that came later."""

from collections.abc import Callable, Iterator, Sequence

from qvirt.model.devices.disk import Disk, DiskDevice
from qvirt.model.devices.shmem import Shmem
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.dialect.machine import orders_by_index, preallocates
from qvirt.qemu.keyval import JsonValue, format_keyval
from qvirt.qemu.machines import is_x86
from qvirt.qemu.switches import Chardev, Device, KeyValue, Netdev, Object, Option, Pairs, Switch, drop_none

Props = dict[str, JsonValue]

_BY_DEVICE = (
    "write-cache", "share-rw", "device_id", "rotation_rate", "wwn", "vendor", "product", "removable",
    "logical_block_size", "physical_block_size", "event_idx", "ioeventfd", "tx", "iothread", "num-queues",
    "queue-size", "host_mtu", "rss", "hash", "rx_queue_size", "tx_queue_size", "packed", "page-per-vq",
    "deflate-on-oom", "free-page-reporting", "audiodev", "acpi-index", "vgamem_mb", "vram64_size_mb",
    "max_outputs", "xres", "yres", "hotplug", "failover", "failover_pair_id", "filter",
    "guest-reset", "guest-resets-all",
)  # fmt: skip
LATER: dict[str, str] = {
    **{name: "" for name in _BY_DEVICE},
    "multifunction": "@multifunction",
    "romfile": "@rom",
    "rombar": "@rom",
    "iommu_platform": "@iommu_platform",
    "ats": "@ats",
}
"""Properties that came after ``-device``, and the fact they came with; without one, each device's own."""

#: options that were once written without =on, and what =off was
_SHORT = {
    "server": ("server", None),
    "wait": (None, "nowait"),
    "telnet": ("telnet", None),
    "password": ("password", None),
    "sasl": ("sasl", None),
    "tls": ("tls", None),
    "unix": ("unix", None),
    "disable-ticketing": ("disable-ticketing", None),
    "disable-copy-paste": ("disable-copy-paste", None),
}
_BACKENDS = {"serial": "tty", "parallel": "parport"}


def rewrite(switches: Sequence[Switch], ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    """Yield the switches as this emulator reads them."""
    for switch in switches:
        origin = switch.origin
        if isinstance(origin, Shmem) and not caps.says("ivshmem-plain"):
            if isinstance(switch, Object):
                continue  # the device opens its memory itself
            if isinstance(switch, Device):
                switch = Device(_ivshmem(switch, origin), origin=origin)
        if isinstance(switch, Device):
            if switch.props["driver"] == "piix3-usb-uhci" and not caps.says("piix3-usb-uhci"):
                yield Option("usb", origin=switch.origin)
                continue
            props = _device_props(switch, ctx, caps)
            yield _spelled("device", "driver", props, switch, caps)
        elif isinstance(switch, Netdev):
            yield _spelled("netdev", "type", _netdev_props(switch.props), switch, caps)
        elif isinstance(switch, Object):
            yield _spelled("object", "qom-type", _object_props(switch.props, ctx, caps), switch, caps)
        elif isinstance(switch, Chardev):
            props = {"backend": _BACKENDS.get(switch.backend, switch.backend), **switch.props}
            yield _short("chardev", list(props.items()), "backend", switch, caps)
        elif isinstance(switch, KeyValue) and switch.name == "vnc":
            yield _short("vnc", list(switch.props.items()), _implied_vnc(switch, caps), switch, caps)
        elif isinstance(switch, Pairs) and switch.name == "spice":
            yield _short(switch.name, switch.props, switch.implied, switch, caps)
        else:
            yield switch


def _spelled(name: str, implied: str, props: Props, switch: Switch, caps: DialectCaps) -> Switch:
    """Write properties as pairs; a list repeats its key."""
    if caps.says("@json"):
        return switch
    pairs: list[tuple[str, JsonValue]] = [(implied, props[implied])]
    for key, value in props.items():
        if isinstance(value, list):
            pairs += [(key, item) for item in value]
        elif key != implied:
            pairs.append((key, value))
    return Pairs(name, pairs, implied, origin=switch.origin)


def _short(
    name: str, pairs: list[tuple[str, JsonValue]], implied: str | None, switch: Switch, caps: DialectCaps
) -> Switch:
    """Write options of a time when a flag was its name alone."""
    words = []
    for key, value in pairs:
        if value is None:
            continue
        short = _SHORT.get(key) if isinstance(value, bool) and not caps.says("@long-options") else None
        if short is not None:
            words.append(short[0] if value else short[1])
        else:
            words.append(format_keyval({key: value}, implied))
    return Option(name, ",".join(word for word in words if word), origin=switch.origin)


def _implied_vnc(switch: KeyValue, caps: DialectCaps) -> str | None:
    return switch.implied if caps.says("-vnc:vnc") else "vnc"


def _netdev_props(said: object) -> Props:
    props = drop_none(said)  # type: ignore[arg-type]
    forwards = props.get("guestfwd")
    if isinstance(forwards, list):
        props["id"] = f"user-{props['id']}"  # as libvirt had it, apart from the channel's own
        props["guestfwd"] = [forward["str"] for forward in forwards if isinstance(forward, dict)]
    return props


def _object_props(said: object, ctx: BuildContext, caps: DialectCaps) -> Props:
    props = drop_none(said)  # type: ignore[arg-type]
    props.pop("x-use-canonical-path-for-ramblock-id", None)
    if preallocates(ctx, caps):
        props.pop("prealloc", None)
    for key, value in props.items():
        if isinstance(value, bool):
            props[key] = "yes" if value else "no"
    nodes = props.get("host-nodes")
    if isinstance(nodes, list):
        props["host-nodes"] = list(_ranges([int(str(node)) for node in nodes]))
    return props


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Yield runs of numbers as QEMU's list visitor reads them: ``0-3`` or ``1``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    for run in parts:
        yield str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"


def _device_props(switch: Device, ctx: BuildContext, caps: DialectCaps) -> Props:
    props = drop_none(switch.props)
    driver = str(props["driver"])
    change = _DRIVERS.get(driver)
    if change is not None:
        props = change(props, caps)
        driver = str(props["driver"])
    origin = switch.origin
    if isinstance(origin, Disk) and driver.startswith("virtio-blk") and caps.says("virtio-blk-pci.scsi"):
        props.setdefault("scsi", origin.device == DiskDevice.LUN)
    kept = {
        key: value
        for key, value in props.items()
        if caps.says(LATER.get(key, "-device") or f"{driver}.{key}")
    }
    for key in ("reg", "port", "wwn"):
        if isinstance(kept.get(key), int):
            kept[key] = f"{kept[key]:#x}"
    if not orders_by_index(caps):
        kept.pop("bootindex", None)
    if kept.get("bus") == "pci.0" and not caps.says("@pci.0") and not is_x86(ctx.domain):
        kept["bus"] = "pci"
    return kept


def _ivshmem(switch: Device, dev: Shmem) -> Props:
    """Return the device that was both of today's: with memory of its own, or with a server's."""
    size = dev.size.value if dev.size is not None else (None if dev.server is not None else 4 << 20)
    props = {key: value for key, value in switch.props.items() if key not in ("memdev", "master")}
    own: Props = {"driver": "ivshmem", "size": f"{size >> 20}m" if size else None}
    if dev.server is None:
        own["shm"] = dev.name
    elif dev.msi is not None:
        own["msi"] = True
    role: Props = {"role": dev.role if dev.role is not None else None}
    return drop_none({**props, **own, **role})


def _usb_host(props: Props, caps: DialectCaps) -> Props:
    if caps.says("usb-host.hostdevice") or "hostdevice" not in props:
        return props
    bus, device = str(props.pop("hostdevice")).split("/")[-2:]
    return {**props, "hostbus": int(bus), "hostaddr": int(device)}


def _vfio(props: Props, caps: DialectCaps) -> Props:
    if not caps.says("vfio-pci"):
        props["driver"] = "pci-assign"
    if not caps.says("@host-domain"):
        props["host"] = str(props["host"]).removeprefix("0000:")
    return props


def _isa_serial(props: Props, caps: DialectCaps) -> Props:
    if not caps.says("isa-serial.index"):
        props.pop("index", None)
    return props


_DRIVERS: dict[str, Callable[[Props, DialectCaps], Props]] = {
    "usb-host": _usb_host,
    "vfio-pci": _vfio,
    "isa-serial": _isa_serial,
}
