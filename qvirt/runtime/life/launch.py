"""What a start makes on the host before QEMU runs: folders, key, ports, owners, sockets.

Everything is written into the footprint first, and the footprint to disk, so that whoever comes after a
crash at any point can take it away.
"""

import base64
import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from secrets import token_bytes

from qvirt.drivers.network import plug
from qvirt.drivers.secret.driver import Secrets
from qvirt.errors import (
    InternalError,
    NoSecret,
    OperationFailed,
    OperationInvalid,
    QvirtError,
    SystemError_,
)
from qvirt.host import kvm, links, vsock
from qvirt.host.held import held
from qvirt.host.overlays import Overlay, is_overlay, write_overlay
from qvirt.host.persist import remove_tree, write_atomic
from qvirt.host.ports import PortAllocator
from qvirt.host.unix import clear_stale, connect, held_socket, short
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext, Launch, Settings
from qvirt.qemu.devices import graphics
from qvirt.qemu.devices.base import (
    DirectoryResource,
    FileResource,
    ListenResource,
    OpenResource,
    PairResource,
    Resource,
    VsockResource,
    handler,
)
from qvirt.qemu.sealing import BLOCK, KEY_SIZE, seal
from qvirt.qemu.start import boot_files, directories, prepare_domain
from qvirt.qemu.switches import CommandLine, Step
from qvirt.record import Record, field
from qvirt.runtime.state import Footprint
from qvirt.security.stack import Guard

#: descriptors QEMU inherits are numbered from here: the launcher keeps the lower ones for itself
FIRST_FD = 20
_MASTER_KEY = "master-key.aes"


class Descriptors(Launch):
    """The descriptors one QEMU inherits, by the name of the resource they are for. Owned, closed once.

    secrets: where the values are that documents name. master_key: what those are encrypted with on the
    command line. others: descriptors that helpers get, by the name of what they are connected with.
    """

    def __init__(self, id: int, secrets: Secrets | None, master_key: bytes | None = None) -> None:
        super().__init__()
        self.id = id
        self._secrets = secrets
        self.master_key = master_key or token_bytes(KEY_SIZE)
        self._named: dict[str, list[int]] = {}
        self.others: dict[str, socket.socket] = {}

    def secret(self, usage_type: str, uuid: str | None, usage: str | None) -> bytes:
        if self._secrets is None:
            raise NoSecret("this instance keeps no secrets")
        return self._secrets.value(usage_type, uuid, usage)

    def seal(self, value: bytes) -> tuple[str, str]:
        vector = token_bytes(BLOCK)
        sealed = seal(self.master_key, vector, value)
        return base64.b64encode(sealed).decode(), base64.b64encode(vector).decode()

    def adopt(self, name: str, fds: Iterable[int]) -> list[int]:
        """Take over descriptors under a name; returns the numbers QEMU finds them under."""
        moved: list[int] = []
        for fd in fds:
            moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD))
            os.close(fd)
        self._named.setdefault(name, []).extend(moved)
        return moved

    def has(self, name: str) -> bool:
        """Tell whether there are descriptors of that name."""
        return name in self._named

    def fds(self, name: str, count: int = 1) -> list[str]:
        found = self._named.get(name, [])
        if len(found) != count:
            raise InternalError(f"{count} descriptors are needed for '{name}', {len(found)} were made")
        return [str(number) for number in found]

    def all(self) -> list[int]:
        """Return every descriptor."""
        return [fd for fds in self._named.values() for fd in fds]

    def close(self) -> None:
        """Close our copies; QEMU has its own."""
        for fd in self.all():
            os.close(fd)
        self._named.clear()
        for other in self.others.values():
            other.close()
        self.others.clear()


class Passed(Descriptors):
    """Descriptors for a QEMU that runs: they go over its monitor, which knows them by name from then on."""

    def __init__(self, id: int, secrets: Secrets | None, master_key: bytes | None = None) -> None:
        super().__init__(id, secrets, master_key)
        self._in_sets: set[str] = set()

    def fds(self, name: str, count: int = 1) -> list[str]:
        numbers = super().fds(name, count)
        return [f"{name}-{place}" for place in range(len(numbers))]

    def fd_for_set(self, name: str) -> int:
        (number,) = super().fds(name)
        self._in_sets.add(name)
        return int(number)

    def steps(self) -> Iterator[Step]:
        """Yield the commands that hand them over, but for those that go into sets with commands of their own.

        Asked when all devices have said what they hand over.
        """
        for name, fds in self._named.items():
            if name in self._in_sets:
                continue
            for place, fd in enumerate(fds):
                known = f"{name}-{place}"
                yield Step("getfd", {"fdname": known}, ("closefd", {"fdname": known}), fds=(fd,))


