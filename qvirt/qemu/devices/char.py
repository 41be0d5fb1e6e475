"""Serial and parallel ports, consoles and channels: defaults, checks, records, and what a start adds.

The first console of a guest is its first serial port under another name (``mirror_consoles``).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    InternalError,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
)
from qvirt.model.devices.address import CcwAddress, IsaAddress, PciAddress, VirtioSerialAddress
from qvirt.model.devices.char import (
    SERIAL_MODELS,
    Channel,
    Console,
    ConsoleTarget,
    Parallel,
    Serial,
    SerialTarget,
)
from qvirt.model.devices.chardev import CharDevice, CharSource
from qvirt.model.domain import Domain
from qvirt.qemu import machines
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices import char_live, chardev
from qvirt.qemu.devices.base import Handler, Resource
from qvirt.qemu.devices.placement import controller_alias, placement
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device, Netdev, Option, Switch

C = TypeVar("C", bound=CharDevice)

#: the port a SPICE server's own channel has in the guest
SPICE_AGENT = "com.redhat.spice.0"

#: serial target type -> the address it must have
_ADDRESSES = {
    "isa-serial": "isa",
    "isa-debug": "isa",
    "usb-serial": "usb",
    "pci-serial": "pci",
    "spapr-vio-serial": "spapr-vio",
}
#: models that are part of a board: they have no -device
_BUILT_IN = ("pl011", "16550a")


# ------------------------------------------------------------------- defaults


def default_serial_type(domain: Domain) -> str | None:
    """Return the kind of serial port a guest of this machine gets, None where the board decides."""
    if machines.is_x86(domain):
        return "isa-serial"
    if machines.is_pseries(domain):
        return "spapr-vio-serial"
    if machines.is_arm_virt(domain) or machines.is_riscv_virt(domain):
        return "system-serial"
    return "sclp-serial" if machines.is_s390(domain) else None


def default_serial_model(type: str, domain: Domain) -> str | None:
    """Return the model of a kind of serial port."""
    if type == "system-serial":
        if machines.is_arm_virt(domain):
            return "pl011"
        return "16550a" if machines.is_riscv_virt(domain) else None
    return SERIAL_MODELS[type][0]


def mirror_consoles(domain: Domain) -> None:
    """Make the first console and the first serial port one thing, as every libvirt guest has it.

    A lone ``<console>`` becomes a serial port; a guest whose first serial port can be a console gets one that
    shows it. Changes the domain; raises ConfigUnsupported when another console than the first is serial.
    """
    devices = domain.devices
    if any(console.target.type == "serial" for console in devices.consoles[1:]):
        raise ConfigUnsupported("Only the first console can be a serial port", domain=ErrorDomain.DOMAIN)
    if domain.os.type.value != "hvm":
        return
    if devices.consoles and devices.consoles[0].target.type == "serial":
        if not devices.serials:
            devices.serials.append(_serial_of(devices.consoles[0]))
        devices.consoles[0] = _stub(devices.serials[0])
    elif devices.serials and devices.serials[0].target.type not in ("isa-debug", "pci-serial", "usb-serial"):
        devices.consoles.insert(0, _stub(devices.serials[0]))


def _serial_of(console: Console) -> Serial:
    serial = Serial()
    for name, value in console.__dict__.items():
        if name not in ("target", "tty"):
            serial.__dict__[name] = value
    serial.target = SerialTarget(port=0)
    return serial


def _stub(serial: Serial) -> Console:
    return Console(type=serial.type, target=ConsoleTarget(type="serial", port=serial.target.port))


def _number(dev: Serial | Parallel, among: "list[Serial] | list[Parallel]") -> None:
    if dev.target.port is None:
        dev.target.port = max((-1 if x.target.port is None else x.target.port for x in among), default=-1) + 1


class _CharHandler(Handler[C]):
    """What the four kinds have in common."""

    live = True

    def validate(self, dev: C, ctx: Context) -> None:
        chardev.validate(dev, ctx)

    def resources(self, dev: C, ctx: Context) -> Iterable[Resource]:
        return chardev.resources(dev, dev, ctx)

    def prepare(self, dev: C, ctx: BuildContext) -> None:
        if dev.type == "tcp" and dev.source.tls is None:
            dev.source.tls = ctx.settings.chardev_tls

    def clash(self, dev: C, ctx: Context, *, live: bool) -> QvirtError | None:
        known: list[Any] = ctx.domain.devices.list_of(dev)
        is_there = any(self.same(dev, one, ctx) for one in known)
        return OperationInvalid("chardev already exists") if is_there else None

    def check_plug(self, dev: C, ctx: Context) -> None:
        char_live.check_plug(dev, "plugged into")

    def check_unplug(self, dev: C, ctx: Context) -> None:
        char_live.check_plug(dev, "taken from")

    def same(self, wanted: C, known: C, ctx: Context) -> bool:
        if wanted.type == "pty" and wanted.path not in (None, known.path):
            return False
        return super().same(wanted, known, ctx)

    def content(self, dev: C, ctx: Context) -> C:
        twin = super().content(dev, ctx)
        for source in twin.sources:
            source.tls = None  # a start says what the configuration says
        return twin

    def missing(self, dev: C, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return char_live.missing(dev, live=live)

    def backend(self, dev: C, ctx: BuildContext) -> Iterator[Switch]:
        """Yield the host side."""
        return chardev.switches(dev, dev, ctx, id=chardev_id(dev))


def chardev_id(dev: CharDevice) -> str:
    """Return the id of the device's chardev, which is what the monitor calls it."""
    return f"char{dev.alias.name}"


