"""net-update: one section of a network's document changed, and its metadata; in libvirt's words."""

from collections.abc import Callable
from typing import TypeVar

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.constants.network import NetworkMetadataType
from qvirt.constants.network import NetworkUpdateCommand as Command
from qvirt.constants.network import NetworkUpdateSection as Section
from qvirt.drivers.network import validate, validate_ip
from qvirt.errors import InvalidArg, NoNetworkMetadata, OperationInvalid, OperationUnsupported, XmlError
from qvirt.model.domain import Metadata
from qvirt.model.netdev import parse_address, spell_mac
from qvirt.model.network import (
    DnsHost,
    DnsSrv,
    DnsTxt,
    Forward,
    ForwardInterface,
    ForwardMode,
    Network,
    NetworkDetail,
    PortGroup,
    naming,
)
from qvirt.model.network_ip import DhcpHost, DhcpRange, NetworkIp
from qvirt.xml.document import parse_element
from qvirt.xml.node import Node, Raw

N = TypeVar("N", bound=Node)
Used = Callable[[str], int]

_ADDS = (Command.ADD_FIRST, Command.ADD_LAST)
_UNSUPPORTED = {
    Section.BRIDGE: "bridge",
    Section.DOMAIN: "domain",
    Section.IP: "ip",
    Section.FORWARD: "forward",
    Section.FORWARD_PF: "forward pf",
}


def apply(
    network: Network, command: int, section: int, parent: int, xml: str, used: Used = lambda device: 0
) -> None:
    """Change a section of a document. parent: which ``<ip>``, -1 for any. used: guests of a device.

    Raises OperationUnsupported, OperationInvalid, XmlError.
    """
    if section in _UNSUPPORTED:
        raise OperationUnsupported(
            f"can't update '{_UNSUPPORTED[section]}' section of network '{network.name}'"
        )
    change = _SECTIONS.get(section)
    if change is None:
        raise OperationUnsupported("can't update unrecognized section of network")
    change(network, command, parent, xml, used)


def _read(network: Network, xml: str, cls: type[N]) -> N:
    root = parse_element(xml, "network_update_xml")
    if root.tag != cls.tag:
        raise XmlError(
            f"unexpected element <{root.tag}>, expecting <{cls.tag}>, while updating network '{network.name}'"
        )
    with naming(network.name):
        return cls.from_xml(root)


def _unknown(command: int) -> OperationUnsupported:
    return OperationUnsupported(f"unrecognized network update command code {command}")


def _insert(items: list[N], item: N, command: int) -> None:
    items.insert(0 if command == Command.ADD_FIRST else len(items), item)


def _add_or_delete(
    items: list[N], item: N, command: int, found: int | None, *, there: str, missing: str
) -> None:
    """Add what must not be there yet, or delete what must be.

    found: where the one that is meant stands; there, missing: the refusals.
    """
    if command in _ADDS:
        if found is not None:
            raise OperationInvalid(there)
        _insert(items, item, command)
    elif command == Command.DELETE:
        if found is None:
            raise OperationInvalid(missing)
        del items[found]
    else:
        raise _unknown(command)


def _ip(network: Network, parent: int) -> NetworkIp:
    """Return the ``<ip>`` that is meant: by its index, else the first with DHCP, else the first."""
    if parent >= 0:
        if parent >= len(network.ips):
            raise OperationInvalid(
                f"couldn't update dhcp host entry - no <ip> element found at index {parent} "
                f"in network '{network.name}'"
            )
        return network.ips[parent]
    for wanted in (
        lambda ip: ip.ranges or ip.hosts,
        lambda ip: ip.version == 4,
        lambda ip: True,
    ):
        for ip in network.ips:
            if wanted(ip):
                return ip
    raise OperationInvalid(
        f"couldn't update dhcp host entry - no <ip> element found in network '{network.name}'"
    )


# --------------------------------------------------------------------------- dhcp


