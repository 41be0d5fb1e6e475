"""Which unix socket a URI means, and which daemon may be started to serve it; decides, opens nothing.

The order is libvirt's: an explicit `socket=`, else by `mode=` or remote_mode, else the modular daemon's
socket where it exists, else the monolithic one.
"""

import contextlib
import os
import pwd
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from qvirt.client.config import ClientConfig
from qvirt.client.uri import Uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InvalidArg
from qvirt.record import Record

SYSTEM_DIRECTORY: Final = "/run/libvirt"
MODULAR_DRIVERS: Final = {
    "qemu": "qemu",
    "network": "network",
    "storage": "storage",
    "nodedev": "nodedev",
    "secret": "secret",
    "interface": "interface",
    "nwfilter": "nwfilter",
    "lxc": "lxc",
    "xen": "xen",
    "vbox": "vbox",
    "bhyve": "bhyve",
    "ch": "ch",
}
"""URI driver -> the word in its daemon's name."""

MODES: Final = ("auto", "legacy", "direct")


class SocketChoice(Record):
    """A socket to connect to.

    daemon: program that may be started when nobody listens there, None when none may.
    lock: file to lock while starting it.
    """

    path: str
    daemon: str | None = None
    lock: str | None = None


class Host(Record):
    """What the choice depends on; a test gives its own."""

    euid: int
    environ: Mapping[str, str]
    exists: Callable[[str], bool]

    @classmethod
    def here(cls) -> "Host":
        """Give this process's."""
        return cls(os.geteuid(), os.environ, os.path.exists)


def is_session(uri: Uri, euid: int) -> bool:
    """Tell whether the URI means the user's own daemon; for root every local URI is the system's."""
    return euid != 0 and (uri.path == "/session" or not uri.driver)


def session_directory(environ: Mapping[str, str], uid: int) -> str:
    """Give the directory of a user's session daemon's sockets."""
    runtime = environ.get("XDG_RUNTIME_DIR") or environ.get("XDG_CACHE_HOME")
    if not runtime:
        home = environ.get("HOME")
        if not home:
            with contextlib.suppress(KeyError):
                home = pwd.getpwuid(uid).pw_dir
        runtime = os.path.join(home or "/", ".cache")
    return os.path.join(runtime, "libvirt")


def choose(uri: Uri, *, readonly: bool, config: ClientConfig, host: Host) -> SocketChoice:
    """Choose the socket for a URI; raises InvalidArg, ConfigUnsupported for a mode that makes no sense."""
    explicit = uri.parameter("socket")
    if explicit is not None:
        return SocketChoice(explicit)
    session = is_session(uri, host.euid)
    directory = session_directory(host.environ, host.euid) if session else SYSTEM_DIRECTORY
    # A session daemon serves its owner only and has no socket of lesser rights.
    suffix = "-sock-ro" if readonly and not session else "-sock"
    mode = uri.parameter("mode") or config.remote_mode or "auto"
    if mode not in MODES:
        raise InvalidArg(
            f"Unknown remote mode '{mode}', expected auto, legacy or direct", domain=ErrorDomain.REMOTE
        )
    word = MODULAR_DRIVERS.get(uri.driver)
    modular = f"virt{word}d" if word else None
    daemon = "libvirt"
    if mode == "direct":
        if modular is None:
            raise ConfigUnsupported(
                f"Cannot use direct socket mode: driver '{uri.driver}' has no daemon of its own",
                domain=ErrorDomain.REMOTE,
            )
        daemon = modular
    elif mode == "auto" and modular and host.exists(f"{directory}/{modular}{suffix}"):
        daemon = modular
    path = f"{directory}/{daemon}{suffix}"
    if not session or host.environ.get("LIBVIRT_AUTOSTART") == "0":
        return SocketChoice(path)
    name = "libvirtd" if daemon == "libvirt" else daemon
    return SocketChoice(path, find_daemon(name, host), f"{directory}/{name}.lock")


def find_daemon(name: str, host: Host) -> str | None:
    """Give the path of the program to start for the daemon `name`, None when there is none.

    VIRTD_PATH and LIBVIRTD_PATH, folders with programs of these names, overrule; our own daemon stands for
    libvirtd and virtqemud.
    """
    for variable in ("VIRTD_PATH", "LIBVIRTD_PATH"):
        if host.environ.get(variable):
            return f"{host.environ[variable]}/{name}"
    places = (
        str(Path(sys.executable).parent),
        *host.environ.get("PATH", "").split(":"),
        "/usr/sbin",
        "/usr/local/sbin",
    )
    names = ("qvirtd", name) if name in ("libvirtd", "virtqemud") else (name,)
    for candidate in names:
        found = shutil.which(candidate, path=":".join(place for place in places if place))
        if found:
            return found
    return None