# ---------------------------------------------------------------------- serial


class SerialHandler(_CharHandler[Serial], kind=Serial):
    def left(self, dev: Serial, domain: Domain) -> None:
        if not domain.devices.serials or dev.target.port == 0:
            char_live.drop_mirror(domain)

    def defaults(self, dev: Serial, ctx: Context) -> None:
        target = dev.target
        _number(dev, ctx.domain.devices.serials)
        if target.type in (None, "isa-serial"):  # isa-serial was once written for "whatever is usual"
            target.type = default_serial_type(ctx.domain)
        if target.model.name is None and target.type is not None:
            target.model.name = default_serial_model(target.type, ctx.domain)
        chardev.settle(dev)

    def validate(self, dev: Serial, ctx: Context) -> None:
        if dev.type == "spicevmc":
            raise ConfigUnsupported("spicevmc device type only supports virtio", domain=ErrorDomain.DOMAIN)
        super().validate(dev, ctx)
        type, model = dev.target.type, dev.target.model.name
        if type is None:
            return
        wanted = _ADDRESSES.get(type)
        if wanted is not None and dev.address is not None and dev.address.type not in (wanted, "unassigned"):
            raise ConfigUnsupported(f"Target type '{type}' requires address type '{wanted}'")
        if wanted is None and dev.address is not None:
            raise ConfigUnsupported(f"Target type '{type}' cannot have an associated address")
        if model is None:
            return
        if model not in SERIAL_MODELS[type]:
            fitting = next(known for known, models in SERIAL_MODELS.items() if model in models)
            raise ConfigUnsupported(f"Target model '{model}' requires target type '{fitting}'")
        if not _fits(model, ctx.domain):
            raise ConfigUnsupported(
                f"Serial device with target type '{type}' and target model '{model}' not compatible with "
                "guest architecture or machine type"
            )
        if model not in _BUILT_IN and not ctx.caps.has_device(model):
            raise ConfigUnsupported(f"'{model}' is not supported in this QEMU binary")

    def switches(self, dev: Serial, ctx: BuildContext) -> Iterator[Switch]:
        yield from self.backend(dev, ctx)
        model = dev.target.model.name
        if model in _BUILT_IN or (not machines.is_x86(ctx.domain) and model is None):
            yield Option("serial", f"chardev:{chardev_id(dev)}", origin=dev)
            return
        if model is None:
            raise InternalError("Invalid target model for serial device")
        props: dict[str, JsonValue] = {"driver": model, "chardev": chardev_id(dev), "id": dev.alias.name}
        if model == "isa-serial":
            props["index"] = dev.target.port
        yield Device({**props, **placement(dev, ctx)}, origin=dev)


