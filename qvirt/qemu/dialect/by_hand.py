"""What of a start's records only a daemon needs, and what it opens or counts for QEMU, as one would type it.

Taps, USB devices and the chipset's own USB are named, ports of the machine are ``-serial``, a mainframe's
devices are in the order of their numbers; the monitor, the master key and the daemon's folders are left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from qvirt.model.devices.chardev import CharDevice
from qvirt.model.devices.controller import Controller
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.devices.rng import Rng
from qvirt.model.devices.sound import Sound
from qvirt.qemu.boards import board
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.audio import audiodev_id
from qvirt.qemu.devices.hostdev import usb_names
from qvirt.qemu.devices.interface import QEMUS_SCRIPTS, own_scripts
from qvirt.qemu.dialect.bare import port_word
from qvirt.qemu.dialect.machine import BOOT_LETTERS
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.launch_security import spawning
from qvirt.qemu.machines import has_builtin_fdc, is_x86
from qvirt.qemu.memory import huge_folders
from qvirt.qemu.switches import (
    Audiodev,
    Chardev,
    Device,
    KeyValue,
    Netdev,
    Object,
    Option,
    Switch,
    drop_none,
)


def by_hand(switches: Sequence[Switch], ctx: BuildContext) -> Iterator[Switch]:
    """Yield a start's switches without what only a daemon says and opens."""
    kept = _by_number(_on_first_ports(_ports(switches, ctx)))
    yield from spawning(_in_letters(_own_names(_known_chardevs(_memory(_named(kept, ctx), ctx)), ctx), ctx))


def _named(switches: Sequence[Switch], ctx: BuildContext) -> Iterator[Switch]:
    """Yield the switches with the names one types, and without the daemon's own."""
    secrets = [switch for switch in switches if _is_secret(switch)]
    onboard = _onboard_usb(switches, ctx)
    for switch in switches:
        origin = switch.origin
        if onboard:
            if any(switch is one for one in onboard):
                continue
            switch = _on_usb(switch, onboard)
        if isinstance(switch, Option) and switch.name in ("S", "no-shutdown"):
            continue
        if isinstance(origin, Sound) and isinstance(switch, Option):  # -soundhw pcspk, which went with 7.1
            switch = KeyValue(
                "machine", {"pcspk-audiodev": audiodev_id(ctx.domain, origin.audio)}, origin=origin
            )
        if isinstance(switch, Chardev) and switch.props.get("id") == "charmonitor":
            continue
        if isinstance(switch, KeyValue) and (switch.name == "mon" or _is_boards_own(switch, ctx)):
            continue
        if _is_secret(switch) and len(secrets) == 1 and _is_master(switch):
            continue
        if isinstance(origin, Rng) and origin.backends and origin.backends[0].model == "builtin":
            if isinstance(switch, Device):  # QEMU has such a source by itself
                props = {key: value for key, value in switch.props.items() if key != "rng"}
                yield Device(props, origin=origin)
            continue
        if isinstance(switch, Netdev) and isinstance(origin, Interface):
            yield _tap(switch, origin)
        elif isinstance(switch, Device) and isinstance(origin, Hostdev):
            yield _usb(switch, origin)
        elif isinstance(switch, Device) and "vhostfd" in switch.props:
            props = {key: value for key, value in switch.props.items() if key != "vhostfd"}
            yield Device(props, origin=origin)
        elif isinstance(switch, Audiodev):
            props = {"driver": switch.props["driver"], **switch.props}
            yield KeyValue("audiodev", props, "driver", origin=origin)
        else:
            yield switch


# ------------------------------------------------------------ memory, names, boot order


#: where memory is in a file of nobody else's
_SHARED_MEMORY = "/dev/shm"  # noqa: S108


def _memory(switches: Iterable[Switch], ctx: BuildContext) -> Iterator[Switch]:
    """Yield the switches with memory in files where one has such, not in the daemon's folders."""
    huge = huge_folders(ctx)
    for switch in switches:
        path = switch.props.get("mem-path") if isinstance(switch, Object) else None
        if isinstance(switch, Object) and isinstance(path, str):
            if path in huge:  # QEMU makes a file of its own in it
                path = huge[path]
            elif path.startswith(f"{ctx.settings.memory_backing_dir}/"):
                path = _SHARED_MEMORY
            switch = Object({**switch.props, "mem-path": path}, origin=switch.origin)
        yield switch


