"""What dnsmasq is told: its configuration, host and name files, in libvirt's order and style. Pure."""

import ipaddress
import re

from qvirt.errors import ConfigUnsupported
from qvirt.model.netdev import parse_address
from qvirt.model.network import Network
from qvirt.model.network_ip import DhcpHost, DhcpRange, Lease, NetworkIp

_HEADER = """##WARNING:  THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE
##OVERWRITTEN AND LOST.  Changes to this configuration should be made using:
##    virsh net-edit {name}
## or other application using the libvirt API.
##
## dnsmasq conf file created by libvirt
"""


def wanted(network: Network) -> bool:
    """Tell whether a network has anything to serve: addresses, and DNS or DHCP on them."""
    if not network.ips:
        return False
    return network.dns.enable is not False or any(ip.ranges or ip.hosts or ip.tftp.root for ip in network.ips)


def served(network: Network, version: int) -> NetworkIp | None:
    """Return the address of a family on which DHCP is served."""
    return next((ip for ip in network.ips if ip.version == version and (ip.ranges or ip.hosts)), None)


def config(network: Network, *, pid_file: str, hosts_file: str, names_file: str) -> str:
    """Return the configuration file. Raises ConfigUnsupported."""
    dns, lines = network.dns, ["strict-order"]
    with_dns = dns.enable is not False
    if not with_dns:
        lines.append("port=0")
    if with_dns:
        for forwarder in dns.forwarders:
            domain = f"/{forwarder.domain}/" if forwarder.domain else ""
            lines.append(f"server={domain}{forwarder.addr or '#'}")
        if network.mode is not None and any(item.addr and not item.domain for item in dns.forwarders):
            lines.append("no-resolv")
    if network.domain.name:
        if network.domain.local_only:
            lines.append(f"local=/{network.domain.name}/")
        lines += [f"domain={network.domain.name}", "expand-hosts"]
    if with_dns:
        lines += [f"local=/{_reverse(ip)}/" for ip in network.ips if ip.local_ptr]
        if dns.forward_plain_names is False:
            lines += ["domain-needed", "local=//"]
    lines += [
        f"pid-file={_path(pid_file)}",
        "except-interface=lo",
        "bind-dynamic",
        f"interface={network.bridge_name}",
    ]
    if network.mode is None:
        # an isolated network is nobody's way out: no router for IPv4 or IPv6, no DNS proxy
        lines.append("dhcp-option=3")
        lines += ["no-resolv", "ra-param=*,0,0"]
    if with_dns:
        lines += [f"txt-record={txt.name},{txt.value or ''}" for txt in dns.txts]
        for srv in dns.srvs:
            value = f"srv-host=_{srv.service}._{srv.protocol}"
            if srv.domain:
                value += f".{srv.domain}"
            if srv.target:
                value += f",{srv.target},{srv.port if srv.port is not None else 1}"
                if srv.priority is not None or srv.weight is not None:
                    value += f",{srv.priority or 0}"
                if srv.weight is not None:
                    value += f",{srv.weight}"
            lines.append(value)
    lines += _dhcp(network, hosts_file, names_file)
    if network.dnsmasq is not None:
        lines += [option.value for option in network.dnsmasq.options]
    return _HEADER.format(name=network.name) + "\n".join(lines) + "\n"