class Plan(Record, frozen=False):
    """What a start is going to make. files: what QEMU opens. nvram: (path, template) to be filled.

    overlays: what transient disks write to; not among the files, as they are not there yet.
    others: what else security models with rules want to know.
    """

    files: list[FileResource] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    listeners: list[ListenResource] = field(default_factory=list)
    handed: list[OpenResource | PairResource | VsockResource] = field(default_factory=list)
    nvram: tuple[str, str | None] | None = None
    overlays: list[Overlay] = field(default_factory=list)
    others: list[Resource] = field(default_factory=list)

    @property
    def opened(self) -> list[Resource]:
        """What QEMU opens or accepts on by path."""
        return [*self.files, *self.listeners, *self.others]


def survey(definition: Domain, ctx: BuildContext, made: list[Overlay]) -> Plan:
    """Ask the devices and the firmware what they need of the host. Raises what cannot be had at all."""
    prepare_domain(definition, ctx)
    beside = beside_devices(definition, ctx)
    plan = Plan(overlays=made)
    survey_devices(definition.devices.all(), ctx, plan)
    set_overlays_aside(plan)
    for resource in beside:
        _take(plan, resource)
    nvram = definition.os.nvram
    if nvram is not None and nvram.file:
        plan.nvram = (nvram.file, nvram.template)
    return plan


def beside_devices(definition: Domain, ctx: BuildContext) -> list[Resource]:
    """Return what a document needs that is no device's. Raises InternalError as `directories` does."""
    found: list[Resource] = [DirectoryResource(definition, folder) for folder in directories(definition, ctx)]
    if definition.type == "kvm":
        found.append(FileResource(definition, str(kvm.DEVICE), shared=True, relabel=False))
    return found + boot_files(definition)


def files_of(definition: Domain, ctx: BuildContext) -> list[str]:
    """Return the files of a definition that runs already. Blocking."""
    found = [
        resource.path
        for device in definition.devices.all()
        for resource in handler(device).resources(device, ctx)
        if isinstance(resource, FileResource) and resource.relabel
    ]
    return found + [resource.path for resource in boot_files(definition) if resource.relabel]


def survey_devices(devices: Iterable[Device], ctx: BuildContext, plan: Plan) -> None:
    """Ask devices what they need of the host, and note it. Raises what cannot be had at all."""
    for device in devices:
        handler(device).prepare(device, ctx)
        for resource in handler(device).resources(device, ctx):
            _take(plan, resource)


def set_overlays_aside(plan: Plan) -> None:
    """Move the overlays that are going to be made from the files that must be there to the others."""
    new = {overlay.path for overlay in plan.overlays}
    plan.others += [wanted for wanted in plan.files if wanted.path in new]
    plan.files = [wanted for wanted in plan.files if wanted.path not in new]


def _take(plan: Plan, resource: Resource) -> None:
    match resource:
        case FileResource():
            plan.files.append(resource)
        case DirectoryResource():
            plan.folders.append(resource.path)
            plan.others.append(resource)
        case ListenResource():
            plan.listeners.append(resource)
        case OpenResource() | PairResource() | VsockResource():
            plan.handed.append(resource)
        case _:
            plan.others.append(resource)


# --------------------------------------------------------------------------- environment


def environment(ctx: BuildContext, command: CommandLine) -> dict[str, str]:
    """Return QEMU's whole environment, in libvirt's order."""
    folder = ctx.domain_dir
    env = {
        "LC_ALL": "C",
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": folder,
        "XDG_DATA_HOME": f"{folder}/.local/share",
        "XDG_CACHE_HOME": f"{folder}/.cache",
        "XDG_CONFIG_HOME": f"{folder}/.config",
    }
    return env | command.env


# --------------------------------------------------------------------------- files


def may_be_missing(disk: Disk) -> bool:
    """Tell whether the domain starts without a disk's image."""
    return disk.has_medium and disk.source is not None and disk.source.startup_policy == "optional"


def missing_disks(definition: Domain) -> list[Disk]:
    """Return the disks whose images are missing and may be. Blocking."""
    return [
        disk
        for disk in definition.devices.disks
        if may_be_missing(disk)
        and disk.source is not None
        and disk.source.local_path is not None
        and not os.path.exists(disk.source.local_path)
    ]