def _fits(model: str, domain: Domain) -> bool:
    if model == "spapr-vty":
        return machines.is_pseries(domain)
    if model in ("sclpconsole", "sclplmconsole"):
        return machines.is_s390(domain)
    if model == "pl011":
        return machines.is_arm_virt(domain)
    if model == "16550a":
        return machines.is_riscv_virt(domain)
    return True


# -------------------------------------------------------------------- parallel


class ParallelHandler(_CharHandler[Parallel], kind=Parallel):
    def defaults(self, dev: Parallel, ctx: Context) -> None:
        _number(dev, ctx.domain.devices.parallels)
        chardev.settle(dev)

    def validate(self, dev: Parallel, ctx: Context) -> None:
        if dev.type == "spicevmc":
            raise ConfigUnsupported("spicevmc device type only supports virtio", domain=ErrorDomain.DOMAIN)
        super().validate(dev, ctx)
        if machines.is_s390(ctx.domain) or machines.is_pseries(ctx.domain):
            raise ConfigUnsupported("parallel ports are not supported")

    def switches(self, dev: Parallel, ctx: BuildContext) -> Iterator[Switch]:
        yield from self.backend(dev, ctx)
        yield Device(
            {
                "driver": "isa-parallel",
                "chardev": chardev_id(dev),
                "id": dev.alias.name,
            },
            origin=dev,
        )


# --------------------------------------------------------------------- console


class ConsoleHandler(_CharHandler[Console], kind=Console):
    def defaults(self, dev: Console, ctx: Context) -> None:
        dev.__dict__.pop("tty", None)
        if dev.target.type is None:
            dev.target.type = "serial"
        for place, known in enumerate(ctx.domain.devices.consoles):
            if known is dev:
                dev.target.port = place
        chardev.settle(dev)

    def validate(self, dev: Console, ctx: Context) -> None:
        if dev.type == "spicevmc":
            raise ConfigUnsupported("spicevmc device type only supports virtio", domain=ErrorDomain.DOMAIN)
        if dev.target.type == "serial":
            return  # it is the serial port's backend that counts
        super().validate(dev, ctx)
        if dev.target.type in ("sclp", "sclplm"):
            model = f"{dev.target.type}console"
            if not ctx.caps.has_device(model):
                raise ConfigUnsupported(f"{model} is not supported in this QEMU binary")
        elif dev.target.type != "virtio":
            raise ConfigUnsupported(f"unsupported console target type {dev.target.type}")

    def clash(self, dev: Console, ctx: Context, *, live: bool) -> QvirtError | None:
        if not live and dev.target.type in (None, "serial"):
            return OperationUnsupported("attaching serial console is not supported")
        return super().clash(dev, ctx, live=live)

    def same(self, wanted: Console, known: Console, ctx: Context) -> bool:
        # the one that shows a serial port comes and goes with it
        return known.target.type != "serial" and super().same(wanted, known, ctx)

    def resources(self, dev: Console, ctx: Context) -> Iterable[Resource]:
        return () if dev.target.type == "serial" else super().resources(dev, ctx)

    def switches(self, dev: Console, ctx: BuildContext) -> Iterator[Switch]:
        if dev.target.type == "serial":
            return
        yield from self.backend(dev, ctx)
        if dev.target.type in ("sclp", "sclplm"):
            props: dict[str, JsonValue] = {
                "driver": f"{dev.target.type}console",
                "chardev": chardev_id(dev),
                "id": dev.alias.name,
            }
        else:
            props = {"driver": "virtconsole", **virtio_port(dev, ctx)}
        yield Device(props, origin=dev)


