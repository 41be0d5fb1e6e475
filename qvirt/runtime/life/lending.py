"""The one seam by which QEMU gets at files: lent before it opens them, taken back when it has closed them.

A start, a device that is plugged in, a medium that is changed and a block job all say which resources they
need; the security models (`running.guard`) decide what is done about it. What is lent stands in the status
file before it is lent, so that whoever finds the status file can take it back.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.errors import ConfigUnsupported, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.held import held
from qvirt.host.images import distrust_changed
from qvirt.model.devices.disk import Disk
from qvirt.qemu.devices.base import FileResource, Resource
from qvirt.record import replace
from qvirt.runtime.running import Running
from qvirt.security import acl, private_dev
from qvirt.security.dac import Dac, cannot_access
from qvirt.security.loans import Loan
from qvirt.security.private_dev import Node
from qvirt.security.stack import Guard
from qvirt.xml.fields import fits

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor


#: seconds for opening files to QEMU: a security model may have to compile its rules
DEADLINE = 90.0


async def give(domain: "Domain", running: Running, resources: Iterable[Resource]) -> None:
    """Let a QEMU that runs get at files: they are checked, lent and noted; all of them or none.

    Raises SystemError_ for a file it could not open all the same, OperationInvalid for one that is lent to
    another user.
    """
    hv = domain.hypervisor
    files = list(resources)
    loans = await hv.files.run(f"files of '{domain.name}'", partial(prepare, running, files))
    mark = running.footprint
    mark.loans += loans

    try:
        await domain.save_status(partial(open_up, hv, running, loans, files), DEADLINE)
    except BaseException:
        # what a file system that hangs has lent meanwhile is taken back with the rest, when the guest ends
        if not running.guard.holds(loans):
            mark.loans = [loan for loan in mark.loans if loan not in loans]
        raise


async def take_back(
    domain: "Domain", running: Running, gone: Iterable[Resource], kept: Iterable[Resource] = ()
) -> list[str]:
    """Take back what a QEMU has closed and does not use by other ways, ``kept``.

    Returns what could not be taken back.
    """
    hv, mark = domain.hypervisor, running.footprint
    gone, kept = list(gone), list(kept)

    def work() -> list[str]:
        loans = unused(running, gone, kept)
        failures = running.guard.take_back(loans, gone, kept)
        mark.loans = [loan for loan in mark.loans if loan not in loans]
        return failures + shut(hv, running, gone, kept)

    failures = await hv.files.run(f"files of '{domain.name}'", work, DEADLINE)
    await domain.save_status()
    return failures


# ------------------------------------------------------------------------- blocking


def open_up(hv: "Hypervisor", running: Running, loans: Iterable[Loan], resources: Iterable[Resource]) -> None:
    """Let a QEMU that runs get at files: security models, its list of devices, its /dev. Blocking.

    Raises SystemError_, OperationInvalid, and what a model raises.
    """
    files = list(resources)
    running.guard.give(list(loans), files)
    hv.cgroups.allow(running, files)
    if not running.private_dev:
        return
    found = nodes(running, files)
    if found:
        try:
            private_dev.add(running.pid, found, marking=hv.marking)
        except OSError as error:
            paths = ", ".join(node.path for node in found)
            raise SystemError_(
                f"cannot add {paths} to the /dev of '{running.definition.name}'", error
            ) from error


def dress_late(running: Running, resources: Iterable[Resource]) -> None:
    """Give QEMU's user the host's nodes that have come into being for it; they go with what they are of.

    Raises SystemError_ for one that has not. Blocking.
    """
    lent = {loan.path for loan in running.footprint.loans}
    for resource in resources:
        if not isinstance(resource, FileResource) or not resource.late:
            continue
        node = private_dev.find(resource.path)
        if node is None:
            raise _missing(resource.path)
        if running.private_dev or node.path in lent:
            continue  # it is QEMU's own node that changes hands, or it was there before
        dressed = running.guard.node(resource, node)
        try:
            private_dev.dress(dressed)
        except OSError as error:
            raise SystemError_(f"unable to give '{node.path}' to QEMU's user", error) from error


def shut(hv: "Hypervisor", running: Running, gone: Iterable[Resource], kept: Iterable[Resource]) -> list[str]:
    """Take from a QEMU's list of devices and its /dev what is gone and not used otherwise. Blocking.

    Returns what could not be.
    """
    failures = hv.cgroups.deny(running, gone, kept)
    if running.private_dev and not running.qemu.is_gone:
        still = [*hv.config.device_acl, *_paths(kept)]
        try:
            private_dev.remove(running.pid, _paths(gone), still)
        except FileNotFoundError:
            pass  # it has ended meanwhile
        except OSError as error:
            failures.append(f"cannot clear the /dev of '{running.definition.name}': {error.strerror}")
    return failures


def nodes(running: Running, resources: Iterable[Resource], also: Iterable[str] = ()) -> list[Node]:
    """Return what QEMU's own /dev must have for resources and for other paths. Blocking."""
    found: dict[str, Node] = {}
    for path in also:
        node = private_dev.find(path)
        if node is not None:
            found[node.path] = node
    for resource, path in _each(resource for resource in resources if isinstance(resource, FileResource)):
        node = private_dev.find(path)
        if node is not None:
            before = found.get(node.path)
            links = dict.fromkeys((*(before.links if before is not None else ()), *node.links))
            found[node.path] = running.guard.node(resource, replace(node, links=tuple(links)))
    return list(found.values())


def _paths(resources: Iterable[Resource]) -> list[str]:
    return [path for _, path in _each(r for r in resources if isinstance(r, FileResource))]