_USERS = "ua-"


def _own_names(switches: Iterable[Switch], ctx: BuildContext) -> Iterator[Switch]:
    """Yield the switches with the names users gave their devices, without the mark XML wants.

    What is handed on may use the names as they are.
    """
    kept = list(switches)
    words = ctx.domain.qemu_commandline
    handed = " ".join(arg.value for arg in words.args) if words is not None else ""
    ids = {str(switch.props.get("id")) for switch in kept if isinstance(switch, Device)}
    names = {
        id: id.removeprefix(_USERS)
        for id in ids
        if id.startswith(_USERS) and id.removeprefix(_USERS) not in ids and id not in handed
    }
    for switch in kept:
        if not isinstance(switch, Device):
            yield switch
            continue
        props = dict(switch.props)
        for key in ("id", "bus", "masterbus"):
            name, dot, number = str(props.get(key)).partition(".")
            if name in names:
                props[key] = f"{names[name]}{dot}{number}"
        yield Device(props, origin=switch.origin)


#: chardevs by the device in front, as the documentation of QEMU and SPICE calls them, and the first number
_KNOWN = (
    (re.compile(r"usb-redir$"), "usbredirchardev{}", 1),
    (re.compile(r"ccid-card-passthru$"), "ccid", 0),
    (re.compile(r"vhost-user"), "char{}", 0),
)


def _known_chardevs(switches: Iterable[Switch]) -> Iterator[Switch]:
    """Yield the switches with the names for character devices that are in everybody's scripts."""
    kept = list(switches)
    counts: dict[str, int] = {}
    names: dict[JsonValue, str] = {}
    for switch in kept:
        if not isinstance(switch, (Device, Netdev)) or "chardev" not in switch.props:
            continue
        kind = str(switch.props["driver"] if isinstance(switch, Device) else switch.props["type"])
        for pattern, name, first in _KNOWN:
            if pattern.match(kind):
                number = counts[name] = counts.get(name, first - 1) + 1
                names[switch.props["chardev"]] = name.format(number)
    for switch in kept:
        if isinstance(switch, Chardev) and switch.props.get("id") in names:
            switch = Chardev(
                switch.backend, {**switch.props, "id": names[switch.props["id"]]}, origin=switch.origin
            )
        elif isinstance(switch, (Device, Netdev)) and switch.props.get("chardev") in names:
            props = {**switch.props, "chardev": names[switch.props["chardev"]]}
            switch = type(switch)(props, origin=switch.origin)
        yield switch


def _in_letters(switches: Iterable[Switch], ctx: BuildContext) -> Iterator[Switch]:
    """Yield the switches with ``-boot order=`` for a PC that boots from its own floppy drive, too."""
    words = [boot.dev for boot in ctx.domain.os.boots]
    if "fd" not in words or not has_builtin_fdc(ctx.domain):
        yield from switches
        return
    order = "".join(BOOT_LETTERS[word] for word in words)
    for switch in switches:
        if isinstance(switch, KeyValue) and switch.name == "boot":
            switch = KeyValue("boot", {"order": order, **switch.props}, switch.implied, origin=switch.origin)
        elif isinstance(switch, KeyValue) and any(
            key.startswith("isa-fdc.bootindex") for key in switch.props
        ):
            continue
        elif isinstance(switch, Device):
            props = {key: value for key, value in switch.props.items() if key != "bootindex"}
            switch = Device(props, origin=switch.origin)
        yield switch


def _is_boards_own(switch: KeyValue, ctx: BuildContext) -> bool:
    """Tell whether ``-smp`` says as many CPUs as the board has by itself, and the document no topology."""
    domain = ctx.domain
    if switch.name != "smp" or (domain.cpu is not None and domain.cpu.topology is not None):
        return False
    own = board(ctx.caps.target, domain.os.type.machine or "").cpus
    return own > 1 and switch.props.get("cpus") == own and "maxcpus" not in switch.props


# ------------------------------------------------------------ ports


