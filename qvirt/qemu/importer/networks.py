"""Network cards and what they are plugged into, as ``<interface>``."""

from qvirt.model.devices.device import Device
from qvirt.model.devices.interface import (
    Interface,
    InterfaceModel,
    InterfaceSource,
    InterfaceType,
    Mac,
    ScriptPath,
    UdpLocal,
)
from qvirt.model.netdev import IpAddress
from qvirt.model.storage_source import Reconnect
from qvirt.qemu.devices.interface import QEMUS_SCRIPTS, VIRTIO_NET
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS
from qvirt.qemu.importer.parts import Part, Unfit, integer
from qvirt.qemu.importer.reader import Reading

_TAP_KEYS = (
    "ifname", "script", "downscript", "vhost", "vhostforce", "queues", "br", "helper", "sndbuf", "fd", "fds",
    "vhostfd", "vhostfds",
)  # fmt: skip
FIRST_MAC = 0x56
#: the bridge QEMU's helper plugs taps into that name none
_QEMUS_BRIDGE = "br0"
VHOST_NET = "/dev/vhost-net"


def read_interface(r: Reading) -> Device:
    """Read a card and its backend. Raises Unfit."""
    part = r.part
    dev = Interface()
    dev.mac = Mac(address=next_mac(r))
    dev.model = InterfaceModel(type=r.virtio_model() if part.driver.startswith("virtio-net") else part.driver)
    name = part.text("netdev")
    backend = r.line.parts.find("netdev", name)
    if backend is None:
        raise Unfit("it is plugged into nothing, which XML cannot say")
    if backend.settled:
        raise Unfit("its netdev belongs to another card already")
    _backend(r, dev, backend)
    if dev.is_virtio:
        VIRTIO_NET.read(dev, dict(part.props))
        VIRTIO_OPTIONS.read(dev.driver, dict(part.props))
    r.place(dev)
    r.common(dev)
    return dev


def next_mac(r: Reading) -> str:
    """Return the card's address: its own, or the one QEMU gives by counting from 52:54:00:12:34:56."""
    said = r.part.text("mac")
    if said is not None:
        address = said.lower()
        if address.startswith("52:54:00:12:34:"):
            r.buses.take("mac", int(address[-2:], 16))
        return address
    number = r.buses.take_first("mac", FIRST_MAC)
    return f"52:54:00:12:34:{number:02x}"


def _backend(r: Reading, dev: Interface, backend: Part) -> None:
    kind = backend.text("type") or ""
    reader = {
        "user": _user,
        "tap": _tap,
        "bridge": _bridge,
        "socket": _socket,
        "vhost-user": _vhost_user,
        "vhost-vdpa": _vdpa,
        "hubport": _hub,
    }.get(kind)
    if reader is None:
        raise Unfit(f"network backend '{kind}' has no XML")
    if any(part.props.get("netdev") == backend.id for part in r.line.parts.of("object")):
        if kind != "user":
            raise Unfit("a filter is on its netdev, which has no XML")
        dev.type = InterfaceType.USER
        r.keep_netdev(backend, "a filter is on it, which has no XML")
        return
    reader(r, dev, backend)


def _check(backend: Part, *keys: str) -> None:
    strange = set(backend.props) - {"type", "id", *keys}
    if strange:
        raise Unfit(f"its netdev says {', '.join(sorted(strange))}, which has no XML")


def _user(r: Reading, dev: Interface, backend: Part) -> None:
    """QEMU's own NAT. What it says beyond addresses keeps the netdev, to which the card is then plugged."""
    dev.type = InterfaceType.USER
    strange = set(backend.props) - {"type", "id", "net", "ipv6-prefix", "ipv6-prefixlen"}
    if not strange:
        net = backend.text("net")
        if net is not None:
            address, _, prefix = net.partition("/")
            if "." in prefix:
                strange.add("net")
            else:
                dev.ips = [IpAddress(family="ipv4", address=address, prefix=int(prefix) if prefix else None)]
        if backend.text("ipv6-prefix") is not None:
            dev.ips.append(
                IpAddress(
                    family="ipv6",
                    address=backend.text("ipv6-prefix"),
                    prefix=backend.number("ipv6-prefixlen"),
                )
            )
    if not strange:
        r.used.append(backend)
        return
    dev.ips = []
    r.keep_netdev(backend, f"{', '.join(sorted(strange))}: no XML")


def _hub(r: Reading, dev: Interface, port: Part) -> None:
    """A hub with this card and QEMU's own NAT, as ``-net`` makes it. Raises Unfit for any other."""
    netdevs = r.line.parts.of("netdev")
    others = [
        part
        for part in netdevs
        if part.text("type") == "hubport" and part.text("hubid") == port.text("hubid") and part is not port
    ]
    backend = r.line.parts.find("netdev", others[0].props.get("netdev")) if len(others) == 1 else None
    if backend is None or backend.text("type") != "user":
        raise Unfit("its hub joins more than a card and a user network, which has no XML")
    dev.type = InterfaceType.USER
    r.keep_netdev(port, "-net has a hub in between")
    r.line.pass_part(others[0], "-net has a hub in between")


