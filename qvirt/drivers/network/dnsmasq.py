"""dnsmasq as a process: started, told of changes, watched, stopped. It outlives the daemon, as in libvirt.

It writes its leases to a file itself: no helper runs for a lease, and whoever asks reads what is true now.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from qvirt.drivers.network import dnsmasq_config
from qvirt.drivers.network.network import NetworkFolders
from qvirt.errors import InternalError, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.persist import remove, write_atomic
from qvirt.host.proc import start_time
from qvirt.model.network import Network
from qvirt.record import Record
from qvirt.security.launcher import confining

#: what it needs to serve addresses and names, and to become the user it runs as
_CAPABILITIES = ("net_admin", "net_bind_service", "net_raw", "setuid", "setgid", "setpcap", "chown")

_DEADLINE = 15.0
#: seconds to end after SIGTERM, and after SIGKILL
_PATIENCE = 2.0


class Process(Record):
    """A running dnsmasq. started: the kernel's start time, since numbers are used again."""

    pid: int
    started: int

    @property
    def is_there(self) -> bool:
        """Tell whether it has not ended. Reads /proc."""
        return start_time(self.pid) == self.started


def config_file(folders: NetworkFolders, name: str) -> Path:
    return folders.dnsmasq / f"{name}.conf"


def lease_file(folders: NetworkFolders, name: str) -> Path:
    return folders.dnsmasq / f"{name}.leases"


def pid_file(folders: NetworkFolders, name: str) -> Path:
    return folders.run / f"{name}.pid"


def _hosts_file(folders: NetworkFolders, name: str) -> Path:
    return folders.dnsmasq / f"{name}.hostsfile"


def _names_file(folders: NetworkFolders, name: str) -> Path:
    return folders.dnsmasq / f"{name}.addnhosts"


def _program() -> str:
    path = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin:/sbin")
    if path is None:
        raise SystemError_(
            "Cannot check dnsmasq binary dnsmasq: No such file or directory: networks with DHCP or DNS need "
            "it; install the package dnsmasq-base"
        )
    return path


def _files(folders: NetworkFolders, network: Network) -> list[tuple[Path, bytes, int]]:
    """Return configuration, host and name files: where, what is in them, mode."""
    name = network.name
    text = dnsmasq_config.config(
        network,
        pid_file=str(pid_file(folders, name)),
        hosts_file=str(_hosts_file(folders, name)),
        names_file=str(_names_file(folders, name)),
    )
    return [
        (path, content.encode("utf-8", "surrogateescape"), mode)
        for path, content, mode in (
            (config_file(folders, name), text, 0o600),
            (_hosts_file(folders, name), dnsmasq_config.hosts(network), 0o644),
            (_names_file(folders, name), dnsmasq_config.names(network), 0o644),
        )
    ]


def write_files(folders: NetworkFolders, network: Network) -> None:
    """Write configuration, host and name files. Blocking. Raises SystemError_."""
    for path, content, mode in _files(folders, network):
        write_atomic(path, content, mode, sync=False)
        path.chmod(mode)


def start(folders: NetworkFolders, network: Network) -> Process:
    """Start dnsmasq; it serves when this returns. Blocking. Raises SystemError_, InternalError."""
    program = _program()
    write_files(folders, network)
    name = network.name
    command = [
        *(confining(QemuUser(0, 0), keep=_CAPABILITIES) if os.geteuid() == 0 else []),
        program,
        f"--conf-file={config_file(folders, name)}",
        f"--dhcp-leasefile={lease_file(folders, name)}",
    ]
    env = {"PATH": os.environ.get("PATH", os.defpath), "VIR_BRIDGE_NAME": network.bridge_name or ""}
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            timeout=_DEADLINE,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise InternalError(f"'{' '.join(command)}' did not start within {_DEADLINE:g} s") from error
    except OSError as error:
        raise SystemError_(f"cannot run '{program}'", error) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise InternalError(
            f"Child process (VIR_BRIDGE_NAME={network.bridge_name} {' '.join(command)}) unexpected exit "
            f"status {done.returncode}: {said}"
        )
    found = running(folders, name)
    if found is None:
        raise InternalError(f"dnsmasq of network '{name}' ended right after it was started")
    return found


def running(folders: NetworkFolders, name: str) -> Process | None:
    """Return the dnsmasq of a network, by its pid file and only if it is ours. Blocking."""
    try:
        pid = int(pid_file(folders, name).read_text(encoding="ascii"))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    if f"--conf-file={config_file(folders, name)}".encode() not in words:
        return None
    started = start_time(pid)
    return Process(pid, started) if started is not None else None


def take_up(folders: NetworkFolders, network: Network) -> Process:
    """Return the dnsmasq of a network, which serves what the network says; started where there is none.

    A daemon that died while it changed a network has left files, or a dnsmasq, that say something else. One
    that libvirt started is left as it is: what it was told is as good. Blocking. Raises SystemError_,
    InternalError.
    """
    process = running(folders, network.name)
    if process is None:
        return start(folders, network)
    if not _is_ours(folders, network.name, process):
        return process
    stale = [path for path, content, _ in _files(folders, network) if _content(path) != content]
    if config_file(folders, network.name) in stale:
        stop(folders, network.name, process)
        return start(folders, network)
    if stale:
        reload(folders, network, process)
    return process


def _is_ours(folders: NetworkFolders, name: str, process: Process) -> bool:
    """Tell whether we have started it: libvirt lets a program of its own keep the leases."""
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"--dhcp-leasefile={lease_file(folders, name)}".encode() in words


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def reload(folders: NetworkFolders, network: Network, process: Process) -> None:
    """Write the files again and let dnsmasq read those of hosts and names. Blocking."""
    write_files(folders, network)
    if process.is_there:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGHUP)


def stop(folders: NetworkFolders, name: str, process: Process | None = None) -> None:
    """End dnsmasq and remove its files but the leases. Blocking. Raises InternalError."""
    process = process or running(folders, name)
    if process is not None:
        _end(process, name)
    for path in (
        pid_file(folders, name),
        config_file(folders, name),
        _hosts_file(folders, name),
        _names_file(folders, name),
    ):
        remove(path)


def forget(folders: NetworkFolders, name: str) -> None:
    """Remove what is kept of a network while it is not active: its leases. Blocking. Raises SystemError_."""
    remove(lease_file(folders, name))


def collect(process: Process) -> None:
    """Collect a dnsmasq that has ended: it went into the background, and orphans come back to the daemon."""
    with contextlib.suppress(ChildProcessError):  # an earlier daemon's
        os.waitpid(process.pid, os.WNOHANG)


def _end(process: Process, name: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.is_there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        deadline = time.monotonic() + _PATIENCE
        pause = 0.001
        while time.monotonic() < deadline:
            if not process.is_there:
                collect(process)
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
    raise InternalError(f"dnsmasq of network '{name}' (pid {process.pid}) does not end")
