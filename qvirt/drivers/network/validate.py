"""What a network must have and may not say, in libvirt's words; and what it gets where it says nothing.

libvirt refuses while it reads, so the order of these checks is the order of its parser.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from qvirt.constants.error import ErrorDomain
from qvirt.drivers.network import validate_ip
from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.host import pci
from qvirt.model.devices.address import pci_name
from qvirt.model.netdev import is_mac, parse_address, spell_mac
from qvirt.model.network import (
    BRIDGED_BY_US,
    Bridge,
    Dns,
    DnsSrv,
    Forward,
    ForwardInterface,
    ForwardMode,
    Nat,
    Network,
    NetworkDetail,
)

#: numbers tried for a bridge without a name
_HIGHEST_BRIDGE = 256
#: the kernel's limit for the name of a device, and what else it refuses (dev_valid_name)
_NAME_MAX = 15
_NO_DEVICE = re.compile(r"[/:\s]|%(?!d)|%d.*%")
#: a file's name may have 255 bytes; the longest made of a network's is ``NAME.addnhosts.new``
_FILE_MAX = 255 - len(".addnhosts.new")
_SRV_NAME = re.compile(r"[A-Za-z0-9_-]*")


def fill_in(network: Network, make_uuid: Callable[[], str], make_mac: Callable[[], str]) -> None:
    """Give a document what libvirt gives it while reading: uuid, stp and delay, MAC, the first device."""
    network.connections = None
    network.uuid = network.uuid or make_uuid()
    if network.domain.name is None:
        network.domain.local_only = network.domain.register = None
    forward = network.forward
    if forward is not None:
        _fill_forward(network, forward)
    if network.mode in BRIDGED_BY_US:
        if network.bridge is None:
            network.bridge = Bridge()
        network.bridge.stp = "off" if network.bridge.stp == "off" else "on"
        network.bridge.delay = network.bridge.delay or 0
        network.mac.address = network.mac.address or make_mac()
    elif network.bridge is not None and network.bridge.is_empty():
        network.bridge = None


def _fill_forward(network: Network, forward: Forward) -> None:
    if forward.mode != ForwardMode.HOSTDEV:
        forward.managed = None
    elif forward.managed is None:
        forward.managed = False
    nat = forward.nat
    says_something = nat is not None and (nat.ipv6 is not None or nat.address or nat.port)
    if forward.mode == ForwardMode.NAT and not says_something:
        forward.nat = None
    if forward.dev and (forward.pf is not None or forward.addresses):
        raise XmlError(
            "the <forward> 'dev' attribute cannot be used when <address> or <pf> sub-elements are present "
            f"in network {network.name}"
        )
    if forward.pf is not None:
        return
    if forward.interfaces:  # a pool is of one kind
        forward.addresses = []
    devices = forward.devices
    if forward.dev and devices and devices[0] != forward.dev:
        raise XmlError(
            f"<forward dev='{forward.dev}'> must match first <interface dev='{devices[0]}'/> "
            f"in network {network.name}"
        )
    if forward.dev and not devices:
        forward.interfaces = [ForwardInterface(dev=forward.dev)]
    elif devices:
        forward.dev = devices[0]


def check(network: Network) -> None:
    """Refuse what libvirt refuses. Raises XmlError, XmlDetail, ConfigUnsupported, InternalError."""
    name = network.name
    _check_name(name)
    _check_floor(network)
    _check_bridge(network)
    _check_mac(network)
    _check_dns(network.dns, name)
    _check_virtual_ports(network)
    for ip in network.ips:
        validate_ip.check(ip, name)
    validate_ip.check_routes(network)
    _check_portgroups(network)
    if network.forward is not None:
        _check_forward(network, network.forward)
    _check_mode(network)
    _check_features(network)


def _check_name(name: str) -> None:
    """Refuse a name under which nothing can be kept."""
    if name in (".", ".."):
        raise XmlError(f"network name '{name}' means a folder; choose another")
    if len(name.encode("utf-8", "surrogateescape")) > _FILE_MAX:
        raise XmlError(
            f"network name '{name}' is too long: files are named for it; at most {_FILE_MAX} bytes"
        )


def _check_bridge(network: Network) -> None:
    """Refuse a name that no device can have; ``%d`` stands for a digit or more."""
    name = network.bridge_name
    if not name:
        return
    shortest = name.replace("%d", "0", 1).encode("utf-8", "surrogateescape")
    if len(shortest) > _NAME_MAX or name in (".", "..") or _NO_DEVICE.search(name):
        raise XmlError(
            f"bridge name '{name}' in network '{network.name}' cannot be the name of a device: "
            f"at most {_NAME_MAX} characters, no '/', ':' or white space, and no '%' but in one '%d'"
        )


def _check_mac(network: Network) -> None:
    mac = network.mac.address
    if mac is None:
        return
    if not is_mac(mac):
        raise XmlError(f"Invalid bridge mac address '{mac}' in network '{network.name}'")
    if int(mac.split(":")[0], 16) & 1:
        raise XmlError(f"Invalid multicast bridge mac address '{mac}' in network '{network.name}'")
    network.mac.address = spell_mac(mac)


# ---------------------------------------------------------------------------- dns


def _check_dns(dns: Dns, name: str) -> None:
    if dns.enable is False and (dns.forwarders or dns.txts or dns.srvs or dns.hosts):
        raise XmlError(f"Extra data in disabled network '{name}'")
    for forwarder in dns.forwarders:
        if forwarder.addr is None and forwarder.domain is None:
            raise XmlError("Invalid forwarder element, must contain at least one of addr or domain")
        if forwarder.addr is not None and not _is_address(forwarder.addr):
            raise XmlError(f"Invalid forwarder IP address '{forwarder.addr}' in network '{name}'")
    for txt in dns.txts:
        if txt.name is None:
            raise NetworkDetail(f"missing required name attribute in DNS TXT record of network {name}")
        check_txt_name(txt.name, name)
        if txt.value is None:
            raise NetworkDetail(
                f"missing required value attribute in DNS TXT record named '{txt.name}' of network {name}"
            )
    for srv in dns.srvs:
        check_srv(srv, name)
    for host in dns.hosts:
        if host.ip is None:
            raise NetworkDetail(f"Missing IP address in network '{name}' DNS HOST record")
        if not _is_address(host.ip):
            raise NetworkDetail(f"Invalid IP address in network '{name}' DNS HOST record")
        if not host.hostnames:
            raise NetworkDetail(f"Missing hostname in network '{name}' DNS HOST record")


def check_txt_name(said: str, name: str) -> None:
    """Refuse a name that no TXT record can have."""
    if re.search("[ ,]", said):
        raise NetworkDetail(f"prohibited character in DNS TXT record name '{said}' of network {name}")


def _serves_names(dns: Dns) -> bool:
    return dns.enable is not False and not dns.is_empty()


def check_srv(srv: DnsSrv, name: str) -> None:
    """Check a service record."""
    if srv.service is None:
        raise NetworkDetail(f"missing required service attribute in DNS SRV record of network '{name}'")
    for what in ("service", "protocol"):
        said = getattr(srv, what)
        if said is not None and not _SRV_NAME.fullmatch(said):
            raise NetworkDetail(
                f"invalid character in {what} attribute '{said}' in DNS SRV record of network '{name}'"
            )
    if srv.protocol is None:
        raise NetworkDetail(
            f"missing required protocol attribute in DNS SRV record '{srv.service}' of network '{name}'"
        )
    where = f"for service '{srv.service}' in network '{name}'"
    for what, value, low, word in (
        ("port", srv.port, 1, "invalid"),
        ("priority", srv.priority, 0, "Invalid"),
        ("weight", srv.weight, 0, "invalid"),
    ):
        if value is None:
            continue
        if srv.target is None:
            raise NetworkDetail(f"DNS SRV {what} attribute not permitted without target {where}")
        if not low <= value <= 65535:
            raise NetworkDetail(f"{word} DNS SRV {what} attribute {where}")


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------ forward


def _check_forward(network: Network, forward: Forward) -> None:
    name, mode = network.name, forward.mode
    if forward.nat is not None:
        if mode != ForwardMode.NAT:
            raise XmlError(
                f"The <nat> element can only be used when <forward> 'mode' is 'nat' in network {name}"
            )
        _check_nat(forward.nat, name)
    _check_addresses(forward, name)
    seen: set[str] = set()
    for device in forward.devices:
        if device in seen:
            raise XmlError(f"interface '{device}' can only be listed once in network {name}")
        seen.add(device)


def _check_addresses(forward: Forward, name: str) -> None:
    seen: set[str] = set()
    for address in forward.addresses:
        if address.type != "pci":
            raise ConfigUnsupported(f"unknown address type '{address.type}' in network {name}")
        slot = pci_name(address)
        if slot in seen:
            raise XmlError(f"PCI device '{slot}' can only be listed once in network {name}")
        seen.add(slot)


def _check_nat(nat: Nat, name: str) -> None:
    where = f"in <nat> in <forward> in network {name}"
    if nat.address is not None:
        for which in ("start", "end"):
            text = getattr(nat.address, which)
            if text is None:
                raise XmlError(f"missing '{which}' attribute in <address> element {where}")
            try:
                if parse_address(text).version != 4:
                    raise ValueError(text)
            except ValueError:
                raise XmlError(
                    f"Bad ipv4 {which} address '{text}' in <nat> in <forward> in network '{name}'"
                ) from None
        validate_ip.check_size(nat.address.start or "", nat.address.end or "")
    if nat.port is not None:
        start, end = nat.port.start, nat.port.end
        if start is None or not 0 < start <= 65535:
            raise NetworkDetail(f"Missing or invalid 'start' attribute in <port> {where}")
        if end is None or not start <= end <= 65535:
            raise NetworkDetail(f"Missing or invalid 'end' attribute in <port> {where}")


def _check_mode(network: Network) -> None:
    name, mode, forward = network.name, network.mode, network.forward
    if mode is None or forward is None:
        return
    several = len(forward.interfaces) > 1
    if mode in BRIDGED_BY_US:
        if not network.ips:
            raise XmlError(f"{mode} forwarding requested, but no IP address provided for network '{name}'")
        if several:
            raise XmlError(
                f"multiple forwarding interfaces specified for network '{name}', only one is supported"
            )
        if mode == ForwardMode.OPEN and forward.devices:
            raise XmlError(f"forward dev not allowed for network '{name}' with forward mode='{mode}'")
        return
    bridge = network.bridge
    if mode != ForwardMode.BRIDGE and network.bridge_name:
        raise XmlError(f"bridge name not allowed in {mode} mode (network '{name}')")
    if bridge is not None and (bridge.delay or bridge.stp is not None or bridge.zone):
        raise XmlError(
            "bridge delay/stp/zone options only allowed in route, nat, and isolated mode, "
            f"not in {mode} (network '{name}')"
        )
    if network.bridge_name and (forward.devices or forward.pf is not None):
        raise XmlError(
            f"A network with forward mode='{mode}' can specify a bridge name or a forward dev, but not both "
            f"(network '{name}')"
        )
    if network.mtu.size:
        raise XmlError(
            f"mtu size only allowed in open, route, nat, and isolated mode, not in {mode} (network '{name}')"
        )


# ----------------------------------------------------------------------- features


def _check_portgroups(network: Network) -> None:
    seen: set[str] = set()
    chosen: str | None = None
    for group in network.portgroups:
        if group.name in seen:
            raise ConfigUnsupported(
                f"multiple <portgroup> elements with the same name ({group.name}) in network '{network.name}'"
            )
        seen.add(group.name)
        if group.default:
            if chosen is not None:
                raise ConfigUnsupported(
                    f"network '{network.name}' has multiple default <portgroup> elements ({chosen} and "
                    f"{group.name}), but only one default is allowed"
                )
            chosen = group.name


def _check_features(network: Network) -> None:
    """Refuse what the kind of network has not: the checks libvirt makes when it has read everything."""
    name, mode = network.name, network.mode
    if mode in BRIDGED_BY_US:
        validate_ip.check_dhcp_once(network)
    else:
        for element, there in (
            ("mac", network.mac.address is not None),
            ("ip", bool(network.ips)),
            ("dns", _serves_names(network.dns)),
            ("domain", network.domain.name is not None),
        ):
            if there:
                raise ConfigUnsupported(
                    f"Unsupported <{element}> element in network {name} with forward mode='{mode}'"
                )
        if not (mode == ForwardMode.BRIDGE and network.bridge_name):
            _refuse_bandwidth(network)
    _check_pool(network)
    _check_vlans(network)


def _refuse_bandwidth(network: Network) -> None:
    """There is no device of the network's to limit, and macvtaps are limited by their guests' interfaces."""
    tail = f"with forward mode='{network.mode}'"
    if network.bandwidth is not None:
        raise ConfigUnsupported(
            f"Unsupported network-wide <bandwidth> element in network {network.name} {tail}"
        )
    for group in network.portgroups:
        if group.bandwidth is not None:
            raise ConfigUnsupported(
                f"Unsupported <bandwidth> element in network '{network.name}' in portgroup '{group.name}' "
                f"{tail}"
            )


def _check_floor(network: Network) -> None:
    for bandwidth in (network.bandwidth, *(group.bandwidth for group in network.portgroups)):
        if bandwidth is not None and bandwidth.inbound is not None and bandwidth.inbound.floor:
            raise ConfigUnsupported(
                "floor attribute is not supported for this config", domain=ErrorDomain.NONE
            )


def _check_virtual_ports(network: Network) -> None:
    """The network's own must say its type; none may say what its type has not."""
    if network.virtualport is not None:
        if network.virtualport.type is None:
            raise XmlError("missing required virtualport type", domain=ErrorDomain.NONE)
        network.virtualport.refuse_extra()
    for group in network.portgroups:
        if group.virtualport is not None:
            group.virtualport.refuse_extra()


