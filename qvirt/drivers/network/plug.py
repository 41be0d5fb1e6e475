"""The host's end of a guest's interface: tap or macvtap made, dressed, put into its bridge; and taken away.

Boot and hot-plug use the same two functions, `plug` and `unplug`. Both block and are called in a thread.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from qvirt.drivers.network import bridge_helper, shaping, switchport
from qvirt.errors import ConfigUnsupported, OperationFailed, OperationUnsupported, QvirtError, SystemError_
from qvirt.host import links, nic, taps
from qvirt.host.persist import write_atomic
from qvirt.model.devices.interface import Interface, InterfaceSource, InterfaceType
from qvirt.qemu.devices.base import TapResource

#: what the kernel gives a tap that nobody says an MTU for (ETH_DATA_LEN)
_ETHERNET_MTU = 1500


class Connection:
    """What plugging an interface in has made: descriptors for QEMU, by the name of their resource.

    They are closed with the connection, unless somebody has taken them.
    """

    def __init__(self) -> None:
        self._fds: dict[str, list[int]] = {}
        self._closed = False
        self._lock = threading.Lock()

    def add(self, name: str, fds: Iterable[int]) -> None:
        """Keep descriptors; where nobody waits for them any more they are closed."""
        with self._lock:
            if not self._closed:
                self._fds.setdefault(name, []).extend(fds)
                return
        for fd in fds:
            os.close(fd)

    @property
    def names(self) -> list[str]:
        """The names there are descriptors for."""
        return list(self._fds)

    def fds(self, name: str) -> list[int]:
        """Return the descriptors of a name, which stay ours."""
        return list(self._fds.get(name, ()))

    def take(self) -> dict[str, list[int]]:
        """Hand the descriptors over; they are the caller's to close."""
        with self._lock:
            taken, self._fds = self._fds, {}
        return taken

    def close(self) -> None:
        """Close what nobody has taken."""
        with self._lock:
            self._closed = True
            fds, self._fds = self._fds, {}
        for fd in (fd for some in fds.values() for fd in some):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def outlives_qemu(interface: Interface) -> bool:
    """Tell whether the interface's device stays when its QEMU dies: a macvtap does, a tap does not."""
    return interface.actual_type == InterfaceType.DIRECT


def node(interface: Interface) -> str | None:
    """Return the node that QEMU gets descriptors of for this interface alone: a macvtap's. Blocking."""
    name = interface.target.dev
    if not name or not Path(f"/sys/class/net/{name}/macvtap").exists():
        return None
    try:
        return links.macvtap_node(name)
    except FileNotFoundError:
        return None  # it went away just now


def lower_device(interface: Interface) -> str | None:
    """Return the host's device whose MAC address the guest's takes the place of (passthrough)."""
    source = interface.plugged().source
    if interface.actual_type != InterfaceType.DIRECT or source is None or source.mode != "passthrough":
        return None
    return source.dev


def saved_mac(folder: Path, lower: str) -> str | None:
    """Return the address libvirt noted of a device that has a guest's; None where it noted none. Blocking."""
    try:
        said = json.loads((folder / lower).read_text())
    except (OSError, ValueError):
        return None
    mac = said.get("mac") if isinstance(said, dict) else None
    return mac if isinstance(mac, str) else None


def save_mac(folder: Path, lower: str, mac: str) -> None:
    """Note a device's own address where libvirt would look for it. Blocking; raises OSError."""
    write_atomic(folder / lower, (json.dumps({"mac": mac}, indent=2) + "\n").encode())


def plug(interface: Interface, wanted: TapResource, connection: Connection, *, helper: str) -> None:
    """Make the interface's device and keep its descriptors in the connection. Blocking.

    helper: the program that makes taps for a daemon that is not root. The device's name is noted in the
    interface. Raises SystemError_, ConfigUnsupported; then nothing stays
    but what `unplug` takes away.
    """
    plugged = interface.plugged()
    switchport.check(plugged)
    if plugged.type == InterfaceType.BRIDGE and bridge_helper.needed(plugged):
        interface.target.dev, fd = bridge_helper.make_tap(helper, plugged, wanted.queues)
        connection.add(wanted.name, [fd])
        _vhost(wanted, connection)
        _settings(interface, plugged)
        return
    if plugged.type == InterfaceType.DIRECT:
        connection.add(wanted.name, _macvtap(interface, plugged, wanted.queues))
    elif plugged.type in (InterfaceType.BRIDGE, InterfaceType.NETWORK, InterfaceType.ETHERNET):
        if plugged.type == InterfaceType.ETHERNET and interface.target.managed is False:
            connection.add(wanted.name, _foreign(interface, wanted.queues))
        else:
            _tap(interface, plugged, wanted, connection)
    else:
        raise ConfigUnsupported(f"interface type '{plugged.type}' is not plugged in by a device of the host")
    _vhost(wanted, connection)
    _settings(interface, plugged)


