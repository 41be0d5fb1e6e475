"""``<interface>`` in QEMU's words: the card, and the backend it is plugged into."""

from collections.abc import Callable, Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, XmlError
from qvirt.model.devices.address import CcwAddress
from qvirt.model.devices.interface import (
    Interface,
    InterfaceDriver,
    InterfaceSource,
    InterfaceType,
)
from qvirt.model.netdev import VirtualPortParameters
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices import interface_live, vfio
from qvirt.qemu.devices.base import (
    FileResource,
    HandedResource,
    Handler,
    Resource,
    TapResource,
    agrees,
)
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, rom, virtio_type
from qvirt.qemu.devices.props import Prop, PropTable, mapped
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_arm_virt, is_riscv_virt, is_s390
from qvirt.qemu.switches import AddFd, Chardev, Device, Netdev, Step, Switch

Props = dict[str, JsonValue]

#: the programs QEMU runs for a tap that names none
QEMUS_SCRIPTS = {"script": "/etc/qemu-ifup", "downscript": "/etc/qemu-ifdown"}

VIRTIO_NET = PropTable(
    Interface,
    Prop("tx", "driver.txmode", mapped({"iothread": "bh", "timer": "timer"})),
    Prop("ioeventfd", "driver.ioeventfd"),
    Prop("event_idx", "driver.event_idx"),
    Prop("csum", "driver.host.csum"),
    Prop("gso", "driver.host.gso"),
    Prop("host_tso4", "driver.host.tso4"),
    Prop("host_tso6", "driver.host.tso6"),
    Prop("host_ecn", "driver.host.ecn"),
    Prop("host_ufo", "driver.host.ufo"),
    Prop("mrg_rxbuf", "driver.host.mrg_rxbuf"),
    Prop("guest_csum", "driver.guest.csum"),
    Prop("guest_tso4", "driver.guest.tso4"),
    Prop("guest_tso6", "driver.guest.tso6"),
    Prop("guest_ecn", "driver.guest.ecn"),
    Prop("guest_ufo", "driver.guest.ufo"),
    Prop("rx_queue_size", "driver.rx_queue_size"),
    Prop("tx_queue_size", "driver.tx_queue_size"),
    Prop("rss", "driver.rss"),
    Prop("hash", "driver.rss_hash_report"),
    Prop("host_mtu", "mtu.size"),
)

#: types that can have more than one queue
_MULTIQUEUE = frozenset(
    {
        InterfaceType.NETWORK,
        InterfaceType.BRIDGE,
        InterfaceType.DIRECT,
        InterfaceType.ETHERNET,
        InterfaceType.VHOSTUSER,
        InterfaceType.VDPA,
    }
)
#: taps are named by us when the document's name could be one we gave before
_GENERATED_NAMES = ("vnet", "macvtap", "macvlan")


#: the models libvirt 9.0 has a name for; others are handed to QEMU as they are written
KNOWN_MODELS = frozenset(
    {
        "netfront", "rtl8139", "virtio", "e1000", "e1000e", "usb-net", "spapr-vlan", "lan9118", "scm91c111",
        "vlance", "vmxnet", "vmxnet2", "vmxnet3", "Am79C970A", "Am79C973", "82540EM", "82543GC", "82545EM",
        "virtio-transitional", "virtio-non-transitional",
    }
)  # fmt: skip


