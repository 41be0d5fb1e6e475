"""The plain dialect: today's emulator in the words one would type by hand.

It says ``key=value`` where a start says JSON, ``-drive`` where it says block nodes, and names what a start
opens and hands over: taps and scripts. What only a daemon needs is left out.
"""

from collections.abc import Iterator, Mapping, Sequence

from qvirt.model.devices.controller import Controller
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.devices.rng import Rng
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.ages import Version, parse_age
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_x86
from qvirt.qemu.switches import Audiodev, Chardev, Device, KeyValue, Netdev, Object, Option, Switch
from qvirt.record import Record, fields

NAME = "plain"

#: what is not said though the emulator takes it, or went from it long ago
_UNSAID = frozenset(
    {
        "@json", "@host-domain", "-blockdev", "-machine:pflash0", "-machine:pflash1", "-drive:serial",
        "-drive:boot", "-drive:addr", "-spice:seamless-migration", "-mem-prealloc", "-realtime:mlock",
        "-localtime", "-startdate", "-rtc-td-hack", "-no-kqemu", "-no-kvm", "-nodefconfig", "-sdl",
        "-soundhw", "-usbdevice", "-std-vga", "-vmwarevga", "pci-assign", "virtio-blk-pci.scsi",
    }
)  # fmt: skip
#: architectures whose emulators have -no-acpi
_HAVE_NO_ACPI = frozenset({"i686", "x86_64", "aarch64"})


class Plain(Record):
    """The plain dialect, where a release could stand."""


def parse_dialect(text: str) -> Version | Plain:
    """Read what ``--dialect`` names: a release, or ``plain``. Raises InvalidArg."""
    return Plain() if text == NAME else parse_age(text)


class PlainCaps(DialectCaps, slots=False):
    """An emulator that was asked, and what of its words is typed by hand."""

    def says(self, fact: str) -> bool:
        """Tell whether a fact holds and is made use of."""
        if fact in _UNSAID or fact.endswith(".virgl"):
            return False  # a card that draws has a type of its own
        if fact == "-no-acpi":
            return self.arch in _HAVE_NO_ACPI
        if fact.startswith(("@", "-")):
            return True
        type, _, property = fact.partition(".")
        known = self.properties.get(type)
        return type in self.types and (not property or known is None or property in known)

    def machine_has(self, machine: str, property: str) -> bool:
        """Tell whether a machine type has a property."""
        return EmulatorCaps.machine_has(self, machine, property)

    def has_option(self, option: str) -> bool:
        """Tell whether the command line has an option."""
        return EmulatorCaps.has_option(self, option)

    def option_has(self, option: str, parameter: str) -> bool:
        """Tell whether a switch takes a parameter."""
        return EmulatorCaps.option_has(self, option, parameter)

    def device_has(self, type: str, property: str) -> bool:
        """Tell whether a device type has a property."""
        return EmulatorCaps.device_has(self, type, property)

    def has_command(self, command: str) -> bool:
        """Tell whether the monitor has a command."""
        return EmulatorCaps.has_command(self, command)


def plain_caps(caps: EmulatorCaps) -> PlainCaps:
    """Return an emulator's capabilities as the plain dialect sees them."""
    return PlainCaps(**{name: getattr(caps, name) for name in fields(EmulatorCaps)}, facts=frozenset())


def by_hand(switches: Sequence[Switch], ctx: BuildContext) -> Iterator[Switch]:
    """Yield a start's switches without what only a daemon says and opens."""
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
        if isinstance(switch, Chardev) and switch.props.get("id") == "charmonitor":
            continue
        if isinstance(switch, KeyValue) and switch.name == "mon":
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
    kept["script"] = dev.script.path if dev.script is not None and dev.script.path else "no"
    kept["downscript"] = dev.downscript.path if dev.downscript is not None else "no"
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
    said = {"vendorid": f"{source.vendor.id:#06x}", "productid": f"{source.product.id:#06x}"}
    return Device({**props, **said}, origin=dev)