def open_vdpa(interface: Interface, connection: Connection | None = None) -> None:
    """Open the device of a ``vdpa`` interface; without a connection only see whether it is there.

    Blocking. Raises SystemError_.
    """
    path = (interface.source.dev if interface.source is not None else None) or ""
    try:
        if connection is None:
            os.stat(path)
        else:
            connection.add(str(interface.alias.name), [os.open(path, os.O_RDWR | os.O_CLOEXEC)])
    except OSError as error:
        raise SystemError_(f"Unable to open '{path}' for vdpa device", error) from error


def unplug(interface: Interface) -> list[str]:
    """Take away what outlives QEMU and run the user's own program; returns what failed. Blocking.

    Harmless for an interface that never was plugged in, or was unplugged before.
    """
    failures: list[str] = []
    name = interface.target.dev
    if not name:
        return failures
    plugged = interface.plugged()

    def attempt(step: str, error: QvirtError | OSError) -> None:
        failures.append(f"interface '{name}': {step}: {error}")

    if plugged.virtualport is not None and plugged.virtualport.type == "openvswitch":
        try:
            switchport.remove(name)
        except QvirtError as error:
            attempt("cannot leave the Open vSwitch bridge", error)
    if outlives_qemu(interface):
        try:
            links.remove_link(name)
        except QvirtError as error:
            attempt("cannot remove it", error)
    if interface.downscript is not None and interface.downscript.path:
        try:
            links.run_script(interface.downscript.path, name)
        except QvirtError as error:
            attempt("downscript", error)
    return failures


def change(old: Interface, new: Interface) -> None:
    """Bring a device from one description to another: bridge, isolation, MTU, limits, coalescing, link.

    Blocking. The other direction undoes it. Raises OperationUnsupported where it would take another device.
    """
    name = new.target.dev or ""
    before, after = old.plugged(), new.plugged()
    bridged = (InterfaceType.BRIDGE, InterfaceType.NETWORK)
    if before.type != after.type and not (before.type in bridged and after.type in bridged):
        raise OperationUnsupported(
            f"unable to change config on '{before.type}' network type: it would become '{after.type}'; "
            "detach the interface and attach it anew"
        )
    if after.type in bridged:
        switchport.check(after)
        joined = (_bridge_of(after), _switch(after))
        if (_bridge_of(before), _switch(before)) != joined or _master(name) not in (joined[0], None):
            bridge = _bridge_of(after)
            if _switch(after) is None and not (bridge and Path("/sys/class/net", bridge).exists()):
                raise OperationFailed(f"bridge {bridge} doesn't exist")
            _part(before, name)
            _join(after, name)
        elif bool(before.port.isolated) != bool(after.port.isolated):
            nic.isolate_port(name, bool(after.port.isolated))
    if before.mtu.size != after.mtu.size:
        taps.set_mtu(name, after.mtu.size or _usual_mtu(after))
    if (before.bandwidth and before.bandwidth.to_xml()) != (after.bandwidth and after.bandwidth.to_xml()):
        shaping.limit(name, after.bandwidth, swap=after.type == InterfaceType.DIRECT)
    frames = new.coalesce.rx.frames.max
    if (old.coalesce.rx.frames.max or 0) != (frames or 0):
        nic.set_coalesce(name, frames or 0)
    if old.link.state != new.link.state and new.target.managed is not False:
        taps.set_up(name, new.link.state != "down")


def _usual_mtu(plugged: Interface) -> int:
    """Return the MTU of a device whose description says none. Raises SystemError_."""
    if plugged.type in (InterfaceType.BRIDGE, InterfaceType.NETWORK):
        return taps.mtu(_bridge_of(plugged))
    return _ETHERNET_MTU


def _switch(plugged: Interface) -> str | None:
    return plugged.virtualport.type if plugged.virtualport is not None else None


def _part(plugged: Interface, name: str) -> None:
    """Take a tap out of its bridge; harmless when the bridge is gone."""
    if _switch(plugged) == "openvswitch":
        switchport.remove(name)
        return
    bridge = _master(name)
    if bridge is not None:
        taps.remove_from_bridge(bridge, name)


def rejoin(interface: Interface) -> bool:
    """Put an interface's tap into its bridge again, which has been made anew. Blocking. Raises SystemError_.

    Returns whether there was something to do.
    """
    plugged = interface.plugged()
    name = interface.target.dev
    if plugged.type not in (InterfaceType.BRIDGE, InterfaceType.NETWORK) or not name:
        return False
    if not Path(f"/sys/class/net/{name}").exists() or _master(name) == _bridge_of(plugged):
        return False
    _join(plugged, name)
    taps.set_up(name, interface.link.state != "down")
    return True


def _master(name: str) -> str | None:
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
    except OSError:
        return None


def _bridge_of(plugged: Interface) -> str:
    return (plugged.source.bridge if plugged.source is not None else None) or ""