class InterfaceHandler(Handler[Interface], kind=Interface):
    """What QEMU makes of an ``<interface>``."""

    live = True
    config_update = live_update = True

    def defaults(self, dev: Interface, ctx: Context) -> None:
        _forget_live(dev)
        if dev.mac.address is None:
            dev.mac.address = ctx.generate_mac()
        if dev.model.type is None and dev.type != InterfaceType.HOSTDEV:
            dev.model.type = "virtio" if dev.type == InterfaceType.VDPA else default_model(ctx)
        if dev.type == InterfaceType.DIRECT and dev.source is not None and dev.source.mode is None:
            dev.source.mode = "vepa"
        if dev.virtualport is not None:
            _complete_port(dev, ctx)

    def validate(self, dev: Interface, ctx: Context) -> None:
        _check_card(dev)
        _check_host_side(dev)
        _check_teaming(dev)
        if dev.type == InterfaceType.VHOSTUSER and not dev.is_virtio:
            raise InternalError(
                "Wrong or no <model> 'type' attribute specified with <interface type='vhostuser'/>. "
                "vhostuser requires the virtio-net* frontend"
            )

    def prepare(self, dev: Interface, ctx: BuildContext) -> None:
        _check_backend(dev)
        if dev.filterref is not None:
            raise ConfigUnsupported(
                f"interface {dev.mac.address} asks for network filter '{dev.filterref.filter}', and there "
                "are no network filters here; remove <filterref> to start"
            )
        if dev.actual_type == InterfaceType.HOSTDEV:
            _prepare_function(dev)

    def resources(self, dev: Interface, ctx: Context) -> Iterable[Resource]:
        source = dev.source
        if dev.uses_tap:
            yield wanted_tap(dev, kvm=ctx.domain.type == "kvm")
        elif dev.type == InterfaceType.VHOSTUSER and source is not None and source.path is not None:
            ours = source.mode == "server"
            yield FileResource(dev, source.path, shared=True, optional=ours, replaced=ours, relabel=False)
        elif dev.type == InterfaceType.VDPA and source is not None and source.dev is not None:
            yield HandedResource(dev, source.dev)
        elif dev.actual_type == InterfaceType.HOSTDEV:
            yield from vfio.nodes(dev, ctx)

    def switches(self, dev: Interface, ctx: BuildContext) -> Iterator[Switch]:
        if dev.actual_type == InterfaceType.HOSTDEV:
            yield vfio.frontend(dev, ctx)
            return
        yield from self.backend(dev, ctx)
        yield Device(device_props(dev, ctx), origin=dev)

    def settings(self, dev: Interface, ctx: Context) -> Iterator[Step]:
        if dev.link.state == "down" and dev.alias.name and dev.actual_type != InterfaceType.HOSTDEV:
            yield Step("set_link", {"name": dev.alias.name, "up": False})

    def check_plug(self, dev: Interface, ctx: Context) -> None:
        interface_live.check_plug(dev)

    def same(self, wanted: Interface, known: Interface, ctx: Context) -> bool:
        mac = wanted.mac.address
        return (mac is None or mac == known.mac.address) and agrees(wanted, known)

    def missing(self, dev: Interface, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return interface_live.missing(dev)

    def ambiguous(self, dev: Interface) -> QvirtError | None:
        return interface_live.ambiguous(dev)

    def keep(self, old: Interface, new: Interface) -> None:
        interface_live.keep(old, new)

    def update(self, old: Interface, new: Interface, ctx: BuildContext, *, force: bool) -> Iterator[Step]:
        interface_live.check_update(old, new)
        before, after = (dev.link.state != "down" for dev in (old, new))
        if before != after:
            name = old.alias.name
            yield Step("set_link", {"name": name, "up": after}, ("set_link", {"name": name, "up": before}))

    def backend(self, dev: Interface, ctx: BuildContext) -> Iterator[Switch]:
        """Yield what the card is plugged into."""
        _check_backend(dev)
        if dev.type == InterfaceType.VHOSTUSER:
            yield _vhostuser_socket(dev)
        if dev.type == InterfaceType.VDPA:
            path = str(_source(dev).dev)
            fd = ctx.launch.fd_for_set(str(dev.alias.name))
            yield AddFd(ctx.launch.fdset(path), fd, path, origin=dev)
        props = _BACKENDS[dev.type](dev, ctx)
        yield Netdev({**props, "id": netdev_id(dev)}, origin=dev)


def _prepare_function(dev: Interface) -> None:
    """Refuse what a function of the host cannot be told for a guest, and say how it is passed through."""
    vfio.check_backend(dev)
    plugged = dev.plugged()
    port = plugged.virtualport
    if port is not None and plugged.vlan is not None:
        raise ConfigUnsupported(
            f"direct setting of the vlan tag is not allowed for hostdev devices using {port.type} mode"
        )
    if port is not None:
        raise ConfigUnsupported(
            f"virtualport type {port.type} is currently not supported on interfaces of type hostdev"
        )
    if plugged.vlan is not None and (plugged.vlan.trunk or len(plugged.vlan.tags) != 1):
        raise ConfigUnsupported("vlan trunking is not supported by SR-IOV network devices")
    if dev.actual is not None:
        dev.actual.driver.name = "vfio"
    else:
        dev.driver.name = "vfio"


def native(dev: Interface) -> Interface:
    """Return the interface as ``domxml-to-native`` shows it: a tap that the reader has to make.

    libvirt keeps the model, MAC, script and place in ``<os><boot>``, nothing else; the address is given anew.
    """
    plain = Interface(type=InterfaceType.ETHERNET)
    plain.line = dev.line
    plain.mac = dev.mac.copy()
    plain.model = dev.model.copy()
    if dev.type == InterfaceType.VDPA and plain.model.type is None:
        plain.model.type = "virtio"
    plain.script = dev.script
    return plain


def wanted_tap(dev: Interface, *, kvm: bool) -> TapResource:
    """Return what an interface with a tap needs of the host. kvm: whether the guest runs in the kernel.

    libvirt uses the kernel's help only for guests that run in the kernel, too.
    """
    vhost = kvm and dev.is_virtio and dev.driver.name != "qemu"
    return TapResource(
        dev,
        str(dev.alias.name),
        queues=queues(dev),
        vhost=vhost,
        vhost_required=vhost and dev.driver.name == "vhost",
    )


def netdev_id(dev: Interface) -> str:
    """Return the id of the card's backend."""
    return f"host{dev.alias.name}"


def queues(dev: Interface) -> int:
    """Return how many queues the card has."""
    return (dev.driver.queues or 1) if dev.is_virtio else 1


def default_model(ctx: Context) -> str:
    """Return the card a machine gets when the document names none, as libvirt chooses it."""
    domain = ctx.domain
    arch = domain.os.type.arch or ""
    machine = domain.os.type.machine or ""
    if is_s390(domain):
        return "virtio"
    if arch in ("armv6l", "armv7l", "aarch64"):
        if machine == "versatilepb":
            return "smc91c111"
        return "virtio" if is_arm_virt(domain) else "lan9118"
    if is_riscv_virt(domain):
        return "virtio"
    for model, device in (("rtl8139", "rtl8139"), ("e1000", "e1000"), ("virtio", "virtio-net-device")):
        if ctx.caps.has_device(device):
            return model
    return "rtl8139"


# ------------------------------------------------------------ the card


def device_props(dev: Interface, ctx: BuildContext) -> Props:
    """Return the properties of the card."""
    props: Props = {"driver": dev.model.type}
    if dev.is_virtio:
        props["driver"] = virtio_type("virtio-net", dev, dev.model.type)
        props |= VIRTIO_NET.render(dev, ctx)
        count = queues(dev)
        if count > 1 and dev.type in _MULTIQUEUE:
            props["mq"] = True
            if not isinstance(dev.address, CcwAddress):
                # one for each direction of each queue, one for control, one for configuration changes
                props["vectors"] = 2 * count + 2
        if dev.teaming is not None and dev.teaming.type == "persistent":
            props["failover"] = True
        props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
    props |= {
        "netdev": netdev_id(dev),
        "id": dev.alias.name,
        "mac": dev.mac.address,
        "bootindex": boot_index(dev, ctx.domain),
    }
    return props | placement(dev, ctx) | rom(dev)


# ------------------------------------------------------------ backends


def _source(dev: Interface) -> InterfaceSource:
    return dev.source or InterfaceSource()


def _tap(dev: Interface, ctx: BuildContext) -> Props:
    name = str(dev.alias.name)
    count = queues(dev)
    props: Props = {"type": "tap", **_descriptors("fd", ctx.launch.fds(name, count))}
    vhost = TapResource(dev, name).vhost_name
    if ctx.launch.has(vhost):
        props |= {"vhost": True, **_descriptors("vhostfd", ctx.launch.fds(vhost, count))}
    props["sndbuf"] = dev.tune.sndbuf
    return props


def _descriptors(name: str, fds: list[str]) -> Props:
    return {name: fds[0]} if len(fds) == 1 else {f"{name}s": ":".join(fds)}


def passt_socket(run: str, id: int, domain: str, dev: Interface) -> str:
    """Return where the passt of an interface listens. run: the folder of all of them."""
    return f"{run}/{id}-{domain[:20]}-{dev.alias.name}.socket"


def _user(dev: Interface, ctx: BuildContext) -> Props:
    if dev.uses_passt:
        path = passt_socket(f"{ctx.dirs.run}/passt", ctx.launch.id, ctx.domain.name, dev)
        return {"type": "stream", "addr": {"type": "unix", "path": path}, "server": False}
    props: Props = {"type": "user"}
    for ip in dev.ips:
        if ip.family == "ipv6":
            props |= {"ipv6-prefix": ip.address, "ipv6-prefixlen": ip.prefix}
        else:
            props["net"] = f"{ip.address}/{ip.prefix}" if ip.prefix else ip.address
    return props


def _socket(key: str) -> Callable[[Interface, BuildContext], Props]:
    def props(dev: Interface, ctx: BuildContext) -> Props:
        source = _source(dev)
        return {"type": "socket", key: f"{source.address or ''}:{source.port}"}

    return props


def _udp(dev: Interface, ctx: BuildContext) -> Props:
    local = _source(dev).local
    here = f"{local.address}:{local.port}" if local is not None else None
    return {**_socket("udp")(dev, ctx), "localaddr": here}


def _vhostuser(dev: Interface, ctx: BuildContext) -> Props:
    count = queues(dev)
    return {"type": "vhost-user", "chardev": f"char{dev.alias.name}", "queues": count if count > 1 else None}


def _vhostuser_socket(dev: Interface) -> Chardev:
    source = _source(dev)
    again = source.reconnect
    return Chardev(
        "socket",
        {
            "id": f"char{dev.alias.name}",
            "path": source.path,
            "server": True if source.mode == "server" else None,
            "reconnect": again.timeout if again is not None and again.enabled else None,
        },
        origin=dev,
    )


def _vdpa(dev: Interface, ctx: BuildContext) -> Props:
    count = queues(dev)
    place = f"/dev/fdset/{ctx.launch.fdset(str(_source(dev).dev))}"
    return {"type": "vhost-vdpa", "vhostdev": place, "queues": count if count > 1 else None}


_BACKENDS: dict[str, Callable[[Interface, BuildContext], Props]] = {
    InterfaceType.USER: _user,
    # libvirt has no backend of its own for this one
    InterfaceType.INTERNAL: _user,
    InterfaceType.ETHERNET: _tap,
    InterfaceType.NETWORK: _tap,
    InterfaceType.BRIDGE: _tap,
    InterfaceType.DIRECT: _tap,
    InterfaceType.SERVER: _socket("listen"),
    InterfaceType.CLIENT: _socket("connect"),
    InterfaceType.MCAST: _socket("mcast"),
    InterfaceType.UDP: _udp,
    InterfaceType.VHOSTUSER: _vhostuser,
    InterfaceType.VDPA: _vdpa,
}


def _check_backend(dev: Interface) -> None:
    if dev.type in (InterfaceType.NULL, InterfaceType.VDS):
        raise ConfigUnsupported(f"network device type '{dev.type}' is not supported by QEMU")
    kind = dev.actual_type
    if dev.script is not None and dev.script.path and kind != InterfaceType.ETHERNET:
        raise ConfigUnsupported(f"scripts are not supported on interfaces of type {kind}")
    if dev.vlan is not None and kind != InterfaceType.HOSTDEV and not dev.uses_tap:
        raise ConfigUnsupported(
            f"interface {dev.mac.address} - vlan tag not supported for this connection type",
            domain=ErrorDomain.DOMAIN,
        )
    if dev.driver.queues and dev.driver.queues > 1 and dev.is_virtio and dev.type not in _MULTIQUEUE:
        raise ConfigUnsupported(
            f"interface {dev.mac.address} - multiqueue is not supported for network interfaces of type "
            f"{dev.type}"
        )


# ------------------------------------------------------------ defaults


def _forget_live(dev: Interface) -> None:
    """Drop what only the XML of a running domain says."""
    dev.unplug()
    if dev.target.managed is not False and (dev.target.dev or "").startswith(_GENERATED_NAMES):
        dev.target.dev = None
    dev.guest.actual = None


def _complete_port(dev: Interface, ctx: Context) -> None:
    """Make up the identities of a virtual port that nobody chose."""
    port = dev.virtualport
    if port is None:
        return
    wanted = {
        "802.1Qbg": ("instanceid",),
        "openvswitch": ("interfaceid",),
        None: ("instanceid", "interfaceid"),
    }.get(port.type, ())
    for name in wanted:
        if port.parameters is None:
            port.parameters = VirtualPortParameters()
        if getattr(port.parameters, name) is None:
            setattr(port.parameters, name, ctx.generate_uuid())


# ------------------------------------------------------------ rules


def _check_card(dev: Interface) -> None:
    driver = dev.driver
    if not dev.is_virtio:
        for name in ("iommu", "ats", "packed"):
            if getattr(driver, name) is not None:
                raise ConfigUnsupported(f"{name} driver option is only supported for virtio devices")
        if driver.page_per_vq is not None:
            raise ConfigUnsupported("page_per_vq option is only supported for virtio devices")
        return
    if driver.name in ("vfio", "kvm", "xen") and dev.type != InterfaceType.HOSTDEV:
        raise XmlError(f"Invalid value for attribute 'name' in element 'driver': '{driver.name}'.")
    _check_queue_sizes(driver, dev)


def _check_queue_sizes(driver: InterfaceDriver, dev: Interface) -> None:
    for name in ("rx_queue_size", "tx_queue_size"):
        size = getattr(driver, name)
        if size and size & (size - 1):
            raise ConfigUnsupported(f"{name} has to be a power of two")
    if driver.rss_hash_report and not driver.rss:
        raise ConfigUnsupported('"rss_hash_report" can\'t be used without "rss"')


def _check_host_side(dev: Interface) -> None:
    kind = dev.type
    if not dev.uses_passt:
        if dev.port_forwards:
            raise ConfigUnsupported(
                "The <portForward> element can only be used with <interface type='user'> and its "
                "'passt' backend"
            )
        if dev.backend.log_file:
            raise ConfigUnsupported("The logFile attribute is only supported with the 'passt' backend")
    if dev.type not in (InterfaceType.USER, InterfaceType.HOSTDEV) and (dev.ips or dev.routes):
        raise ConfigUnsupported(
            "Invalid attempt to set network interface guest-side IP route and/or address info, "
            "not supported by QEMU"
        )
    if kind == InterfaceType.USER:
        for family, name in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
            if sum(ip.family == family for ip in dev.ips) > 1:
                raise ConfigUnsupported(f"Only one {name} address per interface is allowed")
    source = dev.source
    if source is not None and (source.ips or source.routes) and kind != InterfaceType.ETHERNET:
        raise ConfigUnsupported(
            "Invalid attempt to set network interface host-side IP route and/or address info on interface "
            f"of type '{kind}'. This is only supported on interfaces of type 'ethernet'"
        )
    if kind == InterfaceType.VDPA and dev.model.type not in (None, "virtio"):
        shown = dev.model.type if dev.model.type in KNOWN_MODELS else "unknown"
        raise ConfigUnsupported(f"invalid model for interface of type '{kind}': '{shown}'")
    bridged = (InterfaceType.NETWORK, InterfaceType.BRIDGE, InterfaceType.ETHERNET)
    taps = (*bridged, InterfaceType.DIRECT)
    if dev.mtu.size and kind not in (*bridged, InterfaceType.VHOSTUSER) and not dev.uses_passt:
        raise ConfigUnsupported(f"setting MTU on interface type {kind} is not supported yet")
    if dev.coalesce.rx.frames.max and kind not in taps:
        raise ConfigUnsupported(f"coalesce settings on interface type {kind} are not supported")
    inbound = dev.bandwidth.inbound if dev.bandwidth is not None else None
    if inbound is not None and inbound.floor and kind != InterfaceType.NETWORK:
        raise ConfigUnsupported("floor attribute is not supported for this config", domain=ErrorDomain.NONE)
    if dev.port.isolated:
        port = dev.virtualport.type if dev.virtualport is not None else None
        if kind not in (InterfaceType.NETWORK, InterfaceType.BRIDGE):
            raise ConfigUnsupported(
                f"interface {dev.mac.address} - <port isolated='yes'/> is not supported for network "
                f"interfaces with type='{kind}'"
            )
        if port is not None:
            raise ConfigUnsupported(
                f"interface {dev.mac.address} - <port isolated='yes'/> is not supported for network "
                f"interfaces with virtualport type='{port}'"
            )


def _check_teaming(dev: Interface) -> None:
    team = dev.teaming
    if team is None:
        return
    if team.type == "persistent":
        if team.persistent is not None:
            raise ConfigUnsupported(
                "teaming persistent attribute not allowed if teaming type is 'persistent'"
            )
        if not dev.is_virtio:
            raise ConfigUnsupported(
                "virtio-net teaming persistent interface must be <model type='virtio'/>, "
                f"not '{dev.model.type}'"
            )
        return
    if team.persistent is None:
        raise ConfigUnsupported("teaming persistent attribute must be set if teaming type is 'transient'")
    if dev.type != InterfaceType.HOSTDEV and dev.type != InterfaceType.NETWORK:
        raise ConfigUnsupported(
            f"virtio-net teaming transient interface must be type='hostdev', not '{dev.type}'"
        )


def own_scripts(dev: Interface) -> Props:
    """Return the programs a document names for its tap, by what QEMU calls them."""
    named = {"script": dev.script, "downscript": dev.downscript}
    return {name: said.path for name, said in named.items() if said is not None and said.path}
