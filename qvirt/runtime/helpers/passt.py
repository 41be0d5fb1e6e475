"""passt: networking for a ``user`` interface by a process of its own, started before QEMU connects to it.

It ends by itself when QEMU closes the connection (``--one-off``). It needs no power of root's, and shuts
itself into namespaces of its own.
"""

import os
import pwd
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.errors import OperationFailed, SystemError_
from qvirt.host.config import QemuUser
from qvirt.model.devices.interface import Interface, PortForward, PortRange
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.interface import passt_socket
from qvirt.runtime.helpers.processes import Recipe
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

PROGRAM = "passt"


def name(alias: str) -> str:
    """Return what the passt of an interface is called within its guest."""
    return f"{alias}-passt"


def recipe(domain: "Domain", running: Running, dev: Interface, ctx: BuildContext) -> Recipe | None:
    """Return how the passt of an interface is made; None for one that has none.

    Raises OperationFailed where it is not installed.
    """
    if not dev.uses_passt:
        return None
    if shutil.which(PROGRAM) is None:
        raise OperationFailed(
            f"interface {dev.mac.address} asks for <backend type='passt'/>, and the program '{PROGRAM}' is "
            "not installed; install it, or remove the element for QEMU's own networking"
        )
    hv = domain.hypervisor
    socket = passt_socket(f"{ctx.dirs.run}/passt", running.id, domain.name, dev)
    pidfile = f"{socket.removesuffix('.socket')}-passt.pid"
    words = command(socket, pidfile, dev)
    user = _user(running.user)
    return Recipe(
        name(str(dev.alias.name)),
        lambda _: words,
        user,
        hv.paths.log / f"{domain.name}-{dev.alias.name}-passt.log",
        files=(socket, pidfile),
        prepare=partial(hv.files.run, f"passt of '{domain.name}'", partial(_make_folder, socket, user)),
        is_ready=partial(_serves, pidfile),
    )


def _user(user: QemuUser | None) -> QemuUser | None:
    """Return whom it runs as: QEMU's user, and never root."""
    if user is None or user.uid:
        return user
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return QemuUser(65534, 65534, (65534,))
    return QemuUser(nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid,))


def _make_folder(socket: str, user: QemuUser | None) -> None:
    """Make the folder of the sockets, and room for this one. Blocking. Raises SystemError_."""
    folder = Path(socket).parent
    try:
        folder.mkdir(mode=0o770, parents=True, exist_ok=True)
        if user is not None:
            os.chown(folder, user.uid, user.gid)
        Path(socket).unlink(missing_ok=True)
    except OSError as error:
        raise SystemError_(f"Failed to create passt state directory '{folder}'", error) from error


def _serves(pidfile: str) -> bool:
    """Tell whether passt listens: it writes its pid file after that, and makes it long before. Blocking."""
    try:
        return os.stat(pidfile).st_size > 0
    except FileNotFoundError:
        return False


def command(socket: str, pidfile: str, interface: Interface) -> list[str]:
    """Return passt's command line for an interface, as libvirt words it.

    Without the ``--mac-addr`` of libvirt 9.0: that is passt's own address, which must not be the guest's.
    """
    words = [PROGRAM, "--foreground", "--one-off", "--socket", socket, "--pid", pidfile]
    words += ["--log-file", interface.backend.log_file] if interface.backend.log_file else ["--quiet"]
    if interface.mtu.size:
        words += ["--mtu", str(interface.mtu.size)]
    if interface.source is not None and interface.source.dev:
        words += ["--interface", interface.source.dev]
    for ip in interface.ips:
        words += ["--address", ip.address or ""]
        if ip.prefix and ip.family == "ipv4":
            words += ["--netmask", str(ip.prefix)]
    for forward in interface.port_forwards:
        words += [f"--{forward.proto}-ports", _ports(forward)]
    return words


def _ports(forward: PortForward) -> str:
    where = forward.address or ""
    if forward.dev:
        where += f"%{forward.dev}"
    ranges = ",".join(_range(each) for each in forward.ranges)
    if not ranges:
        return f"{where}/1-65535" if where else "all"
    return f"{where}/{ranges}" if where else ranges


def _range(ports: PortRange) -> str:
    text = f"~{ports.start}" if ports.exclude else str(ports.start)
    if ports.end:
        text += f"-{ports.end}"
    if ports.to:
        text += f":{ports.to}"
        if ports.end:
            text += f"-{ports.to + ports.end - ports.start}"
    return text