def drop_source(definition: Domain, disk: Disk) -> str | None:
    """Take a medium out of its drive, or a disk out of the domain; returns the path that was missing."""
    path = disk.source.local_path if disk.source is not None else None
    if disk.is_removable:
        disk.source = None
        disk.backing_store = None
    else:
        definition.devices.disks.remove(disk)
    return path


def make_folders(folders: Iterable[str], guard: Guard) -> None:
    """Make the domain's own folders, 0750 and QEMU's. Raises SystemError_. Blocking."""
    for folder in folders:
        try:
            os.makedirs(folder, 0o750, exist_ok=True)
            with held(folder) as own:
                os.chmod(own, 0o750)  # noqa: S103 - what libvirt gives it
                guard.own(own)
        except OSError as error:
            raise SystemError_(f"unable to create directory '{folder}'", error) from error


def hand_over(path: str, data: bytes, guard: Guard, what: str) -> None:
    """Write a new file for QEMU into the run's folder. what: in messages. Blocking. Raises SystemError_.

    What is there already is taken away, not written to: the folder is QEMU's user's.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            guard.own(f"/proc/self/fd/{fd}")
    except OSError as error:
        raise SystemError_(f"failed to write the {what} file '{path}'", error) from error


def write_master_key(folder: str, key: bytes, guard: Guard) -> None:
    """Hand over the key that secrets are encrypted with on their way. Blocking. Raises SystemError_."""
    hand_over(f"{folder}/{_MASTER_KEY}", key, guard, "master key")


def read_master_key(folder: str) -> bytes:
    """Return the key of a QEMU that runs. Blocking. Raises SystemError_ where QEMU has put something else."""
    path = f"{folder}/{_MASTER_KEY}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            key = os.read(fd, KEY_SIZE + 1)
        finally:
            os.close(fd)
        if len(key) != KEY_SIZE:
            raise OSError(errno.EINVAL, f"it is no key of {KEY_SIZE} bytes", path)
    except OSError as error:
        raise SystemError_(f"failed to read the master key file '{path}'", error) from error
    return key


def write_overlays(plan: Plan, guard: Guard) -> None:
    """Make the files transient disks write to, owned by QEMU's user. Raises SystemError_. Blocking."""
    for overlay in plan.overlays:
        write_overlay(overlay)
        _give(overlay.path, guard)


def _give(path: str, guard: Guard, *, stays: bool = False) -> None:
    """Make a file QEMU's user's that was just made. Raises SystemError_. Blocking."""
    try:
        with held(path) as own:
            guard.own(own, stays=stays)
    except OSError as error:
        raise SystemError_(f"cannot give '{path}' to QEMU", error) from error


def prepare_nvram(path: str, template: str | None, guard: Guard, *, reset: bool) -> None:
    """Make the firmware's variable store from its template where there is none, or afresh. Blocking."""
    target = Path(path)
    if target.exists() and not reset:
        return
    if not template:
        raise OperationFailed(f"unable to find any master var store for loader: '{path}' is missing")
    try:
        data = Path(template).read_bytes()
    except OSError as error:
        raise SystemError_(f"Failed to open file '{template}'", error) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, data)
    _give(path, guard, stays=True)


def check_places(plan: Plan, taken: Collection[str]) -> None:
    """Refuse paths for QEMU's folders and sockets that are somebody's. taken: folders of other guests.

    Asked before they are noted as the run's, which would have them removed with what it leaves. Blocking.
    Raises OperationInvalid, SystemError_.
    """
    for folder in plan.folders:
        if folder in taken:
            raise OperationInvalid(f"folder '{folder}' is another guest's")
    for wanted in plan.listeners:
        try:
            clear_stale(wanted.path)
        except OSError as error:
            raise SystemError_(f"Failed to bind socket to {wanted.path}", error) from error


def listen_unix(path: str, guard: Guard, *, private: bool = False, helper: str = "") -> socket.socket:
    """Bind a Unix socket for QEMU to accept on; a path that is somebody's is refused. Raises SystemError_.

    private: the daemon alone connects to it; no guest of QEMU's user shall. helper: the program that accepts
    in QEMU's place.
    """
    try:
        with guard.making(helper=helper):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise SystemError_("Failed to create socket", error) from error
    try:
        clear_stale(path)
        with short(path) as name, guard.making(helper=helper):
            sock.bind(name)
        with held_socket(path) as own:
            os.chmod(own, 0o775)  # noqa: S103 - what libvirt gives it
            if not private:
                guard.own(own)
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise SystemError_(f"Failed to bind socket to {path}", error) from error
    return sock