#: how a port's server is told
_LISTENS = ",server=on,wait=off"
#: kinds of line that ``-serial`` has a word for which says all there is
_SHORT_LINES = frozenset({"null", "vc", "pty", "stdio", "dev", "file", "pipe", "unix", "tcp", "udp"})


def _ports(switches: Sequence[Switch], ctx: BuildContext) -> list[Switch]:
    """Return the switches with the machine's own ports as ``-serial``, if all of them can be."""
    devices = ctx.domain.devices
    kept = list(switches)
    for ports in (devices.serials, devices.parallels):
        made = [_port(port, number, switches) for number, port in enumerate(ports)]
        if None in made:
            continue
        for port, (backend, frontend) in zip(ports, (pair for pair in made if pair), strict=True):
            kept.remove(backend)
            word = Option(port.tag, port_word(port, listens=_LISTENS), origin=port)
            kept[next(at for at, switch in enumerate(kept) if switch is frontend)] = word
    return kept


def _port(port: CharDevice, number: int, switches: Sequence[Switch]) -> tuple[Switch, Switch] | None:
    """Return backend and frontend of a port that is the machine's own there and says nothing special."""
    source = port.source
    texts = f"{source.path or ''}{source.host or ''}{source.service or ''}"
    is_plain = port.type in _SHORT_LINES and not port.logs and source.append is None
    if not is_plain or source.reconnect is not None or source.tls or set(",:@[") & set(texts):
        return None
    own = [switch for switch in switches if switch.origin is port]
    if len(own) != 2 or not isinstance(own[0], Chardev):
        return None
    frontend = own[1]
    if isinstance(frontend, Device):
        props = drop_none(frontend.props)
        said = {key: value for key, value in props.items() if key not in ("id", "chardev")}
        if said not in ({"driver": "isa-serial", "index": number}, {"driver": "isa-parallel"}):
            return None
    return own[0], frontend


# ------------------------------------------------------------ a mainframe's numbers


def _by_number(switches: Iterable[Switch]) -> list[Switch]:
    """Return the switches with a mainframe's devices in the order of their numbers.

    Numbers that are those QEMU counts up by itself are left out.
    """
    kept = list(switches)
    found = [switch for switch in kept if isinstance(switch, Device) and switch.props.get("devno")]
    found.sort(key=lambda switch: str(switch.props["devno"]))
    counted = [f"fe.0.{number:04x}" for number in range(len(found))]
    if not found or [switch.props["devno"] for switch in found] != counted:
        return kept
    first = next(at for at, switch in enumerate(kept) if any(switch is one for one in found))
    kept = [switch for switch in kept if not any(switch is one for one in found)]
    kept[first:first] = [
        Device({key: value for key, value in one.props.items() if key != "devno"}, origin=one.origin)
        for one in found
    ]
    return kept


# ------------------------------------------------------------ USB


#: how many ports the controllers have that give them out from the first on
_USB_PORTS = {"piix3-usb-uhci": 2, "piix4-usb-uhci": 2, "ich9-usb-ehci1": 6, "usb-ehci": 6, "pci-ohci": 3}
_XHCI_PORTS = 4


def _on_first_ports(switches: Sequence[Switch]) -> Iterator[Switch]:
    """Yield the switches without the ports of USB devices that QEMU would choose by itself."""
    devices = [switch for switch in switches if isinstance(switch, Device)]
    sizes = {f"{one.props.get('id')}.0": _port_count(one) for one in devices}
    on_bus: dict[str, list[Device]] = {}
    for device in devices:
        if "port" in device.props and device.props.get("bus") in sizes:
            on_bus.setdefault(str(device.props["bus"]), []).append(device)
    counted = [
        device
        for bus, listed in on_bus.items()
        if len(listed) < sizes[bus]  # QEMU puts a hub into the last one
        and [device.props["port"] for device in listed] == [str(number + 1) for number in range(len(listed))]
        for device in listed
    ]
    for switch in switches:
        if isinstance(switch, Device) and any(switch is one for one in counted):
            props = {key: value for key, value in switch.props.items() if key != "port"}
            switch = Device(props, origin=switch.origin)
        yield switch


