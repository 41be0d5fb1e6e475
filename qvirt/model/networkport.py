"""``<networkport>``: a guest's place in a network; and what of a network's document decides about it."""

from qvirt.model.netdev import Bandwidth, PortOptions, VirtualPort, Vlan
from qvirt.xml.codecs import string, uint, uuid, yes_no
from qvirt.xml.fields import attr, child, children, part, text
from qvirt.xml.node import Node


class PortOwner(Node, tag="owner"):
    """The domain the port is for."""

    name: str | None = text(string, "name")
    uuid: str | None = text(uuid, "uuid")


class PortMac(Node, tag="mac"):
    address: str | None = attr(string)


class RxFilters(Node, tag="rxfilters"):
    trust_guest: bool | None = attr(yes_no, "trustGuest")


class Plug(Node, tag="plug"):
    """What the guest's interface is connected to: a bridge, or a device in one of macvtap's modes."""

    type: str | None = attr(string)
    bridge: str | None = attr(string)
    mac_table_manager: str | None = attr(string, "macTableManager")
    dev: str | None = attr(string)
    mode: str | None = attr(string)


class PortClass(Node, tag="class"):
    id: int | None = attr(uint, omit=0)


class NetworkPort(Node, tag="networkport"):
    """``<networkport>``, in the order libvirt writes it."""

    uuid: str | None = text(uuid, "uuid")
    owner: PortOwner = part(PortOwner)
    group: str | None = text(string, "group")
    mac: PortMac = part(PortMac)
    virtualport: VirtualPort | None = child(VirtualPort)
    bandwidth: Bandwidth | None = child(Bandwidth)
    vlan: Vlan | None = child(Vlan)
    port: PortOptions = part(PortOptions)
    rxfilters: RxFilters = part(RxFilters)
    plug: Plug = part(Plug)


class PortGroup(Node, tag="portgroup"):
    """A named set of settings for some of a network's guests."""

    name: str | None = attr(string)
    default: bool | None = attr(yes_no)
    trust_guest_rx_filters: bool | None = attr(yes_no, "trustGuestRxFilters")
    virtualport: VirtualPort | None = child(VirtualPort)
    bandwidth: Bandwidth | None = child(Bandwidth)
    vlan: Vlan | None = child(Vlan)


class PoolDevice(Node, tag="interface"):
    dev: str | None = attr(string)


class PlugForward(Node, tag="forward"):
    mode: str | None = attr(string)
    dev: str | None = attr(string)
    devices: list[PoolDevice] = children(PoolDevice)


class PlugBridge(Node, tag="bridge"):
    name: str | None = attr(string)
    mac_table_manager: str | None = attr(string, "macTableManager")


class PlugNetwork(Node, tag="network"):
    """The part of a network's live document that decides what its guests are plugged into."""

    name: str | None = text(string, "name")
    trust_guest_rx_filters: bool | None = attr(yes_no, "trustGuestRxFilters")
    forward: PlugForward | None = child(PlugForward)
    bridge: PlugBridge = part(PlugBridge)
    bandwidth: Bandwidth | None = child(Bandwidth)
    vlan: Vlan | None = child(Vlan)
    virtualport: VirtualPort | None = child(VirtualPort)
    port: PortOptions = part(PortOptions)
    portgroups: list[PortGroup] = children(PortGroup)

    def portgroup(self, name: str | None) -> PortGroup | None:
        """Return the group of a name, the default one where none is asked for; None without one."""
        for group in self.portgroups:
            if group.name == name if name is not None else group.default:
                return group
        return None