def _dhcp_host(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    ip = _ip(network, parent)
    host = _read(network, xml, DhcpHost)
    validate_ip.check_host(host, ip, name, partial=command == Command.DELETE)
    if host.ip is not None and command != Command.DELETE and parse_address(host.ip).version != ip.version:
        raise OperationInvalid(
            "the address family of a host entry IP must match the address family of the dhcp element's parent"
        )
    hosts = ip.dhcp_or_new().hosts

    def touches(other: DhcpHost) -> bool:
        return (
            (host.mac is not None and _same_mac(host.mac, other.mac))
            or (host.id is not None and host.id == other.id)
            or (host.name is not None and host.name == other.name)
            or (host.ip is not None and host.ip == other.ip)
        )

    def is_meant(other: DhcpHost) -> bool:
        return (
            (host.mac is None or _same_mac(host.mac, other.mac))
            and (host.id is None or host.id == other.id)
            and (host.name is None or host.name == other.name)
            and (host.ip is None or host.ip == other.ip)
        )

    mac, called, address = host.mac or "unknown", host.name or "unknown", host.ip or "unknown"
    if command == Command.MODIFY:
        found = next((i for i, other in enumerate(hosts) if touches(other)), None)
        if found is None:
            raise OperationInvalid(
                f"couldn't locate an existing dhcp host entry with \"mac='{mac}'\" \"name='{called}'\" "
                f"\"ip='{address}'\" in network '{name}'"
            )
        hosts[found] = host
    elif command in _ADDS:
        _only_one(network, ip)
        if any(touches(other) for other in hosts):
            raise OperationInvalid(
                f"there is an existing dhcp host entry in network '{name}' that matches "
                f"\"<host mac='{mac}' name='{host.name or '(null)'}' ip='{address}'/>\""
            )
        _insert(hosts, host, command)
    elif command == Command.DELETE:
        found = next((i for i, other in enumerate(hosts) if is_meant(other)), None)
        if found is None:
            raise OperationInvalid(f"couldn't locate a matching dhcp host entry in network '{name}'")
        del hosts[found]
    else:
        raise _unknown(command)


def _only_one(network: Network, ip: NetworkIp) -> None:
    """Refuse DHCP on a second address of a family."""
    if any(
        other is not ip and other.version == ip.version and (other.ranges or other.hosts)
        for other in network.ips
    ):
        raise OperationInvalid(f"dhcp is supported only for a single IPv{ip.version} address on each network")


def _same_mac(one: str, other: str | None) -> bool:
    return other is not None and spell_mac(one) == spell_mac(other)


def _dhcp_range(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    ip = _ip(network, parent)
    range_ = _read(network, xml, DhcpRange)
    if command == Command.MODIFY:
        raise OperationUnsupported("dhcp ranges cannot be modified, only added or deleted")
    validate_ip.check_range(range_, ip, name)
    ranges = ip.dhcp_or_new().ranges
    found = next((i for i, r in enumerate(ranges) if (r.start, r.end) == (range_.start, range_.end)), None)
    if command in _ADDS:
        _only_one(network, ip)
    _add_or_delete(
        ranges,
        range_,
        command,
        found,
        there=f"there is an existing dhcp range entry in network '{name}' that matches "
        f"\"<range start='{range_.start}' end='{range_.end}'/>\"",
        missing=f"couldn't locate a matching dhcp range entry in network '{name}'",
    )


# ------------------------------------------------------------ forward, port groups


def _interface(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    if command == Command.MODIFY:
        raise OperationUnsupported("forward interface entries cannot be modified, only added or deleted")
    item = _read(network, xml, ForwardInterface)
    if command not in (*_ADDS, Command.DELETE):
        raise _unknown(command)
    forward = network.forward
    if forward is None:
        if command == Command.DELETE:
            raise _no_interface(name, item.dev)
        raise OperationInvalid(f"network '{name}' has no <forward> element an interface could be added to")
    found = next((i for i, other in enumerate(forward.interfaces) if other.dev == item.dev), None)
    if command in _ADDS:
        if found is not None:
            raise OperationInvalid(
                f"there is an existing interface entry in network '{name}' that matches "
                f"\"<interface dev='{item.dev}'>\""
            )
        _insert(forward.interfaces, item, command)
    else:
        if found is None:
            raise _no_interface(name, item.dev)
        if used(item.dev):
            raise OperationInvalid(
                f"unable to delete interface '{item.dev}' in network '{name}'. It is currently being used  "
                f"by {used(item.dev)} domains."
            )
        del forward.interfaces[found]
    _first_device(forward)


def _no_interface(name: str, device: str) -> OperationInvalid:
    return OperationInvalid(
        f"couldn't find an interface entry in network '{name}' matching <interface dev='{device}'>"
    )


def _first_device(forward: Forward) -> None:
    if forward.pf is None and forward.mode != ForwardMode.HOSTDEV:
        forward.dev = next(iter(forward.devices), None)


def _portgroup(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    group = _read(network, xml, PortGroup)
    groups = network.portgroups
    found = next((i for i, other in enumerate(groups) if other.name == group.name), None)
    if found is None and command in (Command.MODIFY, Command.DELETE):
        raise OperationInvalid(
            f"couldn't find a portgroup entry in network '{name}' matching <portgroup name='{group.name}'>"
        )
    if found is not None and command in _ADDS:
        raise OperationInvalid(
            f"there is an existing portgroup entry in network '{name}' that matches "
            f"\"<portgroup name='{group.name}'>\""
        )
    if (
        command != Command.DELETE
        and group.default
        and any(other.default and other.name != group.name for other in groups)
    ):
        raise OperationInvalid(
            f"a different portgroup entry in network '{name}' is already set as the default. "
            "Only one default is allowed."
        )
    if command in _ADDS:
        _insert(groups, group, command)
    elif found is not None and command == Command.MODIFY:
        groups[found] = group
    elif found is not None and command == Command.DELETE:
        del groups[found]
    else:
        raise _unknown(command)


# ---------------------------------------------------------------------------- dns


def _no_modify(kind: str) -> OperationUnsupported:
    return OperationUnsupported(f"DNS {kind} records cannot be modified, only added or deleted")


def _dns_host(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    host = _read(network, xml, DnsHost)
    if command == Command.MODIFY:
        raise _no_modify("HOST")
    if host.ip is None and not host.hostnames and command not in _ADDS:
        raise NetworkDetail(f"Missing ip and hostname in network '{name}' DNS HOST record")
    if command not in (*_ADDS, Command.DELETE):
        raise _unknown(command)
    if host.ip is None and (command != Command.DELETE or not host.hostnames):
        raise NetworkDetail(f"Missing IP address in network '{name}' DNS HOST record")
    if host.ip is not None:
        try:
            host.ip = str(parse_address(host.ip))
        except ValueError:
            raise NetworkDetail(f"Invalid IP address in network '{name}' DNS HOST record") from None
    if not host.hostnames and command != Command.DELETE:
        raise NetworkDetail(f"Missing hostname in network '{name}' DNS HOST record")
    hosts = network.dns.hosts

    def matches(other: DnsHost) -> bool:
        if host.ip is not None and host.ip == other.ip:
            return True
        return command not in _ADDS and any(word in other.hostnames for word in host.hostnames)

    _put(hosts, host, [other for other in hosts if matches(other)], command, f"HOST record|in network {name}")


def _put(items: list[N], item: N, matching: list[N], command: int, words: str) -> None:
    record, where = words.split("|")
    if command in _ADDS:
        if matching:
            tail = "with a matching field" if record.startswith("HOST") else "matching all specified fields"
            raise OperationInvalid(f"there is already at least one DNS {record} {tail} {where}")
        _insert(items, item, command)
        return
    if not matching:
        raise OperationInvalid(f"couldn't locate a matching DNS {record} {where}")
    if len(matching) > 1:
        raise OperationInvalid(
            f"multiple matching DNS {record}s were found {where}"
            if record.startswith("HOST")
            else f"multiple DNS {record}s matching all specified fields were found {where}"
        )
    del items[next(i for i, other in enumerate(items) if other is matching[0])]


def _dns_srv(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    srv = _read(network, xml, DnsSrv)
    if command == Command.MODIFY:
        raise _no_modify("SRV")
    if command not in (*_ADDS, Command.DELETE):
        raise _unknown(command)
    if command in _ADDS:
        validate.check_srv(srv, name)
    said = [field.name for field in DnsSrv.fields if getattr(srv, field.name) is not None]
    srvs = network.dns.srvs
    matching = [o for o in srvs if all(getattr(o, field) == getattr(srv, field) for field in said)]
    _put(srvs, srv, matching, command, f"SRV record|in network {name}")


def _dns_txt(network: Network, command: int, parent: int, xml: str, used: Used) -> None:
    name = network.name
    txt = _read(network, xml, DnsTxt)
    if command == Command.MODIFY:
        raise _no_modify("TXT")
    if txt.name is None:
        raise NetworkDetail(f"missing required name attribute in DNS TXT record of network {name}")
    validate.check_txt_name(txt.name, name)
    if txt.value is None and command in _ADDS:
        raise NetworkDetail(
            f"missing required value attribute in DNS TXT record named '{txt.name}' of network {name}"
        )
    txts = network.dns.txts
    found = next((i for i, other in enumerate(txts) if other.name == txt.name), None)
    _add_or_delete(
        txts,
        txt,
        command,
        found,
        there=f"there is already a DNS TXT record with name '{txt.name}' in network {name}",
        missing=f"couldn't locate a matching DNS TXT record in network {name}",
    )


_SECTIONS: dict[int, Callable[[Network, int, int, str, Used], None]] = {
    Section.IP_DHCP_HOST: _dhcp_host,
    Section.IP_DHCP_RANGE: _dhcp_range,
    Section.FORWARD_INTERFACE: _interface,
    Section.PORTGROUP: _portgroup,
    Section.DNS_HOST: _dns_host,
    Section.DNS_TXT: _dns_txt,
    Section.DNS_SRV: _dns_srv,
}


# ----------------------------------------------------------------------- metadata


def set_metadata(network: Network, kind: int, text: str | None, key: str | None, uri: str | None) -> None:
    """Set title, description or an application's element; None removes it. Raises XmlError, InvalidArg."""
    if kind == NetworkMetadataType.TITLE:
        network.title = text or None
    elif kind == NetworkMetadataType.DESCRIPTION:
        network.description = text or None
    elif kind == NetworkMetadataType.ELEMENT:
        _set_element(network, text, key, uri or "")
    else:
        raise InvalidArg(f"unknown metadata type '{kind}'", domain=ErrorDomain.NETWORK)


def _set_element(network: Network, text: str | None, key: str | None, uri: str) -> None:
    items = [
        item
        for item in (network.metadata.items if network.metadata is not None else [])
        if item.namespace != uri
    ]
    if text is not None:
        element = parse_element(text, "(metadata_xml)")
        local = str(element.tag).rpartition("}")[2]
        wrapped = etree.Element(f"{{{uri}}}{local}", _attributes(element), nsmap={key or "": uri})
        wrapped.text = element.text
        wrapped.extend(list(element))
        items.append(Raw(wrapped))
    network.metadata = Metadata() if items else None
    if network.metadata is not None:
        network.metadata.items = items


def get_metadata(network: Network, kind: int, uri: str | None) -> str:
    """Return title, description or an element. Raises NoNetworkMetadata, InvalidArg."""
    if kind == NetworkMetadataType.TITLE:
        found = network.title
        what = "no network title found"
    elif kind == NetworkMetadataType.DESCRIPTION:
        found = network.description
        what = "no network description found"
    elif kind == NetworkMetadataType.ELEMENT:
        what = "Requested metadata element is not present"
        items = network.metadata.items if network.metadata is not None else []
        item = next((item for item in items if item.namespace == uri), None)
        if item is None:
            raise NoNetworkMetadata(what)
        return etree.tostring(_plain(item.element), encoding="unicode", with_tail=False)
    else:
        raise InvalidArg(f"unknown metadata type '{kind}'", domain=ErrorDomain.NETWORK)
    if found is None:
        raise NoNetworkMetadata(what)
    return found


def _attributes(element: etree._Element) -> dict[str, str]:
    return {str(name): str(value) for name, value in element.attrib.items()}


def _plain(element: etree._Element) -> etree._Element:
    plain = etree.Element(str(element.tag).rpartition("}")[2], _attributes(element))
    plain.text = element.text
    for kid in element:
        plain.append(etree.fromstring(etree.tostring(kid)))
    return plain
