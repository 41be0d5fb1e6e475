"""``<hostdev>``: a device of the host given to the guest.

The address in ``<source>`` is written differently for each type, so it becomes one of the ``…Source`` address
classes once the type is known.
"""

from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.address import check_pci, pci_name, pci_number
from qvirt.model.devices.device import Device
from qvirt.model.storage_source import Auth, Initiator
from qvirt.xml.codecs import Codec, hex4, on_off, string, uint, ulong, uuid, words, yes_no
from qvirt.xml.fields import attr, child, children, flag, part
from qvirt.xml.node import Node


class HostAddress(Node, tag="address"):
    """Base: which device of the host."""


class SpokenHostAddress(HostAddress, tag="address"):
    """The address as it was read, before the hostdev's type says what the words mean."""

    type: str | None = attr(string)
    domain: str | None = attr(string)
    bus: str | None = attr(string)
    slot: str | None = attr(string)
    function: str | None = attr(string)
    device: str | None = attr(string)
    port: str | None = attr(string)
    target: str | None = attr(string)
    unit: str | None = attr(string)
    uuid: str | None = attr(string)


class PciHostAddress(HostAddress, tag="address"):
    """A PCI function of the host."""

    domain: int = attr(pci_number(4), default=0)
    bus: int = attr(pci_number(2), default=0)
    slot: int = attr(pci_number(2), default=0)
    function: int = attr(pci_number(1), default=0)

    @property
    def name(self) -> str:
        """The name Linux and QEMU use: ``0000:06:12.5``."""
        return pci_name(self)


class UsbHostAddress(HostAddress, tag="address"):
    """A USB device of the host, by where it is plugged in now."""

    bus: int | None = attr(uint)
    device: int | None = attr(uint)
    port: str | None = attr(string)

    @property
    def name(self) -> str:
        """What libvirt's messages call the device: both numbers in octal."""
        return f"{self.bus or 0:03o}:{self.device or 0:03o}"


class ScsiHostAddress(HostAddress, tag="address"):
    """A SCSI device of the host, below its adapter."""

    bus: int = attr(uint, default=0)
    target: int = attr(uint, default=0)
    unit: int = attr(ulong, default=0)


class MdevHostAddress(HostAddress, tag="address"):
    """A mediated device."""

    uuid: str = attr(uuid, required=True)


class UsbId(Node):
    """``<vendor>`` or ``<product>``."""

    id: int = attr(hex4, required=True)

    def check(self) -> None:
        if not self.id:
            raise XmlError(
                f"Invalid value for attribute 'id' in element '{self.name}': Zero is not permitted"
            )

    @property
    def name(self) -> str:
        """What the number is of."""
        return self.tag


class VendorId(UsbId, tag="vendor"):
    """``<vendor>``."""


class ProductId(UsbId, tag="product"):
    """``<product>``."""


class ScsiAdapter(Node, tag="adapter"):
    name: str = attr(string, required=True)


class IscsiHost(Node, tag="host"):
    name: str | None = attr(string)
    port: str | None = attr(string)
    transport: str | None = attr(string)
    socket: str | None = attr(string)


class HostdevSource(Node, tag="source"):
    """``<source>``: the device of the host. missing: it was not there, and the guest runs without it."""

    startup_policy: str | None = attr(
        words("default", "mandatory", "requisite", "optional"), "startupPolicy", omit="default"
    )
    missing: bool | None = attr(yes_no, omit=False)
    guest_reset: str | None = attr(
        words("default", "off", "uninitialized", "on"), "guestReset", omit="default"
    )
    write_filtering: bool | None = attr(yes_no, "writeFiltering")
    protocol: str | None = attr(string)
    name: str | None = attr(string)
    wwpn: str | None = attr(string)
    adapter: ScsiAdapter | None = child(ScsiAdapter)
    vendor: VendorId | None = child(VendorId)
    product: ProductId | None = child(ProductId)
    address: HostAddress | None = child(SpokenHostAddress)
    hosts: list[IscsiHost] = children(IscsiHost)
    auth: Auth | None = child(Auth)
    initiator: Initiator | None = child(Initiator)


