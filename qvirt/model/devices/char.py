"""Character devices: ``<serial>``, ``<parallel>``, ``<console>``, ``<channel>``."""

import ipaddress

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.chardev import CharDevice
from qvirt.xml.codecs import integer, refusing, string, uint
from qvirt.xml.fields import attr, part
from qvirt.xml.node import Node

#: serial target type -> models it may have
SERIAL_MODELS: dict[str, tuple[str, ...]] = {
    "isa-serial": ("isa-serial",),
    "usb-serial": ("usb-serial",),
    "pci-serial": ("pci-serial",),
    "spapr-vio-serial": ("spapr-vty",),
    "system-serial": ("pl011", "16550a"),
    "sclp-serial": ("sclpconsole", "sclplmconsole"),
    "isa-debug": ("isa-debugcon",),
}
CONSOLE_TARGETS = ("serial", "xen", "uml", "virtio", "lxc", "openvz", "sclp", "sclplm")
CHANNEL_TARGETS = ("guestfwd", "virtio", "xen")


#: -1 stands for "the next one"
_PORT = refusing(integer, lambda text: XmlError(f"Invalid port number: {text}"))


def _unknown(what: str, word: str) -> ConfigUnsupported:
    return ConfigUnsupported(
        f"unknown target {what} '{word}' specified for character device", domain=ErrorDomain.DOMAIN
    )


class SerialModel(Node, tag="model"):
    name: str | None = attr(string)

    def check(self) -> None:
        if self.name is not None and not any(self.name in models for models in SERIAL_MODELS.values()):
            raise _unknown("model", self.name)


class SerialTarget(Node, tag="target"):
    """``<target>`` of a serial port; ``port`` is its number in the guest."""

    type: str | None = attr(string)
    port: int | None = attr(_PORT)
    model: SerialModel = part(SerialModel)

    def check(self) -> None:
        if self.port == -1:
            self.port = None
        if self.type is not None and self.type not in SERIAL_MODELS:
            raise _unknown("type", self.type)


class ParallelTarget(Node, tag="target"):
    type: str | None = attr(string)
    port: int | None = attr(_PORT)

    def check(self) -> None:
        if self.port == -1:
            self.port = None
        self.type = None  # there are no kinds of parallel ports


class ConsoleTarget(Node, tag="target"):
    """``<target>`` of a console; ``serial`` means: the first serial port under another name."""

    type: str | None = attr(string)
    port: int | None = attr(_PORT)

    def check(self) -> None:
        if self.type is not None and self.type not in CONSOLE_TARGETS:
            raise _unknown("type", self.type)


class ChannelTarget(Node, tag="target"):
    """``<target>`` of a channel: a named virtio port, or a TCP address the guest's user network forwards.

    state: ``connected`` or ``disconnected``; said of running guests only.
    """

    type: str | None = attr(string)
    address: str | None = attr(string)
    port: int | None = attr(uint)
    name: str | None = attr(string)
    state: str | None = attr(string)

    def check(self) -> None:
        if self.type is None:
            return
        if self.type not in CHANNEL_TARGETS:
            raise _unknown("type", self.type)
        if self.type != "guestfwd":
            self.__dict__.pop("address", None)
            self.__dict__.pop("port", None)
            return
        self.__dict__.pop("name", None)
        if self.address is None:
            raise XmlError("guestfwd channel does not define a target address")
        try:
            version = ipaddress.ip_address(self.address).version
        except ValueError:
            raise XmlError(f"Invalid address '{self.address}'") from None
        if version != 4:
            raise ConfigUnsupported(
                "guestfwd channel only supports IPv4 addresses", domain=ErrorDomain.DOMAIN
            )
        if self.port is None:
            raise XmlError("Missing required attribute 'port' in element 'target'", domain=ErrorDomain.XML)


class Serial(CharDevice, tag="serial"):
    """``<serial>``: a serial port."""

    target: SerialTarget = part(SerialTarget)


#: ports an ISA machine has room for
MAX_ISA_PORTS = 4


def number_isa_ports(serials: list[Serial]) -> None:
    """Give the ports that are said to be ISA ones the lowest numbers that are free.

    Raises InternalError when there are more than a machine has, or two want the same number.
    """
    isa = [serial.target for serial in serials if serial.target.type == "isa-serial"]
    taken: set[int] = set()
    for target in isa:
        if target.port is None:
            continue
        if target.port >= MAX_ISA_PORTS:
            raise _too_many_isa_ports()
        if target.port in taken:
            raise InternalError(f"target port '{target.port}' already allocated", domain=ErrorDomain.DOMAIN)
        taken.add(target.port)
    for target in isa:
        if target.port is None:
            free = next((port for port in range(MAX_ISA_PORTS) if port not in taken), None)
            if free is None:
                raise _too_many_isa_ports()
            target.port = free
            taken.add(free)


def _too_many_isa_ports() -> InternalError:
    return InternalError(
        f"Maximum supported number of ISA serial ports is '{MAX_ISA_PORTS}'", domain=ErrorDomain.DOMAIN
    )


class Parallel(CharDevice, tag="parallel"):
    """``<parallel>``: a parallel port."""

    target: ParallelTarget = part(ParallelTarget)


class Console(CharDevice, tag="console"):
    """``<console>``: what the guest uses as its console.

    The first one of target type ``serial`` is the first serial port seen again: it has nothing of its own,
    and is written from that port (see ``Devices``). tty: the pty of a running guest, once more.
    """

    tty: str | None = attr(string)
    target: ConsoleTarget = part(ConsoleTarget)

    @classmethod
    def of_serial(cls, serial: Serial) -> "Console":
        """Return the console that shows a serial port."""
        console = cls()
        twin = serial.copy()
        for name, value in twin.__dict__.items():
            if name != "target":
                console.__dict__[name] = value
        console.target = ConsoleTarget(type="serial", port=twin.target.port)
        if serial.type == "pty" and serial.path is not None:
            console.tty = serial.path
        return console

    def forget_own(self) -> None:
        """Drop the alias and address, which are the serial port's."""
        for name in ("alias", "acpi", "address"):
            self.__dict__.pop(name, None)


#: by which the daemon and the guest's agent talk
AGENT_CHANNEL = "org.qemu.guest_agent.0"


class Channel(CharDevice, tag="channel"):
    """``<channel>``: a private line between the host and a program in the guest."""

    target: ChannelTarget = part(ChannelTarget)

    @property
    def is_agent(self) -> bool:
        """Tell whether it leads to the guest's agent."""
        return self.target.type == "virtio" and self.target.name == AGENT_CHANNEL

    def check(self) -> None:
        said = "target" in self.__dict__
        if self.target.type is None:
            if said:
                raise ConfigUnsupported("unknown target type '(null)' specified for character device")
            raise XmlError("target type must be specified for channel device")
        super().check()
