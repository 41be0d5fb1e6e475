"""``<networkport>``: one guest's place in a network."""

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.address import pci_name, pci_number
from qvirt.model.devices.interface import Mac
from qvirt.model.netdev import Bandwidth, PortOptions, VirtualPort, Vlan
from qvirt.xml.codecs import string, uint, uuid, words, yes_no
from qvirt.xml.document import parse
from qvirt.xml.fields import attr, child, part, text
from qvirt.xml.node import Node


class Owner(Node, tag="owner"):
    """The domain the port belongs to."""

    name: str | None = text(string)
    uuid: str | None = text(uuid)


class RxFilters(Node, tag="rxfilters"):
    trust_guest: bool | None = attr(yes_no, "trustGuest")


class PortDriver(Node, tag="driver"):
    name: str | None = attr(words("kvm", "vfio", "xen", "qemu"))


class PciPlace(Node, tag="address"):
    """A PCI device of the host."""

    type: str | None = attr(string)
    domain: int | None = attr(pci_number(4))
    bus: int | None = attr(pci_number(2))
    slot: int | None = attr(pci_number(2))
    function: int | None = attr(pci_number(1))


class PortPlug(Node, tag="plug"):
    """What the port is plugged into: network and bridge, direct or hostdev-pci."""

    type: str = attr(words("none", "network", "bridge", "direct", "hostdev-pci"), required=True)
    bridge: str | None = attr(string)
    dev: str | None = attr(string)
    mode: str | None = attr(words("vepa", "private", "bridge", "passthrough"))
    managed: bool | None = attr(yes_no)
    mac_table_manager: str | None = attr(words("kernel", "libvirt"), "macTableManager")
    driver: PortDriver = part(PortDriver)
    address: PciPlace | None = child(PciPlace)

    @property
    def of_host(self) -> str | None:
        """The name of the device of the host that it is plugged into: a link's, or a PCI function's."""
        return pci_name(self.address) if self.address is not None else self.dev


class PortBandwidth(Bandwidth, tag="bandwidth"):
    """A port's limits. class_id: the class of the bridge's traffic control that guarantees it its floor."""

    class_id: int | None = attr(uint, "classID", omit=0)


class NetworkPort(Node, tag="networkport"):
    """A port. portgroup: the group whose settings it has."""

    uuid: str | None = text(uuid)
    owner: Owner | None = child(Owner)
    group: str | None = text(string)
    mac: Mac = part(Mac)
    rxfilters: RxFilters = part(RxFilters)
    port: PortOptions = part(PortOptions)
    bandwidth: Bandwidth | None = child(PortBandwidth)
    vlan: Vlan | None = child(Vlan)
    virtualport: VirtualPort | None = child(VirtualPort)
    plug: PortPlug | None = child(PortPlug)

    @property
    def floor(self) -> int:
        """The rate that is kept for it, KiB a second; 0 for none."""
        inbound = self.bandwidth.inbound if self.bandwidth is not None else None
        return (inbound.floor or 0) if inbound is not None else 0

    @property
    def class_id(self) -> int | None:
        """The class of the bridge's that guarantees it its floor."""
        return self.bandwidth.class_id if isinstance(self.bandwidth, PortBandwidth) else None

    def check(self) -> None:
        if self.owner is None or not self.owner.name:
            raise ConfigUnsupported("No network port owner specified")
        if self.mac.address is None:
            raise ConfigUnsupported("No network port MAC")


def parse_network_port(xml: str, *, validate: bool = False) -> NetworkPort:
    """Read a network port's document. Raises XmlDetail, XmlError, XmlInvalidSchema."""
    return parse(xml, NetworkPort, "(networkport)", validate=validate)
