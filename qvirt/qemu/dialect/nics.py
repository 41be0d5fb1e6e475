"""Network cards before ``-netdev``: ``-net nic`` and ``-net user`` meet on a numbered vlan."""

from collections.abc import Iterator, Sequence

from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_arm, is_arm_virt
from qvirt.qemu.switches import Device, KeyValue, Netdev, Switch


def rewrite(switches: Sequence[Switch], ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    """Yield the switches with cards and their backends as this emulator names them."""
    cards = ctx.domain.devices.interfaces
    for switch in switches:
        dev = switch.origin
        if not isinstance(dev, Interface):
            yield switch
            continue
        vlan = next(number for number, card in enumerate(cards) if card is dev)
        on_board = is_on_board(dev, ctx)
        has_netdev = caps.says("-netdev") and caps.says("-device") and not on_board
        if isinstance(switch, Netdev):
            yield _backend(switch, dev, vlan, caps, has_netdev)
        elif isinstance(switch, Device) and (on_board or not caps.says("-device")):
            yield _card(dev, vlan, caps)
        elif isinstance(switch, Device):
            yield _device(switch, vlan, has_netdev)
        else:
            yield switch


def is_on_board(dev: Interface, ctx: BuildContext) -> bool:
    """Tell whether the card is part of the board, which is told of it by ``-net nic``."""
    return is_arm(ctx.domain) and not is_arm_virt(ctx.domain) and not dev.is_virtio


def _backend(switch: Netdev, dev: Interface, vlan: int, caps: DialectCaps, has_netdev: bool) -> Switch:
    props = {key: value for key, value in switch.props.items() if key not in ("type", "id")}
    type = str(switch.props["type"])
    if dev.type == InterfaceType.ETHERNET and not caps.says("-device"):
        # QEMU makes the tap and runs the script
        props = {"ifname": dev.target.dev, "script": dev.script.path if dev.script is not None else None}
    if props.get("vhost") and not caps.says("-netdev:vhost"):
        props = {key: value for key, value in props.items() if not key.startswith("vhost")}
    if has_netdev:
        return Netdev({"type": type, **props, "id": switch.props["id"]}, origin=dev)
    name = switch.props["id"] if caps.says("-net:name") else None
    return KeyValue("net", {"type": type, **props, "vlan": vlan, "name": name}, "type", origin=dev)


def _card(dev: Interface, vlan: int, caps: DialectCaps) -> Switch:
    props: dict[str, JsonValue] = {
        "type": "nic",
        "macaddr": dev.mac.address,
        "vlan": vlan,
        "model": dev.model.type,
        "name": dev.alias.name if caps.says("-net:name") else None,
    }
    return KeyValue("net", props, "type", origin=dev)


def _device(switch: Device, vlan: int, has_netdev: bool) -> Switch:
    props = dict(switch.props)
    if not has_netdev:
        props = {("vlan" if key == "netdev" else key): value for key, value in props.items()}
        props["vlan"] = vlan
    return Device(props, origin=switch.origin)