def _port_count(controller: Device) -> int:
    driver = str(controller.props["driver"])
    if driver.endswith("-xhci"):
        said = [controller.props.get(name, _XHCI_PORTS) for name in ("p2", "p3")]
        return min(number for number in said if isinstance(number, int))
    return _USB_PORTS.get(driver, 0)


#: the chipsets' own USB controllers: where each is, and what kind
_ONBOARD_USB: tuple[Mapping[str, str], ...] = (
    {"0x1.0x2": "piix3-usb-uhci"},
    {
        "0x1d": "ich9-usb-uhci1",
        "0x1d.0x1": "ich9-usb-uhci2",
        "0x1d.0x2": "ich9-usb-uhci3",
        "0x1d.0x7": "ich9-usb-ehci1",
    },
)
_ONBOARD_BUS = "usb-bus.0"


def _onboard_usb(switches: Sequence[Switch], ctx: BuildContext) -> list[Device]:
    """Return the controllers that are the chipset's own, which one word switches on."""
    if not is_x86(ctx.domain):
        return []
    found = {
        str(switch.props.get("addr")): switch
        for switch in switches
        if isinstance(switch, Device)
        and isinstance(switch.origin, Controller)
        and switch.props.get("bus") in ("pci.0", "pcie.0")
    }
    for wanted in _ONBOARD_USB:
        these = {where: found[where] for where in wanted if where in found}
        if {where: one.props["driver"] for where, one in these.items()} == dict(wanted):
            return list(these.values())
    return []


def _on_usb(switch: Switch, onboard: Sequence[Device]) -> Switch:
    """Return a switch with the chipset's USB on, and its bus by the name it has then."""
    if isinstance(switch, KeyValue) and switch.name == "machine" and "usb" in switch.props:
        return KeyValue("machine", {**switch.props, "usb": True}, switch.implied, origin=switch.origin)
    buses = {f"{one.props['id']}.0" for one in onboard if "id" in one.props}
    if isinstance(switch, Device) and switch.props.get("bus") in buses:
        return Device({**switch.props, "bus": _ONBOARD_BUS}, origin=switch.origin)
    return switch


def _is_secret(switch: Switch) -> bool:
    return isinstance(switch, Object) and switch.props.get("qom-type") == "secret"


def _is_master(switch: Switch) -> bool:
    return isinstance(switch, Object) and switch.props.get("id") == "masterKey0"


def _tap(switch: Netdev, dev: Interface) -> Switch:
    """Return a tap that QEMU opens itself, by its name, or the bridge that its helper plugs one into."""
    if switch.props["type"] == "vhost-vdpa" and dev.source is not None:
        return Netdev({**switch.props, "vhostdev": dev.source.dev}, origin=dev)
    if switch.props["type"] != "tap" or dev.actual_type not in (InterfaceType.ETHERNET, InterfaceType.BRIDGE):
        return switch
    id = switch.props["id"]
    source = dev.source
    if dev.actual_type == InterfaceType.BRIDGE and dev.target.dev is None and source is not None:
        return Netdev({"type": "bridge", "id": id, "br": source.bridge}, origin=dev)
    kept: dict[str, JsonValue] = {
        key: value
        for key, value in switch.props.items()
        if key not in ("fd", "fds") and not key.startswith("vhost")
    }
    kept["ifname"] = dev.target.dev
    for name, own in QEMUS_SCRIPTS.items():
        path = own_scripts(dev).get(name, "no")
        if path != own:
            kept[name] = path
    if dev.is_virtio and dev.driver.name == "vhost":
        kept["vhost"] = True
    if dev.driver.queues:
        kept["queues"] = dev.driver.queues
    return Netdev(kept, origin=dev)


def _usb(switch: Device, dev: Hostdev) -> Switch:
    """Return a USB device by the name the document has for it: whichever is plugged in."""
    source = dev.source
    if not dev.is_subsystem("usb") or source is None or source.vendor is None or source.product is None:
        return switch
    props = {
        key: value for key, value in switch.props.items() if key not in ("hostdevice", "hostbus", "hostaddr")
    }
    return Device({**props, **usb_names(source.vendor, source.product)}, origin=dev)
