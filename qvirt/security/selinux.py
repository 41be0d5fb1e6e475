"""The model ``selinux``: each guest's QEMU in a domain of its own, by a pair of categories nobody else has.

The types come from the policy's files, as libvirt has them: the domain's from ``virtual_domain_context`` (a
second line is for QEMU without KVM), the images' from ``virtual_image_context``, whose second line is for
what guests only read.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qvirt.errors import InternalError, InvalidArg, OperationFailed
from qvirt.host.filecontexts import usual_label
from qvirt.host.selinux import ROOT, UNLABELLED, Kernel, read_label, write_label
from qvirt.model.devices.disk import Disk
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import FileResource, relabelling
from qvirt.record import replace
from qvirt.security import marks, selinux_reasons
from qvirt.security.categories import Pairs
from qvirt.security.contexts import Context, parse
from qvirt.security.denials import Denial
from qvirt.security.loans import Book, Loan
from qvirt.security.model import Guest, Model, Obstacle
from qvirt.security.private_dev import Node

#: what QEMU and the daemon say of a file they may not open, or label
_REFUSED = re.compile(r"'(/[^']+)'[^']*: Permission denied")

#: what is said of a QEMU that may not run the code it makes, with or without a word of its own
_NO_CODE = re.compile(r"printed nothing|mprotect failed|jit buffer|code_gen_buffer")

_DOMAINS = "virtual_domain_context"
_IMAGES = "virtual_image_context"


def probe(root: Path = ROOT) -> str | None:
    """Say why SELinux confines no guests here; None where it can. Blocking."""
    kernel = Kernel(root)
    if not kernel.is_enabled:
        return "the kernel has loaded no policy"
    for name in (_DOMAINS, _IMAGES):
        if not kernel.contexts(name):
            return f"'{kernel.policy}/contexts/{name}' is missing or empty"
    return None


class Labels:
    """Labels of files. lent: the types that QEMU's files have while it runs."""

    model = "selinux"
    names = marks.SELINUX

    def __init__(self, policy: Path, lent: frozenset[str]) -> None:
        self._policy = policy
        self._lent = lent

    def read(self, path: str) -> str:
        return read_label(path)

    def write(self, path: str, label: str) -> None:
        write_label(path, label)

    def usual(self, path: str) -> str:
        """As libvirt does: what the policy says of the path; what it says nothing of keeps its label."""
        real = os.path.realpath(path)
        return usual_label(self._policy, real, os.stat(path).st_mode) or read_label(path)

    def refused(self, path: str, label: str) -> str:
        return f"unable to set security context '{label}' on '{path}'"

    def taken(self, path: str) -> str:
        return f"Setting different SELinux label on {path} which is already in use"

    def is_lost(self, now: str, wanted: str, lent: str) -> bool:
        """Tell whether a label is that of a guest which ended with the machine: every run has others."""
        return type_of(now) in self._lent

    def bears(self, error: OSError) -> bool:
        """Tell whether a file that cannot be labelled is left as it is: its file system has no labels."""
        return error.errno in UNLABELLED


def type_of(label: str) -> str:
    """Return a context's type, '' for what is no context."""
    return label.split(":")[2] if label.count(":") >= 2 else ""


