"""The model ``dac``: whom a QEMU runs as, and whom its files are lent to; see `reach` for what keeps it away.

Blocking; the caller runs it off the loop.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qvirt.errors import ConfigSyntax, InvalidArg, SystemError_
from qvirt.host import kvm
from qvirt.host.config import QemuConfig, QemuUser, resolve_user
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import FileResource, Resource, relabelling
from qvirt.record import replace
from qvirt.security import marks
from qvirt.security.loans import Book, Loan
from qvirt.security.model import Guest, Model, Obstacle
from qvirt.security.private_dev import Node
from qvirt.security.reach import is_fixed, is_open_to_all, obstacles


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
        user, guest.lends = user_of(guest.seclabels, self._user)
        guest.user = user
        if wanted is not None and wanted.type == "static" and wanted.relabel:
            wanted.imagelabel = wanted.label
        if wanted is not None and wanted.type != "dynamic":
            return wanted
        made = wanted or SecLabel(type="dynamic", model=self.name, relabel=True)
        made.label = made.imagelabel = owner_text(user.uid, user.gid)
        return made

    def recall(self, guest: Guest) -> None:
        user, said = self._user, guest.label_of(self.name)
        guest.user = user
        if said is not None and said.type == "dynamic" and said.label:
            user = parse_label(said.label)  # qemu.conf may name another by now
        guest.user, guest.lends = user_of(guest.seclabels, user)

    def obstacles(self, guest: Guest, resource: FileResource, path: str) -> Iterator[Obstacle]:
        user = guest.user
        keeps_power = not self._config.clear_emulator_capabilities
        if user is None or (user.uid == 0 and keeps_power) or resource.replaced:
            return iter(())
        if is_fixed(path):
            return obstacles(path, user, write=resource.writable, otherwise=_MOVE)
        if not resource.relabel:
            return obstacles(path, user, write=resource.writable, otherwise="")
        owner = self._new_owner(guest, resource, path)
        return obstacles(path, user, write=resource.writable, owner=owner)

    def plan(self, guest: Guest, resource: FileResource, path: str) -> Loan | None:
        owner = self._new_owner(guest, resource, path)
        if owner is None or is_fixed(path):
            return None
        return self._owners.plan(path, owner_text(*owner), shared=resource.shared or not resource.writable)

    def give(self, guest: Guest, loans: Sequence[Loan], resources: Iterable[Resource]) -> None:
        super().give(guest, loans, resources)
        kept = [loan.path for loan in loans if not self._owners.holds(guest.run, [loan])]
        if not kept or guest.user is None:
            return
        files = [resource for resource in resources if isinstance(resource, FileResource)]
        written = {os.path.realpath(resource.path) for resource in files if resource.writable}
        for path in kept:
            for found in obstacles(path, guest.user, write=path in written, otherwise=_MOVE):
                self._owners.take_back(guest.run, loans)
                raise SystemError_(f"{cannot_access(path, guest.user)}: {found}")

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


#: what helps where an owner cannot be changed
_MOVE = "move the file"

#: what a file system answers whose files keep their owners: NFS that takes root for nobody, FAT, CIFS
_KEEPS_OWNERS = frozenset((errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS))


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

    def is_lost(self, now: str, wanted: str, lent: str) -> bool:
        return now == (lent or wanted)

    def bears(self, error: OSError) -> bool:
        return error.errno in _KEEPS_OWNERS


def cannot_access(path: str, user: QemuUser | None) -> str:
    """Return the beginning of what is said when QEMU's user is kept from a file."""
    who = f" (as uid:{user.uid}, gid:{user.gid})" if user is not None else ""
    return f"Cannot access storage file '{path}'{who}: Permission denied"


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
    user, colon, group = text.partition(":")
    if not colon:
        raise InvalidArg(f"Failed to parse uid and gid from '{text}'")
    try:
        return resolve_user(user, group)
    except ConfigSyntax as error:
        raise InvalidArg(error.detail) from error


def kvm_usable(user: QemuUser | None) -> bool:
    """Tell whether KVM is there for guests: for us, who ask emulators about it, and for QEMU's user.

    What is not is not offered. A definition may ask for it all the same: a device node's mode changes, and
    nothing that is kept may depend on it; it is the start that is refused.
    """
    if not kvm.kvm_usable():
        return False
    return user is None or next(obstacles(str(kvm.DEVICE), user, write=True), None) is None
