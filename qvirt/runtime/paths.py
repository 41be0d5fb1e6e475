"""Where an instance keeps its files: the system's, a user's session, or everything under one folder.

The names are libvirt's, so that either daemon can take over the other's tree.
"""

import fcntl
import os
import pwd
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from qvirt.drivers.network.network import NetworkFolders
from qvirt.errors import OperationFailed, SystemError_
from qvirt.host.held import held
from qvirt.host.persist import make_folder
from qvirt.qemu.context import Dirs
from qvirt.record import Record


class Paths(Record):
    """The folders of one instance.

    kind: "system", "session" or "root" (``--root``). etc: holds qemu.conf and ``qemu/``.
    sockets: where the daemon's own sockets and its pid file are. run, lib, cache, log: QEMU's share of each.
    """

    kind: str
    etc: Path
    sockets: Path
    run: Path
    lib: Path
    cache: Path
    log: Path

    @classmethod
    def system(cls) -> Self:
        """The machine's own instance (qemu:///system)."""
        return cls(
            "system",
            Path("/etc/libvirt"),
            Path("/run/libvirt"),
            Path("/run/libvirt/qemu"),
            Path("/var/lib/libvirt/qemu"),
            Path("/var/cache/libvirt/qemu"),
            Path("/var/log/libvirt/qemu"),
        )

    @classmethod
    def root(cls, folder: Path) -> Self:
        """Everything under one folder."""
        folder = folder.absolute()
        return cls(
            "root",
            folder / "etc/libvirt",
            folder / "run/libvirt",
            folder / "run/libvirt/qemu",
            folder / "var/lib/libvirt/qemu",
            folder / "var/cache/libvirt/qemu",
            folder / "var/log/libvirt/qemu",
        )

    @classmethod
    def session(cls, environ: Mapping[str, str], uid: int) -> Self:
        """A user's instance (qemu:///session), in the XDG places as libvirt reads them."""
        home = Path(environ.get("HOME") or _home(uid))
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "libvirt"
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "libvirt"
        # Without a runtime folder its clients look in the cache's, whatever there is in /run/user.
        runtime = environ.get("XDG_RUNTIME_DIR")
        sockets = Path(runtime) / "libvirt" if runtime else cache
        return cls(
            "session",
            config,
            sockets,
            sockets / "qemu/run",
            config / "qemu/lib",
            cache / "qemu/cache",
            cache / "qemu/log",
        )

    @property
    def conf(self) -> Path:
        """qemu.conf."""
        return self.etc / "qemu.conf"

    @property
    def definitions(self) -> Path:
        """The folder of the persistent domains' documents."""
        return self.etc / "qemu"

    @property
    def autostart(self) -> Path:
        """The folder of the links that mark autostart."""
        return self.etc / "qemu" / "autostart"

    @property
    def secrets(self) -> Path:
        """The folder of the secrets."""
        return self.etc / "secrets"

    @property
    def save(self) -> Path:
        """The folder of managed save images."""
        return self.lib / "save"

    @property
    def nvram(self) -> Path:
        return self.lib / "nvram"

    @property
    def swtpm_storage(self) -> Path:
        """The folder of the emulated TPMs' state, by uuid."""
        return self.lib.parent / "swtpm"

    @property
    def swtpm_log(self) -> Path:
        """The folder of swtpm's logs, beside libvirt's, which its user cannot search."""
        beside = self.log.parent.parent / "swtpm"
        return beside / "log" if self.kind == "session" else beside / "libvirt/qemu"

    @property
    def swtpm_run(self) -> Path:
        """The folder of swtpm's sockets."""
        return self.sockets / "swtpm" if self.kind == "session" else self.run / "swtpm"

    def definition(self, name: str) -> Path:
        return self.definitions / f"{name}.xml"

    def autostart_link(self, name: str) -> Path:
        return self.autostart / f"{name}.xml"

    def autostart_once_link(self, name: str) -> Path:
        return self.autostart / f"{name}.xml.once"

    def status(self, name: str) -> Path:
        return self.run / f"{name}.xml"

    def pidfile(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def logfile(self, name: str) -> Path:
        return self.log / f"{name}.log"

    def managed_save(self, name: str) -> Path:
        return self.save / f"{name}.save"

    @property
    def networks(self) -> NetworkFolders:
        """Where the virtual networks are kept."""
        if self.kind == "session":
            run = self.sockets / "network"
            return NetworkFolders(
                self.etc / "qemu/networks", run / "run", run / "lib", self.sockets / "dnsmasq/lib"
            )
        lib = self.lib.parent
        return NetworkFolders(
            self.etc / "qemu/networks", self.sockets / "network", lib / "network", lib / "dnsmasq"
        )

    @property
    def dirs(self) -> Dirs:
        """The folders a QEMU is told about."""
        return Dirs(
            lib=str(self.lib),
            channel=str(self.lib / "channel/target"),
            nvram=str(self.nvram),
            run=str(self.run),
            log=str(self.log),
            swtpm=str(self.swtpm_run),
        )


#: (folder below ``lib``, mode)
_LIB_FOLDERS = (
    ("", 0o750),
    ("channel", 0o750),
    ("channel/target", 0o750),
    ("checkpoint", 0o755),
    ("dump", 0o755),
    ("nvram", 0o755),
    ("ram", 0o755),
    ("save", 0o755),
    ("snapshot", 0o755),
)


def _own_folders(paths: Paths) -> tuple[tuple[Path, int], ...]:
    """Return the folders that are the daemon's alone, and their modes."""
    return (
        (paths.etc, 0o755),
        (paths.definitions, 0o700),
        (paths.autostart, 0o755),
        (paths.sockets, 0o755),
        (paths.run, 0o755),
        (paths.cache.parent, 0o711),
        (paths.cache, 0o711),
        (paths.lib.parent, 0o755),
        (paths.log, 0o755),
    )


def make_folders(paths: Paths, owner: tuple[int, int] | None) -> None:
    """Make the instance's folders with libvirt's modes; owner: QEMU's uid and gid where it is not us.

    Its group may search those in ``lib``. They are the daemon's own: libvirt's are QEMU's user's, who could
    put another folder, or a link, in the place of one that the daemon is about to write to.
    Raises SystemError_.
    """
    try:
        check_whose(paths)
        for folder, mode in _own_folders(paths):
            make_folder(folder, mode)
            if folder == paths.cache:  # libvirt's is QEMU's user's
                with held(folder) as own:
                    os.chown(own, os.geteuid(), -1)
        check_whose(paths)
        for name, mode in _LIB_FOLDERS:
            folder = paths.lib / name if name else paths.lib
            make_folder(folder, mode)
            if owner is not None:
                with held(folder) as own:
                    os.chown(own, os.geteuid(), owner[1])
    except OSError as error:
        raise SystemError_(f"cannot create folder '{error.filename or paths.lib}'", error) from error


def _home(uid: int) -> str:
    """Return a user's home where the environment does not say it, as libvirt's clients find it."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def check_whose(paths: Paths) -> None:
    """Refuse folders that somebody else owns or may write to: what is in them is read and written as ours.

    Of a tree, so are those on the way to them; what is not there yet is passed over. Raises OperationFailed,
    SystemError_.
    """
    base = paths.etc.parent.parent if paths.kind == "root" else None
    for folder, _ in _own_folders(paths):
        for path in (*reversed(folder.parents), folder) if base is not None else (folder,):
            if (base is None or path.is_relative_to(base)) and path != paths.cache:
                _check_owner(path)


def _check_owner(path: Path) -> None:
    try:
        with held(path) as own:
            status = os.stat(own)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SystemError_(f"cannot look at folder '{path}'", error) from error
    if status.st_uid not in (0, os.geteuid()):
        why = f"belongs to uid {status.st_uid}"
    elif status.st_mode & 0o1002 == 0o002:
        why = f"may be written to by everybody (mode {status.st_mode & 0o7777:04o})"
    else:
        return
    raise OperationFailed(
        f"folder '{path}' {why}, who could have the daemon read and write what they like: make it the "
        "daemon's own, or name another"
    )


class InstanceLock:
    """The lock that keeps two daemons from serving one tree: libvirt's own ``driver.pid`` with its own lock.

    A user's daemons may have different runtime folders and still the same guests: a session has one more,
    where the guests' folders are. An open-file-description lock conflicts with the record lock libvirt takes,
    and also between two instances inside one process. The kernel drops it when the process ends, however it
    ends.
    """

    def __init__(self, paths: Paths) -> None:
        """Take it. Raises OperationFailed when somebody else serves the tree."""
        self._fds: list[int] = []
        try:
            for folder in (paths.run, paths.lib) if paths.kind == "session" else (paths.run,):
                self._take(folder / "driver.pid")
        except BaseException:
            self.release()
            raise

    def _take(self, path: Path) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SystemError_(f"Failed to open pid file '{path}'", error) from error
        self._fds.append(fd)
        request = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            holder = os.read(fd, 32).decode(errors="replace").strip()
            who = f" (pid {holder})" if holder else ""
            raise OperationFailed(
                f"Failed to acquire pid file '{path}': another daemon{who} serves this instance; "
                "stop it first, or give this one a folder of its own with --root"
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Give it back; the file stays, as libvirt leaves it."""
        while self._fds:
            os.close(self._fds.pop())