def give_mac_back(lower: str, mac: str) -> list[str]:
    """Give a device of the host its own MAC address again; returns what failed. Blocking."""
    if not Path(f"/sys/class/net/{lower}").exists():
        return []
    try:
        if nic.mac(lower) != mac:
            taps.set_mac(lower, mac)
    except (QvirtError, OSError) as error:
        return [f"cannot give '{lower}' its MAC address {mac} back: {error}"]
    return []


# --------------------------------------------------------------------------- taps


def _tap(interface: Interface, plugged: Interface, wanted: TapResource, connection: Connection) -> None:
    name, fds = taps.create_tap(interface.target.dev or "vnet%d", wanted.queues)
    connection.add(wanted.name, fds)
    interface.target.dev = name
    if plugged.type != InterfaceType.ETHERNET:
        taps.set_mac(name, taps.tap_mac(interface.mac.address or "fe:00:00:00:00:00"))
        _join(plugged, name)
    elif interface.mtu.size:
        taps.set_mtu(name, interface.mtu.size)
    if interface.script is not None and interface.script.path:
        links.run_script(interface.script.path, name)
    taps.set_up(name, interface.link.state != "down")
    source = interface.source or InterfaceSource()
    if plugged.type == InterfaceType.ETHERNET:
        for ip in source.ips:
            links.add_address(name, ip.address or "", ip.prefix, ip.peer)
        for route in source.routes:
            links.add_route(name, route.target, route.gateway or "", route.metric)


def _join(plugged: Interface, name: str) -> None:
    """Make a tap a port of its bridge, with the bridge's MTU where none is asked for."""
    bridge = _bridge_of(plugged)
    size = plugged.mtu.size
    if plugged.virtualport is not None and plugged.virtualport.type == "openvswitch":
        if size:
            taps.set_mtu(name, size)
        switchport.add(bridge, name, plugged)
        return
    try:
        taps.set_mtu(name, size or taps.mtu(bridge))
    except SystemError_ as error:
        network = plugged.source.network if plugged.source is not None else None
        if network and not Path(f"/sys/class/net/{bridge}").exists():
            error.add(
                f"something has removed the bridge of network '{network}': virsh net-destroy {network}; "
                f"virsh net-start {network}"
            )
        raise
    taps.add_to_bridge(bridge, name)
    if plugged.source is not None and plugged.source.mac_table_manager == "libvirt":
        nic.tell_address(name, plugged.mac.address or "")
    if plugged.port.isolated:
        nic.isolate_port(name)


def _foreign(interface: Interface, count: int) -> list[int]:
    """Open a tap or macvtap that somebody else has made, and change nothing about it."""
    name = interface.target.dev or ""
    if not Path(f"/sys/class/net/{name}").exists():
        raise SystemError_(f"target managed='no' but specified dev doesn't exist: '{name}'")
    if Path(f"/sys/class/net/{name}/macvtap").exists():
        return links.open_macvtap(name, count)
    return taps.create_tap(name, count)[1]


def _vhost(wanted: TapResource, connection: Connection) -> None:
    """Let the kernel serve the queues, where the guest's kind allows it and the host can."""
    if not wanted.vhost:
        return
    fds: list[int] = []
    for _ in range(wanted.queues):
        try:
            fd = taps.open_vhost()
        except BaseException:
            for opened in fds:
                os.close(opened)
            raise
        if fd is None:
            for opened in fds:
                os.close(opened)
            if wanted.vhost_required:
                raise ConfigUnsupported("vhost-net was requested for an interface, but is unavailable")
            return
        fds.append(fd)
    connection.add(wanted.vhost_name, fds)


# ------------------------------------------------------------------------ macvtap


def _macvtap(interface: Interface, plugged: Interface, count: int) -> list[int]:
    source = plugged.source or InterfaceSource()
    lower, mode = source.dev or "", source.mode or "vepa"
    mac = interface.mac.address or ""
    if mode == "passthrough":
        # the guest's address has to be the device's own, or the device would not take its packets
        with contextlib.suppress(FileNotFoundError):
            if nic.mac(lower) != mac:
                taps.set_mac(lower, mac)
    name = links.make_macvtap(lower, mode, mac, interface.target.dev or "")
    try:
        if interface.mtu.size:
            taps.set_mtu(name, interface.mtu.size)
        if interface.link.state == "down":
            taps.set_up(name, False)
        fds = links.open_macvtap(name, count)
    except QvirtError:
        with contextlib.suppress(QvirtError):  # why it is of no use is told; `unplug` tries again
            links.remove_link(name)
        raise
    return fds


# ----------------------------------------------------------------------- settings


def _settings(interface: Interface, plugged: Interface) -> None:
    """Give a device what may also be changed while the guest runs: coalescing, limits."""
    name = interface.target.dev or ""
    if plugged.bandwidth is not None:
        shaping.limit(name, plugged.bandwidth, swap=plugged.type == InterfaceType.DIRECT)
    frames = interface.coalesce.rx.frames.max
    if frames:
        nic.set_coalesce(name, frames)
