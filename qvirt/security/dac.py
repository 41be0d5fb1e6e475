"""The model ``dac``: whom a QEMU runs as, whom its files are lent to, and what keeps that user from a file.

Blocking; the caller runs it off the loop.
"""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qvirt.errors import ConfigSyntax, InvalidArg
from qvirt.host import kvm
from qvirt.host.config import QemuConfig, QemuUser, resolve_user
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import FileResource, relabelling
from qvirt.record import replace
from qvirt.security import acl, marks
from qvirt.security.loans import Book, Loan
from qvirt.security.model import Guest, Model, Obstacle
from qvirt.security.private_dev import Node


class Dac(Model):
    """Users and owners. user: whom guests run as that name no other."""

    name = "dac"

    def __init__(self, config: QemuConfig, user: QemuUser, daemon: str) -> None:
        self._config = config
        self._user = user
        self._owners = Book(Owners(), daemon, remember=config.remember_owner)
        self.book = self._owners

    def base_labels(self) -> Sequence[tuple[str, str]]:
        label = owner_text(self._user.uid, self._user.gid)
        return (("kvm", label), ("qemu", label))

    def label(self, guest: Guest, wanted: SecLabel | None, others: Iterable[Guest]) -> SecLabel | None:
        self.recall(guest)
        user = guest.user
        if wanted is not None and wanted.type == "static" and wanted.relabel:
            wanted.imagelabel = wanted.label
        if user is None or (wanted is not None and wanted.type != "dynamic"):
            return wanted
        made = wanted or SecLabel(type="dynamic", model=self.name, relabel=True)
        made.label = made.imagelabel = owner_text(user.uid, user.gid)
        return made

    def recall(self, guest: Guest) -> None:
        guest.user = self._user
        guest.user, guest.lends = user_of(guest.seclabels, self._user)

    def obstacles(self, guest: Guest, resource: FileResource, path: str) -> Iterator[Obstacle]:
        user = guest.user
        keeps_power = not self._config.clear_emulator_capabilities
        if user is None or (user.uid == 0 and keeps_power) or resource.replaced:
            return iter(())
        owner = self._new_owner(guest, resource, path)
        return obstacles(path, user, write=resource.writable, owner=owner)

    def plan(self, guest: Guest, resource: FileResource, path: str) -> Loan | None:
        owner = self._new_owner(guest, resource, path)
        return self._owners.plan(path, owner_text(*owner)) if owner is not None else None

    def _new_owner(self, guest: Guest, resource: FileResource, path: str) -> tuple[int, int] | None:
        """Return whom a file is lent to; None when it stays as it is."""
        relabel, label = relabelling(resource, self.name)
        if guest.user is None or not (self._config.dynamic_ownership and guest.lends and relabel):
            return None
        if label:
            labelled = parse_label(label)
            return labelled.uid, labelled.gid
        if is_open_to_all(path, guest.user, write=resource.writable):
            return None
        return guest.user.uid, guest.user.gid

    def node(self, guest: Guest, resource: FileResource, node: Node) -> Node:
        owner = self._new_owner(guest, resource, node.path)
        return replace(node, user=owner) if owner is not None and owner != node.owner else node

    def own(self, guest: Guest, path: str, *, stays: bool) -> None:
        if guest.user is not None:
            os.chown(path, guest.user.uid, guest.user.gid)

    def read(self, guest: Guest, pid: int) -> tuple[str, bool]:
        said = guest.label_of(self.name)
        if said is not None and said.label:
            return said.label, False
        ids: dict[str, str] = {}
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, values = line.partition(":")
            if key in ("Uid", "Gid"):
                ids[key] = values.split()[1]
        return owner_text(int(ids["Uid"]), int(ids["Gid"])), False


class Owners:
    """Owners of files as labels, ``+UID:+GID``."""

    model = "dac"
    names = marks.DAC

    def read(self, path: str) -> str:
        status = os.stat(path)
        return owner_text(status.st_uid, status.st_gid)

    def write(self, path: str, label: str) -> None:
        uid, gid = label.replace("+", "").split(":")
        os.chown(path, int(uid), int(gid))

    def usual(self, path: str) -> str:
        return owner_text(0, 0)

    def refused(self, path: str, label: str) -> str:
        return f"unable to set user and group to '{label.replace('+', '')}' on '{path}'"

    def taken(self, path: str) -> str:
        return f"Setting different DAC user or group on {path} which is already in use"

    def is_lost(self, now: str, wanted: str) -> bool:
        return now == wanted

    def bears(self, error: OSError) -> bool:
        return False


def owner_text(uid: int, gid: int) -> str:
    """Return an owner as libvirt writes it in labels and marks."""
    return f"+{uid}:+{gid}"