def virtio_port(dev: Console | Channel, ctx: Context) -> dict[str, JsonValue]:
    """Return the properties of a port on a virtio-serial controller. Raises InternalError off such a bus."""
    where = dev.address
    place: dict[str, JsonValue] = {}
    if isinstance(where, VirtioSerialAddress):
        bus = controller_alias("virtio-serial", where.controller or 0, ctx)
        place = {"bus": f"{bus}.{where.bus or 0}", "nr": where.port or 0}
    elif isinstance(where, CcwAddress):
        place = placement(dev, ctx)
    elif isinstance(where, (PciAddress, IsaAddress)):
        raise InternalError("virtio serial device has invalid address type")
    return {**place, "chardev": chardev_id(dev), "id": dev.alias.name}


# --------------------------------------------------------------------- channel


class ChannelHandler(_CharHandler[Channel], kind=Channel):
    def defaults(self, dev: Channel, ctx: Context) -> None:
        dev.target.__dict__.pop("state", None)
        if dev.target.type == "virtio" and not isinstance(dev.address, (VirtioSerialAddress, CcwAddress)):
            dev.address = None  # a channel sits on a port, whatever the document says
        chardev.settle(dev)
        if _path_is_generated(dev, ctx):
            dev.sources = []

    def validate(self, dev: Channel, ctx: Context) -> None:
        virtio = dev.target.type == "virtio"
        if dev.type == "spicevmc" and not virtio:
            raise ConfigUnsupported("spicevmc device type only supports virtio", domain=ErrorDomain.DOMAIN)
        chardev.validate(dev, ctx, path_generated=dev.target.type in ("virtio", "xen"))

    def prepare(self, dev: Channel, ctx: BuildContext) -> None:
        super().prepare(dev, ctx)
        if dev.type == "unix" and dev.path is None:
            dev.source.mode = "bind"
            dev.source.path = channel_path(dev, ctx)
        if dev.target.type == "virtio":
            dev.target.state = "disconnected"

    def switches(self, dev: Channel, ctx: BuildContext) -> Iterator[Switch]:
        shown = dev
        if dev.type == "unix" and dev.path is None:
            shown = dev.copy()
            shown.sources = [CharSource(mode="bind", path=channel_path(dev, ctx))]
        for made in self.backend(shown, ctx):
            made.origin = dev
            yield made
        if dev.target.type == "guestfwd":
            forward = f"tcp:{dev.target.address}:{dev.target.port}-chardev:{chardev_id(dev)}"
            yield Netdev({"type": "user", "guestfwd": [{"str": forward}], "id": dev.alias.name}, origin=dev)
        elif dev.target.type == "virtio":
            name = dev.target.name or (SPICE_AGENT if dev.type == "spicevmc" else None)
            if dev.type == "spicevmc" and name != SPICE_AGENT:
                raise ConfigUnsupported(f"Unsupported spicevmc target name '{name}'")
            yield Device({"driver": "virtserialport", **virtio_port(dev, ctx), "name": name}, origin=dev)
        else:
            raise ConfigUnsupported(f"channel target type '{dev.target.type}' is not supported by QEMU")


def channel_path(dev: Channel, ctx: BuildContext) -> str:
    """Return the socket a channel without a path gets for one start."""
    name = dev.target.name
    if name is None:
        where = dev.address
        numbers = (0, 0, 0)
        if isinstance(where, VirtioSerialAddress):
            numbers = (where.controller or 0, where.bus or 0, where.port or 0)
        name = "vioser-{:02d}-{:02d}-{:02d}.sock".format(*numbers)
    return f"{ctx.dirs.channel}/{ctx.folder_name}/{name}"


def _path_is_generated(dev: Channel, ctx: Context) -> bool:
    """Tell whether the path is one a start made up, by this version or an older one.

    The expression is libvirt's, whose alternation binds more loosely than it looks; people's documents
    depend on it.
    """
    if dev.type != "unix" or dev.target.type != "virtio" or dev.path is None:
        return False
    name = re.escape(dev.target.name) + "$" if dev.target.name is not None else ""
    pattern = f"^{re.escape(ctx.dirs.channel)}/([^/]+\\.)|(domain-[^/]+/){name}"
    return re.search(pattern, dev.path) is not None