def _path(text: str) -> str:
    """Return a path as dnsmasq reads it: in quotes where it would take it apart, or for a comment."""
    if not re.search(r'[\s"#\\]', text):
        return text
    for char, said in (("\\", "\\\\"), ('"', '\\"'), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(char, said)
    return f'"{text}"'


def _dhcp(network: Network, hosts_file: str, names_file: str) -> list[str]:
    lines: list[str] = []
    serving = [served(network, 4), served(network, 6)]
    count = 0
    # libvirt tells of an address that serves, else of those beside it
    for ip in network.ips:
        if ip.tftp.root:
            lines += ["enable-tftp", f"tftp-root={_path(ip.tftp.root)}"]
        if ip not in serving:
            continue
        for item in ip.ranges:
            lines.append(_range(item, ip))
            count += int(parse_address(item.end or "")) - int(parse_address(item.start or "")) + 1
        if not ip.ranges and ip.hosts:
            lines.append(
                f"dhcp-range={ip.own},static" + (f",{ip.length}" if ip.version == 6 else _netmask_word(ip))
            )
        if ip.version == 4:
            lines.append("dhcp-no-override")
            if ip.ranges or ip.hosts:
                lines.append("dhcp-authoritative")
            boot = ip.dhcp.bootp if ip.dhcp is not None else None
            if boot is not None and boot.file:
                lines.append(f"dhcp-boot={boot.file}" + (f",,{boot.server}" if boot.server else ""))
    if count:
        lines.append(f"dhcp-lease-max={count}")
    if any(serving):
        lines.append(f"dhcp-hostsfile={_path(hosts_file)}")
    if network.dns.enable is not False or any(serving):
        lines.append(f"addn-hosts={_path(names_file)}")
    if network.mtu.size:
        lines.append(f"dhcp-option=option:mtu,{network.mtu.size}")
    if serving[1] is not None:
        lines.append("enable-ra")
    else:
        lines += [f"dhcp-range={ip.own},ra-only" for ip in network.ips if ip.version == 6]
    return lines


def _range(item: DhcpRange, ip: NetworkIp) -> str:
    last = str(ip.length) if ip.version == 6 else str(ip.subnet.netmask)
    return f"dhcp-range={item.start},{item.end},{last}{_lease(item.lease)}"


def _netmask_word(ip: NetworkIp) -> str:
    # libvirt names the mask only where it is not that of the address's class
    return f",{ip.subnet.netmask}" if ip.netmask or ip.prefix else ""


def _lease(lease: Lease | None) -> str:
    if lease is None or lease.expiry is None:
        return ""
    if not lease.expiry:
        return ",infinite"
    return f",{lease.expiry}{({'seconds': 's', 'minutes': 'm', 'hours': 'h'})[lease.unit or 'minutes']}"


def _reverse(ip: NetworkIp) -> str:
    """Return the zone in which the addresses of a network are looked up. Raises ConfigUnsupported."""
    subnet = ip.subnet
    step = 8 if subnet.version == 4 else 4
    if subnet.prefixlen % step:
        raise ConfigUnsupported(
            f"PTR domain for IPv{subnet.version} network with prefix {subnet.prefixlen} cannot be "
            "automatically created"
        )
    labels = subnet.network_address.reverse_pointer.split(".")
    return ".".join(labels[(subnet.max_prefixlen - subnet.prefixlen) // step :])


def hosts(network: Network) -> str:
    """Return the file of the hosts that always get the same address."""
    lines = []
    for ip in network.ips:
        lines += [_host(host, ip) for host in ip.hosts]
    return "".join(line + "\n" for line in lines)


def _host(host: DhcpHost, ip: NetworkIp) -> str:
    if ip.version == 6:
        address = f"[{host.ip}]"
        words = [f"id:{host.id}"] if host.id else []
        words += [host.name] if host.name else []
        words.append(address)
    else:
        words = [word for word in (host.mac, f"id:{host.id}" if host.id and not host.mac else None) if word]
        words += [host.ip or ""]
        if host.name:
            words = [*words, host.name] if host.mac else [host.name, host.ip or ""]
    return ",".join(words) + _lease(host.lease)


def names(network: Network) -> str:
    """Return the file of the names that DNS knows."""
    return "".join("\t".join([host.ip or "", *host.hostnames]) + "\n" for host in network.dns.hosts)


def needs_restart(old: Network, new: Network) -> bool:
    """Tell whether a change is in the configuration; host and name files are read again on SIGHUP."""
    said = [config(network, pid_file="", hosts_file="", names_file="") for network in (old, new)]
    return said[0] != said[1]


def lease_prefix(network: Network, address: str) -> int:
    """Return the length of the network an address was leased from; libvirt says the served network's."""
    parsed = ipaddress.ip_address(address)
    ip = next((ip for ip in network.ips if ip.version == parsed.version and parsed in ip.subnet), None)
    ip = ip or served(network, parsed.version)
    return ip.length if ip is not None else parsed.max_prefixlen