def open_folders(hv: "Hypervisor", user: QemuUser | None) -> None:
    """Let a user that is not the instance's search its folders, where the guest's own are. Blocking."""
    if user is None or hv.user is None or user.uid == hv.user.uid:
        return
    for folder in _closed_folders(hv):
        try:
            acl.let_search(folder, user.uid)
        except OSError as error:
            raise SystemError_(f"unable to let uid {user.uid} search directory '{folder}'", error) from error


def close_folders(hv: "Hypervisor", run: int, user: QemuUser | None) -> list[str]:
    """Undo `open_folders` when no other run needs it; returns what went wrong. Blocking."""
    if user is None or hv.user is None or user.uid == hv.user.uid:
        return []
    for domain in hv.domains:
        other = domain.running
        if other is not None and other.id != run and other.user is not None and other.user.uid == user.uid:
            return []
    failures = []
    for folder in _closed_folders(hv):
        try:
            acl.forget(folder, user.uid)
        except OSError as error:
            failures.append(f"cannot close '{folder}' to uid {user.uid}: {error.strerror}")
    return failures


def _closed_folders(hv: "Hypervisor") -> list[Path]:
    return [hv.paths.lib, hv.paths.lib / "channel", hv.paths.lib / "channel/target"]


def prepare(running: Running, resources: Iterable[Resource]) -> list[Loan]:
    """Make the files that may be missing, check all, and return what is to be lent that is not yet. Blocking.

    Raises SystemError_ for what QEMU could not open all the same.
    """
    files = [resource for resource in resources if isinstance(resource, FileResource)]
    for resource in files:
        if resource.create and _create(resource.path):
            _own(running, resource)
    loans = {(loan.model, loan.path): loan for loan in running.footprint.loans}
    before = len(loans)
    for resource, path in _each(files):
        if not os.path.exists(path):
            if resource.late:
                continue
            if not resource.optional:
                raise _missing(path)
            for loan in running.guard.plan(resource, path):
                loans.setdefault((loan.model, loan.path), loan)
            continue
        for obstacle in running.guard.obstacles(resource, path):
            raise SystemError_(f"{cannot_access(path, running.user)}: {obstacle}")
        if running.private_dev and _is_node(path):
            continue  # it is QEMU's own node that changes hands
        for loan in running.guard.plan(resource, path):
            loans.setdefault((loan.model, loan.path), loan)
    new = list(loans.values())[before:]
    for loan in new:
        if not fits(loan.path):  # the status file could not be read again
            raise ConfigUnsupported(f"path {loan.path!a} has characters that no document can hold")
    return new


def _is_node(path: str) -> bool:
    node = private_dev.find(path)
    return node is not None and node.is_device


def look_back(running: Running, disks: Iterable[Disk]) -> list[str]:
    """Distrust what QEMU has written into the headers of disks it has done with. Blocking.

    Returns what was found. Where somebody talks to QEMU past us, it may have been told to.
    """
    return [] if "custom-monitor" in running.taints else distrust_changed(disks)


def unused(running: Running, gone: Iterable[Resource], kept: Iterable[Resource]) -> list[Loan]:
    """Return the loans that only ``gone`` was about. Blocking."""
    paths = _real_paths(gone) - _real_paths(kept)
    return [loan for loan in running.footprint.loans if loan.path in paths]


def _real_paths(resources: Iterable[Resource]) -> set[str]:
    files = (resource for resource in resources if isinstance(resource, FileResource))
    return {os.path.realpath(path) for _, path in _each(files)}


def _create(path: str) -> bool:
    """Make a file QEMU's user could not make, in most folders; tells whether it was not there."""
    flags = (
        os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    )  # a pipe that nobody reads does not hold us
    try:
        try:
            os.close(os.open(path, flags | os.O_EXCL, 0o600))
        except FileExistsError:
            os.close(os.open(path, flags, 0o600))  # a link to nothing is followed
            return False
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise SystemError_(f"Unable to pre-create chardev file '{path}'", error) from error
    return True


def _own(running: Running, resource: FileResource) -> None:
    """Give a file that was made for the guest to QEMU's user where it is not going to be lent."""
    user, path = running.user, resource.path
    if user is None or any(loan.model == Dac.name for loan in running.guard.plan(resource, path)):
        return
    try:
        with held(path) as own:
            os.chown(own, user.uid, user.gid)
    except OSError as error:
        raise SystemError_(f"cannot give '{path}' to QEMU", error) from error


def troubles(guard: Guard, resources: Iterable[Resource]) -> list[str]:
    """Return all that would keep QEMU from its files, each once. Blocking."""
    files = [resource for resource in resources if isinstance(resource, FileResource)]
    found: dict[str, None] = {}
    for resource, path in _each(files):
        if not os.path.exists(path):
            if not resource.create and not resource.optional and not resource.late:
                found[str(_missing(path).detail)] = None
        else:
            for obstacle in guard.obstacles(resource, path):
                about = "" if obstacle.path in obstacle.what else f"file '{path}': "
                found[f"{about}{obstacle}"] = None
    return list(found)


def _each(files: Iterable[FileResource]) -> Iterator[tuple[FileResource, str]]:
    """Yield the files of resources; a pair of pipes has none of the plain name."""
    for resource in files:
        pair = [f"{resource.path}.in", f"{resource.path}.out"]
        for path in (
            pair if os.path.exists(pair[0]) and not os.path.exists(resource.path) else [resource.path]
        ):
            yield resource, path


def _missing(path: str) -> SystemError_:
    return SystemError_(
        f"Cannot access storage file '{path}'", OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    )
