"""passt: networking for a ``user`` interface by a process of its own, started before QEMU connects to it.

It ends by itself when QEMU closes the connection (``--one-off``); one that QEMU never came to is ended here.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from qvirt.errors import InternalError, OperationFailed, SystemError_
from qvirt.host.config import QemuUser
from qvirt.model.devices.interface import Interface, PortForward, PortRange
from qvirt.qemu.devices.interface import passt_socket

PROGRAM = "passt"
_DEADLINE = 20.0
_STOP_WAIT = 2.0


def _pidfile(socket: str) -> str:
    return f"{socket.removesuffix('.socket')}-passt.pid"


def traces(run: str, id: int, domain: str, interface: Interface) -> list[str]:
    """Return the files a passt leaves: its socket and its pid file."""
    socket = passt_socket(run, id, domain, interface)
    return [socket, _pidfile(socket)]


def command(socket: str, interface: Interface) -> list[str]:
    """Return passt's command line for an interface, as libvirt words it.

    Without the ``--mac-addr`` of libvirt 9.0: that is passt's own address, which must not be the guest's.
    """
    words = [PROGRAM, "--one-off", "--socket", socket, "--pid", _pidfile(socket)]
    if interface.mtu.size:
        words += ["--mtu", str(interface.mtu.size)]
    if interface.source is not None and interface.source.dev:
        words += ["--interface", interface.source.dev]
    if interface.backend.log_file:
        words += ["--log-file", interface.backend.log_file]
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


def start(run: str, id: int, domain: str, interface: Interface, user: QemuUser | None) -> None:
    """Start a passt, which listens when this returns. Blocking.

    Raises OperationFailed when passt is not installed or refuses, with what it said.
    """
    socket = passt_socket(run, id, domain, interface)
    words = command(socket, interface)
    uid, gid = _identity(user)
    try:
        folder = Path(socket).parent
        folder.mkdir(mode=0o770, parents=True, exist_ok=True)
        for path in traces(run, id, domain, interface):
            Path(path).unlink(missing_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, uid, gid)
            words += ["--runas", f"{uid}:{gid}"]
    except OSError as error:
        raise SystemError_(f"Failed to create passt state directory '{run}'", error) from error
    with tempfile.TemporaryFile() as said:
        # a file, as the process that goes on in the background would keep a pipe open
        try:
            done = subprocess.run(
                words,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=_DEADLINE,
                cwd="/",
            )
        except FileNotFoundError as error:
            raise OperationFailed(
                f"interface {interface.mac.address} asks for <backend type='passt'/>, and the program "
                f"'{PROGRAM}' is not installed; install it, or remove the element for QEMU's own networking"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InternalError(f"Could not start 'passt': {error}") from error
        if done.returncode:
            said.seek(0)
            words_of_passt = said.read().decode(errors="replace").strip()[-1000:]
            raise OperationFailed(f"Could not start 'passt'. exitstatus: {done.returncode}: {words_of_passt}")


def _identity(user: QemuUser | None) -> tuple[int, int]:
    """Return whom it runs as: QEMU's user, and never root."""
    if user is not None and user.uid:
        return user.uid, user.gid
    if os.geteuid():
        return os.geteuid(), os.getegid()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def stop(run: str, id: int, domain: str, interface: Interface) -> None:
    """End a passt that still runs, and remove its files. Blocking; harmless when it is gone."""
    socket = passt_socket(run, id, domain, interface)
    with contextlib.suppress(OSError, ValueError):
        pid = int(Path(_pidfile(socket)).read_text(encoding="ascii"))
        fd = os.pidfd_open(pid)
        try:
            _end(fd, pid, socket)
        finally:
            os.close(fd)
    for path in traces(run, id, domain, interface):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _end(fd: int, pid: int, socket: str) -> None:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if socket.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # the number is another process's by now
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        end = time.monotonic() + _STOP_WAIT
        while Path(f"/proc/{pid}/cmdline").read_bytes():
            if time.monotonic() > end:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                return
            time.sleep(0.01)