def _check_pool(network: Network) -> None:
    forward, name = network.forward, network.name
    if forward is None:
        return
    if forward.mode == ForwardMode.HOSTDEV:
        if forward.devices:
            raise ConfigUnsupported(
                f"hostdev network '{name}' lists '{forward.devices[0]}' in the device pool, but hostdev "
                "networks require all devices to be listed by PCI address, not network device name"
            )
        for address in forward.addresses:
            path = pci.BUS.path(pci_name(address))
            if not (path / "physfn").exists():
                raise ConfigUnsupported(
                    f"device '{path}' in network '{name}' is not an SR-IOV Virtual Function"
                )
    elif forward.addresses:
        raise ConfigUnsupported(
            f"network '{name}' has forward mode '{forward.mode}'  but lists a device by PCI address in the "
            "device pool. This is only supported for networks with forward mode 'hostdev'"
        )


def _check_vlans(network: Network) -> None:
    """Only Open vSwitch bridges, and cards that are passed through, tag for a guest."""
    if network.mode in (ForwardMode.HOSTDEV, ForwardMode.PASSTHROUGH):
        return
    own = network.virtualport
    for vlan, port in (
        (network.vlan, own),
        *((group.vlan, group.virtualport or own) for group in network.portgroups),
    ):
        on_switch = network.mode == ForwardMode.BRIDGE and port is not None and port.type == "openvswitch"
        if vlan is not None and not on_switch:
            raise ConfigUnsupported(
                f"<vlan> element specified for network {network.name}, whose type doesn't support "
                "vlan configuration"
            )


# -------------------------------------------------------------------------- names


def name_bridge(network: Network, taken: Collection[str]) -> None:
    """Give the bridge a free name where it has none, or only a pattern. Blocking.

    taken: the bridges of other networks. Raises InternalError when the name is another network's.
    """
    if network.mode not in BRIDGED_BY_US or network.bridge is None:
        return
    name = network.bridge.name
    if name and "%d" not in name:
        if name in taken:
            raise InternalError(f"bridge name '{name}' already in use.")
        return
    pattern = name or "virbr%d"
    for number in range(_HIGHEST_BRIDGE + 1):
        found = pattern.replace("%d", str(number), 1)
        if len(found.encode("utf-8", "surrogateescape")) > _NAME_MAX:
            break
        if found not in taken and not Path(f"/sys/class/net/{found}").exists():
            network.bridge.name = found
            return
    raise InternalError(
        f"Bridge generation exceeded max id {_HIGHEST_BRIDGE}: no name is left for the bridge of network "
        f"'{network.name}' by '{pattern}'"
    )
