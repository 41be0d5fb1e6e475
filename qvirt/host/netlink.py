"""The host's links, addresses and routes over netlink, by pyroute2. Everything blocks: call it in a thread.

pyroute2 takes some 80 ms to import, so that happens at the first use; a daemon without networks never pays.
"""

import ipaddress
from collections.abc import Callable
from functools import partial
from typing import Any

from qvirt.errors import ConfigUnsupported, InternalError, SystemError_
from qvirt.record import Record

_CENTISECONDS = 100
_EEXIST, _ENODEV, _ENOENT, _EADDRNOTAVAIL = 17, 19, 2, 99


def _route() -> Any:
    try:
        from pyroute2 import IPRoute  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigUnsupported(
            "networks need the Python package pyroute2, which is not installed: pip install 'qvirt[network]' "
            f"or the distribution's python3-pyroute2 ({error})"
        ) from error
    return IPRoute()


def require() -> None:
    """Raises ConfigUnsupported where pyroute2 is missing."""
    _route().close()


def _ask(failure: str, work: Callable[[Any], None]) -> None:
    """Do something with a netlink socket. Raises SystemError_ with the failure and the kernel's reason."""
    with _route() as ip:
        try:
            work(ip)
        except Exception as error:
            code = getattr(error, "code", getattr(error, "errno", None))
            if not isinstance(code, int):
                raise SystemError_(f"{failure}: {error}") from error
            raise SystemError_(failure, OSError(code, str(error.args[-1]))) from error


def _index(ip: Any, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise OSError(_ENODEV, "No such device")
    return int(found[0])


def add_bridge(name: str, *, mac: str | None, stp: bool, delay: int, mtu: int | None) -> None:
    """Make a bridge, down. delay: seconds before a port forwards. Raises SystemError_.

    mtu: bytes; refused by itself where the kernel takes no such.

    The kernel takes a delay below two seconds only while the spanning tree is off, so that comes after it.
    """

    def work(ip: Any) -> None:
        words: dict[str, Any] = {"ifname": name, "kind": "bridge", "br_forward_delay": delay * _CENTISECONDS}
        if mac:
            words["address"] = mac
        ip.link("add", **words)
        if stp:
            ip.link("set", index=_index(ip, name), kind="bridge", br_stp_state=1)

    _ask(f"Unable to create bridge {name}", work)
    if mtu:
        try:
            _ask(
                f"Cannot set interface MTU on '{name}' to {mtu}",
                lambda ip: ip.link("set", index=_index(ip, name), mtu=mtu),
            )
        except BaseException:
            remove(name)
            raise


def remove(name: str) -> None:
    """Remove a device; harmless when it is gone. Raises SystemError_."""

    def work(ip: Any) -> None:
        found = ip.link_lookup(ifname=name)
        if found:
            ip.link("del", index=found[0])

    _ask(f"Unable to delete bridge {name}", work)


def set_up(name: str) -> None:
    """Bring a device up. Raises SystemError_."""
    _ask(
        f"Cannot set interface flags on '{name}'",
        lambda ip: ip.link("set", index=_index(ip, name), state="up"),
    )


def add_addresses(name: str, addresses: list[tuple[str, int]]) -> None:
    """Give a device addresses and lengths of their networks; those it has are left. Raises SystemError_."""

    def work(ip: Any) -> None:
        index = _index(ip, name)
        for address, length in addresses:
            words: dict[str, Any] = {"index": index, "address": address, "prefixlen": length}
            parsed = ipaddress.ip_interface(f"{address}/{length}")
            if parsed.version == 4 and length < 31:
                words["broadcast"] = str(parsed.network.broadcast_address)
            _unless_there(partial(ip.addr, "add", **words))

    shown = ", ".join(f"{address}/{length}" for address, length in addresses)
    _ask(f"Failed to add IP address {shown} to {name}", work)


def add_routes(name: str, routes: list[tuple[str, str, int]]) -> None:
    """Send what is for networks through a device: network, gateway, metric each. Raises SystemError_."""

    def work(ip: Any) -> None:
        index = _index(ip, name)
        for target, gateway, metric in routes:
            words = {"dst": target, "gateway": gateway, "oif": index, "priority": metric}
            _unless_there(partial(ip.route, "add", **words))

    _ask(f"Failed to add routes to {name}", work)


def _unless_there(work: Callable[[], Any]) -> None:
    try:
        work()
    except Exception as error:
        if getattr(error, "code", None) != _EEXIST:
            raise


class VfConfig(Record):
    """What a card keeps for one of its virtual functions. vlan: 0 for none; qos: priority of its frames."""

    mac: str
    vlan: int = 0
    qos: int = 0


#: RTEXT_FILTER_VF: a link is told with its virtual functions
_WITH_VFS = 1


def vf_config(name: str, number: int) -> VfConfig:
    """Return what a card keeps for a virtual function. Raises SystemError_, InternalError."""
    found: list[VfConfig] = []

    def work(ip: Any) -> None:
        (link,) = ip.link("get", index=_index(ip, name), ext_mask=_WITH_VFS)
        functions = link.get_attr("IFLA_VFINFO_LIST")
        for info in functions.get_attrs("IFLA_VF_INFO") if functions is not None else ():
            mac, vlan = info.get_attr("IFLA_VF_MAC"), info.get_attr("IFLA_VF_VLAN")
            if mac is not None and mac["vf"] == number:
                tag, priority = (vlan["vlan"], vlan["qos"]) if vlan is not None else (0, 0)
                found.append(VfConfig(mac["mac"], tag, priority))

    _ask(f"Cannot get the virtual functions of '{name}'", work)
    if not found:
        raise InternalError(f"couldn't find IFLA_VF_INFO for VF {number} in netlink response of '{name}'")
    return found[0]


def set_vf(name: str, number: int, config: VfConfig) -> None:
    """Have a card keep an address and a VLAN for a virtual function. Raises SystemError_."""

    def set_mac(ip: Any) -> None:
        ip.link("set", index=_index(ip, name), vf={"vf": number, "mac": config.mac})

    def set_vlan(ip: Any) -> None:
        tag = {"vlan": config.vlan, "qos": config.qos}
        ip.link("set", index=_index(ip, name), vf={"vf": number, "vlan": tag})

    _ask(f"Cannot set interface MAC to {config.mac} for ifname {name} vf {number}", set_mac)
    _ask(f"Cannot set interface vlanid to {config.vlan} for ifname {name} vf {number}", set_vlan)


def traffic(name: str, work: Callable[[Any, int], None]) -> None:
    """Change a device's queueing; work gets pyroute2's socket and the index. Raises SystemError_."""
    _ask(f"Cannot limit the traffic of '{name}'", lambda ip: work(ip, _index(ip, name)))


def without(work: Callable[[], Any]) -> None:
    """Do what fails harmlessly where the thing to remove is not there."""
    try:
        work()
    except Exception as error:
        if getattr(error, "code", None) not in (_ENOENT, _ENODEV, _EADDRNOTAVAIL, 22, 95):
            raise