def user_of(labels: Iterable[SecLabel], default: QemuUser) -> tuple[QemuUser, bool]:
    """Return whom a domain's QEMU runs as, and whether its files are lent to that user.

    A static label of the model ``dac`` names user and group; ``none`` leaves the files alone.
    Raises InvalidArg.
    """
    for label in labels:
        if label.model != "dac":
            continue
        if label.type == "static" and label.label:
            return parse_label(label.label), bool(label.relabel)
        if label.type == "none":
            return default, False
    return default, True


def parse_label(text: str) -> QemuUser:
    """Read ``USER:GROUP``, each a name, a number or ``+number``. Raises InvalidArg."""
    user, _, group = text.partition(":")
    try:
        return resolve_user(user, group or None)
    except ConfigSyntax as error:
        raise InvalidArg(error.detail) from error


def obstacles(
    path: str, user: QemuUser, *, write: bool, owner: tuple[int, int] | None = None
) -> Iterator[Obstacle]:
    """Yield what keeps QEMU's user from a file that exists: every folder on the way, then the file itself.

    owner: whom the file is going to belong to; None when it stays as it is. Symbolic links are followed.
    """
    real = os.path.realpath(path)
    for folder in _folders_above(real):
        try:
            status = os.stat(folder)
        except OSError:
            return
        if not _may(folder, status, user, 1):
            yield Obstacle(
                folder,
                f"directory '{folder}' cannot be searched by QEMU's user ({_described(status)})",
                f"allow it with '{_remedy(folder, user, 'x')}', or move the file",
            )
    try:
        status = os.stat(real)
    except OSError:
        return
    need, bits = (6, "rw") if write else (4, "r")
    if stat.S_ISDIR(status.st_mode):
        return
    if owner is not None:
        if not _mode_allows(status.st_mode, owner, user, need):
            yield Obstacle(
                real,
                f"mode {status.st_mode & 0o7777:04o} forbids it to QEMU's user even if it is lent",
                f"allow it with 'chmod u+{bits} {real}'",
            )
    elif not _may(real, status, user, need):
        yield Obstacle(
            real,
            f"it stays as it is ({_described(status)})",
            f"allow it with '{_remedy(real, user, bits)}', or let it be relabelled",
        )


def _folders_above(path: str) -> list[str]:
    """Return the folders on the way to an absolute path, the root first."""
    return ["/", *[path[:at] for at, letter in enumerate(path) if letter == "/" and at]]


def is_open_to_all(path: str, user: QemuUser, *, write: bool) -> bool:
    """Tell whether a device or socket needs no other owner: /dev/urandom and its kin are everybody's."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return not stat.S_ISREG(status.st_mode) and _may(path, status, user, 6 if write else 4)


def kvm_usable(user: QemuUser | None) -> bool:
    """Tell whether KVM is there for guests: for us, who ask emulators about it, and for QEMU's user.

    What is not is not offered. A definition may ask for it all the same: a device node's mode changes, and
    nothing that is kept may depend on it; it is the start that is refused.
    """
    if not kvm.kvm_usable():
        return False
    return user is None or next(obstacles(str(kvm.DEVICE), user, write=True), None) is None


def unsearchable(path: str, user: QemuUser) -> Path | None:
    """Return the first folder on the way to ``path`` that QEMU's user cannot search, None when all can be."""
    real = os.path.realpath(path)
    found = next(obstacles(path, user, write=False, owner=(user.uid, user.gid)), None)
    return Path(found.path) if found is not None and found.path != real else None


def _described(status: os.stat_result) -> str:
    return f"mode {status.st_mode & 0o7777:04o}, owner {_name(status.st_uid, status.st_gid)}"


def _name(uid: int, gid: int) -> str:
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        return f"{user}:{grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"{user}:{gid}"


def _remedy(path: str, user: QemuUser, bits: str) -> str:
    """Return the command that opens a path to as few as can be."""
    status = os.stat(path)
    if status.st_gid == user.gid or status.st_gid in user.groups:
        return f"chmod g+{bits} {path}"
    if shutil.which("setfacl"):
        return f"setfacl -m u:{_name(user.uid, user.gid).partition(':')[0]}:{bits} {path}"
    return f"chmod o+{bits} {path}"


def _may(path: str, status: os.stat_result, user: QemuUser, bits: int) -> bool:
    """Tell whether mode and access control list let the user do it; a root without capabilities is a user."""
    entries = acl.read(path)
    if entries is not None:
        return acl.allows(entries, status, user, bits)
    return _mode_allows(status.st_mode, (status.st_uid, status.st_gid), user, bits)


def _mode_allows(mode: int, owner: tuple[int, int], user: QemuUser, bits: int) -> bool:
    if owner[0] == user.uid:
        return mode >> 6 & bits == bits
    if owner[1] == user.gid or owner[1] in user.groups:
        return mode >> 3 & bits == bits
    return mode & bits == bits