class Selinux(Model):
    """Contexts by the policy of this machine. Raises InternalError for one that has none for guests."""

    name = "selinux"
    records = True
    takes_no_new_privs = False  # the kernel would keep QEMU in the daemon's own domain

    def __init__(self, daemon: str, *, remember: bool = True, root: Path = ROOT) -> None:
        self.kernel = Kernel(root)
        domains = self._read(_DOMAINS)
        images = self._read(_IMAGES)
        self._own = self._parse(self.kernel.context("self"), "the daemon's own context")
        self._domain, self._tcg = domains[0], domains[-1]
        self._image, self._content = images[0], images[-1]
        self.pairs = Pairs(self._own)
        lent = frozenset((self._image.type, self._content.type))
        labels = Labels(self.kernel.policy, lent)
        self._labels = Book(labels, daemon, remember=remember)
        self.book = self._labels

    def _read(self, name: str) -> list[Context]:
        path = self.kernel.policy / "contexts" / name
        found = [self._parse(text, str(path)) for text in self.kernel.contexts(name)[:2]]
        if not found:
            raise InternalError(f"cannot read contexts for guests from '{path}'")
        return found

    def _parse(self, text: str, where: str) -> Context:
        try:
            return parse(text)
        except ValueError as error:
            raise InternalError(f"{where}: {error}") from error

    def base_labels(self) -> Sequence[tuple[str, str]]:
        return (("kvm", str(self._domain)), ("qemu", str(self._tcg)))

    # ------------------------------------------------------------------------- labels

    def label(self, guest: Guest, wanted: SecLabel | None, others: Iterable[Guest]) -> SecLabel | None:
        if wanted is not None and wanted.type == "none":
            return wanted
        made = wanted or SecLabel(type="dynamic", model=self.name, relabel=True)
        if made.type == "static":
            context = self._given(made.label or "", made.line)
            self.pairs.reserve(context)
            image = self._image.at(context.range)
        else:
            base = self._tcg if guest.type == "qemu" else self._domain
            if made.baselabel:
                base = self._given(made.baselabel, made.line)
            level = self.pairs.take()
            context = self._as_ours(base, level)
            image = self._as_ours(self._image, level, is_file=True)
            made.label = str(context)
        made.imagelabel = str(image) if made.relabel else None
        try:
            self._check_execmem(guest, context)
        except BaseException:
            self.pairs.release(context)
            raise
        return made

    def _given(self, text: str, line: int) -> Context:
        """Read a label of the document. Raises InvalidArg."""
        where = f" (<seclabel> in line {line})" if line else ""
        try:
            context = parse(text)
        except ValueError as error:
            raise InvalidArg(f"{error}{where}") from error
        if not self.kernel.is_valid(text):
            raise InvalidArg(
                f"SELinux context '{text}' is not valid in the policy '{self.kernel.policy.name}'{where}"
            )
        return context

    def _as_ours(self, base: Context, level: str, *, is_file: bool = False) -> Context:
        """Return a context of the daemon's own user and role, as far as the policy allows it."""
        role = base.role if is_file else self._own.role
        context = Context(self._own.user, role, base.type, level)
        return context if self.kernel.is_valid(str(context)) else base.at(level)

    def _check_execmem(self, guest: Guest, context: Context) -> None:
        """Refuse what the kernel says would die at its first translated instruction."""
        if guest.type != "qemu" or not self.kernel.is_enforcing:
            return
        text = str(context)
        if self.kernel.denied(text, text, "process", ("execmem",)):
            raise OperationFailed(
                f"SELinux does not let QEMU without KVM run as '{text}': it needs memory that is written and "
                f"executed (execmem); {selinux_reasons.remedy(self.kernel, context.type, 'process', '')}"
            )

    def recall(self, guest: Guest) -> None:
        context = self._context_of(guest)
        if context is not None:
            self.pairs.reserve(context)

    def end(self, guest: Guest) -> list[str]:
        context = self._context_of(guest)
        if context is not None:
            self.pairs.release(context)
        return []

    def _mine(self, guest: Guest) -> SecLabel | None:
        label = guest.label_of(self.name)
        return label if label is not None and label.type != "none" and label.label else None

    def _context_of(self, guest: Guest) -> Context | None:
        label = self._mine(guest)
        with contextlib.suppress(ValueError):
            return parse(label.label or "") if label is not None else None
        return None

    def words(self, guest: Guest) -> Sequence[str]:
        label = self._mine(guest)
        return (f"--selinux-label={label.label}",) if label is not None else ()

    def helper_words(self, guest: Guest, name: str, program: str) -> Sequence[str]:
        """The domain that the policy has for the program, with the guest's categories; else the guest's own.

        Where neither may be entered by that program, or the kernel does not say, the helper stays in the
        daemon's: what it could not execute it could not serve with.
        """
        context = self._context_of_helper(guest, program)
        return (f"--selinux-label={context}",) if context is not None else ()

    def _context_of_helper(self, guest: Guest, program: str) -> Context | None:
        """Return the context a helper is put into, None where it stays in the daemon's."""
        mine = self._context_of(guest)
        if mine is None:
            return None
        try:
            file = read_label(program)
            usual = parse(self.kernel.entered(str(self._own), file))
        except (OSError, ValueError):
            return None
        for context in (mine,) if usual.type == self._own.type else (usual.at(mine.range), usual):
            if (
                self.kernel.is_valid(str(context))
                and self.kernel.denied(str(self._own), str(context), "process", ("transition",)) == []
                and self.kernel.denied(str(context), file, "file", ("entrypoint",)) == []
            ):
                return context
        return None

    def read(self, guest: Guest, pid: int) -> tuple[str, bool]:
        label = self.kernel.context(pid)
        if not label:
            raise ProcessLookupError(f"no context of process {pid}")
        return label, self.kernel.is_enforcing

    # -------------------------------------------------------------------------- files

    def file_label(self, guest: Guest, resource: FileResource) -> str | None:
        """Return the label QEMU's file has while it runs; None where it stays as it is."""
        mine = self._mine(guest)
        relabel, given = relabelling(resource, self.name)
        if mine is None or not mine.relabel or not relabel:
            return None
        if given:
            return given
        if not resource.writable:
            return str(self._as_ours(self._content, self._content.range, is_file=True))
        if resource.shared and isinstance(resource.origin, Disk):
            return str(self._as_ours(self._image, self._image.range, is_file=True))
        return mine.imagelabel

    def plan(self, guest: Guest, resource: FileResource, path: str) -> Loan | None:
        label = self.file_label(guest, resource)
        if label is None:
            return None
        return self._labels.plan(path, label) if os.path.exists(path) else self._labels.plan_new(path, label)

    def node(self, guest: Guest, resource: FileResource, node: Node) -> Node:
        label = self.file_label(guest, resource)
        return replace(node, context=label.encode() + b"\0") if label is not None else node

    def own(self, guest: Guest, path: str, *, stays: bool) -> None:
        label = self._mine(guest)
        if stays or label is None or not label.imagelabel:
            return  # what stays is lent
        try:
            if read_label(path) != label.imagelabel:
                write_label(path, label.imagelabel)
        except OSError as error:
            if error.errno not in UNLABELLED:
                raise

    def fence(self, guest: Guest, folder: str) -> None:
        label = self._mine(guest)
        if label is not None and label.imagelabel:
            _label_all(folder, label.imagelabel)

    def unfence(self, guest: Guest, folder: str) -> None:
        label = self._mine(guest)
        if label is not None and label.imagelabel:
            _label_all(folder, read_label(os.path.dirname(folder)))

    @contextlib.contextmanager
    def making(self, guest: Guest, *, ours: bool, helper: str) -> Iterator[None]:
        """Sockets have labels as pipes have, and so have the files they are bound to.

        What QEMU accepts has the range of who connects: so the daemon's end has the guest's. QEMU connects to
        who has its own range: so a helper's end has that with the helper's domain.
        """
        context = self._context_of(guest)
        if context is None:
            yield
            return
        label = self._mine(guest)
        with contextlib.ExitStack() as stack:
            made = context
            if ours or helper:
                by = self._context_of_helper(guest, helper) if helper else None
                made = (by or self._own).at(context.range)
            stack.enter_context(self.kernel.making("sockcreate", str(made)))
            if label is not None and label.imagelabel and not ours:
                stack.enter_context(self.kernel.making("fscreate", label.imagelabel))
            yield

    def obstacles(self, guest: Guest, resource: FileResource, path: str) -> Iterator[Obstacle]:
        """What the policy keeps from QEMU, where the kernel says so and enforces it."""
        context = self._context_of(guest)
        if context is None or not self.kernel.is_enforcing or resource.replaced:
            return
        source, real = str(context), os.path.realpath(path)
        for folder in reversed(Path(real).parents):
            yield from self._obstacle(source, str(folder), ("search",))
        wanted: tuple[str, ...] = ("open", "read", "write") if resource.writable else ("open", "read")
        mode = os.stat(real).st_mode
        if stat.S_ISDIR(mode):
            return
        if stat.S_ISSOCK(mode):
            wanted = ("write",)
        label = self.file_label(guest, resource)
        stays = label is None or not selinux_reasons.takes_labels(self.kernel, real)
        yield from self._obstacle(source, real, wanted, None if stays else label)

    def is_about(self, guest: Guest, denial: Denial) -> bool:
        return super().is_about(guest, denial) and not selinux_reasons.is_noise(denial)

    def remedy(self, guest: Guest, denial: Denial) -> str:
        target, kind = denial.fields.get("tcontext", ""), denial.fields.get("tclass", "")
        path = denial.path if denial.path.startswith("/") else ""
        permissions = tuple(denial.what.split())
        return selinux_reasons.remedy(self.kernel, type_of(target), kind, path, permissions)

    def suspicions(self, guest: Guest, said: str) -> list[str]:
        context = self._context_of(guest)
        if context is None or not self.kernel.is_enforcing:
            return []
        found = [reason for path in _REFUSED.findall(said) for reason in self._guess(guest, path)]
        if guest.type == "qemu" and _NO_CODE.search(said):
            found += selinux_reasons.without_execmem(self.kernel, str(context))
        return list(dict.fromkeys(found))

    def _guess(self, guest: Guest, path: str) -> Iterator[str]:
        """Say what may keep a guest from a file, where the kernel's log is closed to the daemon."""
        real = os.path.realpath(path)
        mine = self._mine(guest)
        stays = mine is None or not mine.relabel
        try:
            now, mode = read_label(real), os.stat(real).st_mode
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, *UNLABELLED):
                return
            now, mode = "", stat.S_IFREG  # the policy keeps even that from the daemon
        type = type_of(now) or selinux_reasons.type_by_mount(self.kernel, real)
        if mine is not None and type in (self._image.type, self._content.type):
            return
        kind = selinux_reasons.class_of(mode)
        advice = "'ausearch -m avc' shows what it denied"
        if type:
            advice = selinux_reasons.remedy(self.kernel, type, kind, real, stays=stays)
        yield f"SELinux may be why, as '{path}' is labelled '{now or type or 'unknown'}': {advice}"

    def _obstacle(
        self, source: str, path: str, wanted: tuple[str, ...], label: str | None = None
    ) -> Iterator[Obstacle]:
        try:
            now = label or read_label(path)
        except OSError:
            return
        kind = selinux_reasons.class_of(os.stat(path).st_mode)
        denied = selinux_reasons.denied(self.kernel, source, now, kind, wanted)
        if denied:
            yield Obstacle(
                path,
                f"SELinux denies '{source}' to {', '.join(denied)} {kind} '{path}', labelled '{now}'",
                selinux_reasons.remedy(self.kernel, type_of(now), kind, path),
            )


def _label_all(folder: str, label: str) -> None:
    """Label a folder and what is in it, following no link: somebody else may write there. Raises OSError."""
    for path in (folder, *(entry.path for entry in os.scandir(folder))):
        try:
            write_label(path, label, follow=False)
        except OSError as error:
            if error.errno not in UNLABELLED:
                raise