def make_listeners(plan: Plan, descriptors: Descriptors, guard: Guard) -> None:
    """Bind the sockets QEMU is to accept on, owned by its user, and open for it what only root may.

    Blocking. Raises SystemError_.
    """
    for wanted in plan.listeners:
        listener = listen_unix(wanted.path, guard, private=wanted.private)
        descriptors.adopt(wanted.name, [listener.detach()])
    for file in plan.handed:
        if isinstance(file, VsockResource):
            cid = file.origin.cid
            fd, cid.address = vsock.acquire(None if cid.auto else cid.address)
            descriptors.adopt(file.name, [fd])
            continue
        if isinstance(file, PairResource):
            with guard.making():
                ours, theirs = socket.socketpair()
            descriptors.adopt(file.name, [ours.detach()])
            descriptors.others[file.name] = theirs
            continue
        path = next((path for path in file.paths if os.path.exists(path)), file.paths[-1])
        flags = os.O_RDWR if file.readable else os.O_WRONLY
        try:
            descriptors.adopt(file.name, [os.open(path, flags | os.O_CLOEXEC)])
        except OSError as error:
            raise SystemError_(f"Could not open '{path}'", error) from error


def connect_listener(path: str, guard: Guard) -> socket.socket:
    """Connect to a socket that listens already; never waits."""
    try:
        with guard.making(ours=True):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise SystemError_("Failed to create socket", error) from error
    try:
        connect(sock, path)
    except OSError as error:
        sock.close()
        raise SystemError_(f"failed to connect to monitor socket '{path}'", error) from error
    return sock


# --------------------------------------------------------------------------- ports


class PortPlan(Record, frozen=False):
    """Ports to be told to the displays."""

    taken: list[tuple[PortAllocator, int]] = field(default_factory=list)

    def acquire(self, allocator: PortAllocator) -> int:
        port = allocator.acquire()
        self.taken.append((allocator, port))
        return port

    def reserve(self, allocator: PortAllocator, port: int) -> None:
        allocator.reserve(port)
        self.taken.append((allocator, port))


def take_ports(
    definition: Domain, settings: Settings, display: PortAllocator, websocket: PortAllocator
) -> PortPlan:
    """Choose the ports of the displays that leave it to us, and note the ones that do not.

    Raises what keeps a display from its ports.
    """
    plan = PortPlan()
    pools = {"port": display, "tls_port": display, "websocket": websocket}
    try:
        for one in definition.devices.graphics:
            for name, port in graphics.ports_chosen(one).items():
                plan.reserve(pools[name], port)
        for one in definition.devices.graphics:
            for name in graphics.ports_needed(one, settings):
                setattr(one, name, plan.acquire(pools[name]))
    except QvirtError:
        release_ports(plan)
        raise
    return plan


def release_ports(plan: PortPlan) -> None:
    """Give every port back."""
    for allocator, port in plan.taken:
        allocator.release(port)
    plan.taken.clear()


# ------------------------------------------------------------------------- undoing


def sweep(guard: Guard, footprint: Footprint, keep_below: Iterable[str]) -> list[str]:
    """Take away what a run that has ended has left; returns what could not be taken away. Blocking.

    keep_below: the instance's own folders; outside them nothing is removed but overlays of transient disks.
    """
    failures: list[str] = []
    for name in footprint.links:
        try:
            links.remove_link(name)
        except SystemError_ as error:
            failures.append(str(error))
    for name, mac in footprint.macs.items():
        if mac:
            failures += plug.give_mac_back(name, mac)
    failures += guard.end(footprint.loans)
    failures += remove_files(footprint.files, keep_below)
    for folder in footprint.folders:
        if os.path.normpath(folder).startswith(_below(keep_below)):
            try:
                remove_tree(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                failures.append(f"cannot remove '{folder}': {error.strerror}")
    return failures


def remove_files(paths: Iterable[str], keep_below: Iterable[str]) -> list[str]:
    """Remove a run's files, as `sweep` does. Blocking."""
    failures: list[str] = []
    for path in paths:
        if os.path.normpath(path).startswith(_below(keep_below)) or is_overlay(path):
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    clear_stale(path)  # where somebody listens it is not the run's any more
                else:
                    os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                failures.append(f"cannot remove '{path}': {error.strerror}")
    return failures


def _below(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{folder.rstrip('/')}/" for folder in folders)