#: what a source says of devices of some types alone, and is left out of others
_OF_TYPES = {
    "guest_reset": ("usb",),
    "vendor": ("usb",),
    "product": ("usb",),
    "write_filtering": ("pci",),
    "protocol": ("scsi", "scsi_host"),
    "name": ("scsi",),
    "adapter": ("scsi",),
    "hosts": ("scsi",),
    "auth": ("scsi",),
    "initiator": ("scsi",),
    "wwpn": ("scsi_host",),
}


class HostdevDriver(Node, tag="driver"):
    name: str | None = attr(words("default", "kvm", "vfio", "xen"), omit="default")


class HostdevTeaming(Node, tag="teaming"):
    type: str | None = attr(string)
    persistent: str | None = attr(string)


#: libvirt takes whatever is not "yes" for a no
_managed: Codec[bool] = Codec(lambda text: text == "yes", yes_no.format, yes_no.expects)


class Hostdev(Device, tag="hostdev"):
    """``<hostdev>``."""

    mode: str = attr(string, default="subsystem")
    type: str | None = attr(string)
    managed: bool | None = attr(_managed)
    sgio: str | None = attr(string)
    rawio: bool | None = attr(yes_no)
    model: str | None = attr(string)
    display: bool | None = attr(on_off)
    ramfb: bool | None = attr(on_off)
    driver: HostdevDriver = part(HostdevDriver)
    source: HostdevSource | None = child(HostdevSource)
    teaming: HostdevTeaming | None = child(HostdevTeaming)
    readonly: bool = flag()
    shareable: bool = flag()

    def check(self) -> None:
        if self.source is not None:
            for name, types in _OF_TYPES.items():
                if name in self.source.__dict__ and self.type not in types:
                    del self.source.__dict__[name]
        if self.source is not None and isinstance(self.source.address, SpokenHostAddress):
            self.source.address = typed_address(self.source.address, self.type or "")

    @property
    def host_address(self) -> HostAddress | None:
        """The address of the device on the host."""
        return None if self.source is None else self.source.address

    def unplug(self) -> None:
        """Drop what only holds while the guest runs."""
        if self.source is not None:
            self.source.missing = None

    def is_subsystem(self, *types: str) -> bool:
        """Tell whether this is a device of one of the types."""
        return self.mode == "subsystem" and self.type in types


_CLASSES: dict[str, type[HostAddress]] = {
    "pci": PciHostAddress,
    "usb": UsbHostAddress,
    "scsi": ScsiHostAddress,
    "mdev": MdevHostAddress,
}


def typed_address(spoken: SpokenHostAddress, kind: str) -> HostAddress:
    """Read the words of an address as a hostdev type means them.

    Raises XmlError for a number that cannot be read and for a missing UUID.
    """
    cls = _CLASSES.get(kind)
    if cls is None:
        return spoken
    address = cls()
    address.line = spoken.line
    for field in cls._opening:
        text = getattr(spoken, field.name)
        if text is None:
            if field.required:
                raise ConfigUnsupported(
                    f"Missing '{field.wire}' attribute for element <address>{_at(spoken)}"
                )
            continue
        codec: Codec[object] = field.codec
        try:
            setattr(address, field.name, codec.parse(text))
        except ValueError:
            if cls is MdevHostAddress:
                raise InternalError("Cannot parse uuid attribute of element <address>") from None
            raise XmlError(
                f"Invalid value for attribute '{field.wire}' in element 'address': '{text}'.{codec.sentence}"
                f"{_at(spoken)}"
            ) from None
    if isinstance(address, PciHostAddress):
        check_pci(address.domain, address.bus, address.slot, address.function)
        for field in cls._opening:  # written in full, whatever the document left out
            setattr(address, field.name, getattr(address, field.name))
    return address


def _at(node: Node) -> str:
    return f" (line {node.line})" if node.line else ""