def _tap(r: Reading, dev: Interface, backend: Part) -> None:
    _check(backend, *_TAP_KEYS)
    bridge = backend.text("br")
    if bridge is None and backend.text("helper") is not None:
        bridge = _QEMUS_BRIDGE
    dev.type = InterfaceType.ETHERNET
    if bridge is not None and backend.text("ifname") is None:
        dev.type, dev.source = InterfaceType.BRIDGE, InterfaceSource(bridge=bridge)
    name = backend.text("ifname")
    if name is not None:
        dev.target.dev = name
    for key in ("fd", "fds"):
        if backend.text(key) is not None:
            r.line.note("the tap was open before QEMU ran; a start makes one", backend.given)
    script = backend.text("script")
    if dev.type == InterfaceType.ETHERNET and backend.text("helper") is None and backend.text("fd") is None:
        if script is None:
            dev.script = ScriptPath(path=QEMUS_SCRIPTS["script"])
        elif script not in ("no", ""):
            dev.script = ScriptPath(path=script)
        elif name is not None:
            dev.target.managed = False
        down = backend.text("downscript")
        if down is None and r.line.kind(QEMUS_SCRIPTS["downscript"]) != "missing":
            down = QEMUS_SCRIPTS["downscript"]
        if down not in (None, "no", ""):
            dev.downscript = ScriptPath(path=down)
    if backend.flag("vhost") and dev.is_virtio:
        _vhost(r, dev, backend)
    elif backend.flag("vhost") is False and dev.is_virtio:
        dev.driver.name = "qemu"
    queues = backend.number("queues")
    if queues is not None and queues > 1:
        dev.driver.queues = queues
    if backend.text("sndbuf") is not None:
        dev.tune.sndbuf = backend.number("sndbuf")
    r.used.append(backend)


def _vhost(r: Reading, dev: Interface, backend: Part) -> None:
    """Have the kernel move the packets. A start under KVM tries by itself, and insists only if told to."""
    if r.line.domain.type != "kvm":
        r.line.note("vhost serves guests that run under KVM", backend.given)
    elif not backend.flag("vhostforce") and r.line.kind(VHOST_NET) == "missing":
        r.line.note(f"{VHOST_NET} is not there: QEMU moves packets itself, as it would have", backend.given)
        return
    dev.driver.name = "vhost"


def _bridge(r: Reading, dev: Interface, backend: Part) -> None:
    _check(backend, "br", "helper")
    dev.type = InterfaceType.BRIDGE
    dev.source = InterfaceSource(bridge=backend.text("br") or _QEMUS_BRIDGE)
    r.used.append(backend)


def _socket(r: Reading, dev: Interface, backend: Part) -> None:
    _check(backend, "listen", "connect", "mcast", "udp", "localaddr")
    source = InterfaceSource()
    for key, kind in (
        ("listen", InterfaceType.SERVER),
        ("connect", InterfaceType.CLIENT),
        ("mcast", InterfaceType.MCAST),
        ("udp", InterfaceType.UDP),
    ):
        text = backend.text(key)
        if text is None:
            continue
        dev.type = kind
        source.address, source.port = _host_port(text)
        if kind is InterfaceType.UDP:
            address, port = _host_port(backend.text("localaddr") or ":0")
            source.local = UdpLocal(address=address or "", port=port)
        elif backend.text("localaddr") is not None:
            raise Unfit("its netdev says localaddr, which has no XML")
    dev.source = source
    r.used.append(backend)


def _host_port(text: str) -> tuple[str | None, int]:
    address, _, port = text.rpartition(":")
    return address or None, integer(port, "port")


def _vhost_user(r: Reading, dev: Interface, backend: Part) -> None:
    _check(backend, "chardev", "queues", "vhostforce")
    chardev = r.line.parts.find("chardev", backend.props.get("chardev"))
    if chardev is None or chardev.text("path") is None:
        raise Unfit("its chardev is no socket")
    dev.type = InterfaceType.VHOSTUSER
    source = InterfaceSource(type="unix", path=chardev.text("path"))
    source.mode = "server" if chardev.flag("server") else "client"
    again = chardev.number("reconnect")
    if again:
        source.reconnect = Reconnect(enabled=True, timeout=again)
    dev.source = source
    queues = backend.number("queues")
    if queues is not None and queues > 1:
        dev.driver.queues = queues
    r.used += [backend, chardev]


def _vdpa(r: Reading, dev: Interface, backend: Part) -> None:
    _check(backend, "vhostdev", "queues")
    dev.type = InterfaceType.VDPA
    dev.source = InterfaceSource(dev=backend.text("vhostdev"))
    queues = backend.number("queues")
    if queues is not None and queues > 1:
        dev.driver.queues = queues
    r.used.append(backend)
