"""SELinux on this machine: what the kernel and the policy's files say, and labels of files and sockets.

No library of SELinux's is needed: labels of files are extended attributes, those of processes and of what a
thread is going to make are files in /proc, and the kernel answers questions about the policy in its own file
system. Everything here blocks; `root` is moved by tests.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from qvirt.host.sysfs import read_text

ROOT = Path("/")

_ATTRIBUTE = "security.selinux"

#: where distributions keep a policy when the configuration does not say
_DEFAULT_POLICY = "targeted"

#: what a file system answers that has no labels of its own
UNLABELLED = frozenset((errno.ENOTSUP, errno.ENODATA, errno.EROFS))

#: the kernel's bit for a domain whose denials are logged and allowed all the same
_PERMISSIVE_DOMAIN = 1


class Kernel:
    """The kernel's side, by the files it shows. Every answer may be missing: a policy may forbid to ask."""

    def __init__(self, root: Path = ROOT) -> None:
        self._fs = root / "sys/fs/selinux"
        self._proc = root / "proc"
        self._config = root / "etc/selinux"
        #: a policy that forbids the question says so in its log, each time it is asked
        self._may_ask = True

    @property
    def is_enabled(self) -> bool:
        """Whether a policy is loaded."""
        return (self._fs / "enforce").exists() and bool(self.context("self"))

    @property
    def is_enforcing(self) -> bool:
        """Whether what the policy denies is denied."""
        return read_text(self._fs / "enforce") == "1"

    def context(self, process: str | int) -> str:
        """Return the context of a process, "self" for this one; '' where it cannot be read."""
        return (read_text(self._proc / str(process) / "attr/current") or "").rstrip("\0")

    def is_valid(self, context: str) -> bool:
        """Tell whether the policy knows a context; so it is where nobody says otherwise."""
        try:
            fd = os.open(self._fs / "context", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            os.write(fd, context.encode() + b"\0")
        except OSError as error:
            return error.errno != errno.EINVAL
        finally:
            os.close(fd)
        return True

    def entered(self, source: str, program: str) -> str:
        """Return the context a process comes into by executing a program; '' where the kernel does not say.

        source, program: the contexts of the process and of the file.
        """
        index = read_text(self._fs / "class/process/index")
        try:
            return " ".join(self._ask("create", f"{source} {program} {index}")) if index else ""
        except OSError:
            return ""

    def _ask(self, what: str, question: str) -> list[str]:
        """Return the words of the kernel's answer. Raises OSError for a question it takes for none."""
        try:
            fd = os.open(self._fs / what, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            os.write(fd, question.encode())
            return os.read(fd, 4096).rstrip(b"\0").decode("ascii", "replace").split()
        finally:
            os.close(fd)

    def boolean(self, name: str) -> bool | None:
        """Return whether a boolean of the policy is on; None where the policy has none or does not say."""
        text = read_text(self._fs / "booleans" / name)
        return text.split()[0] == "1" if text else None

    def has_boolean(self, name: str) -> bool:
        """Tell whether the policy has a boolean. So it may where nobody says."""
        try:
            return (self._fs / "booleans" / name).exists()
        except PermissionError:
            return True

    def denied(self, source: str, target: str, kind: str, wanted: tuple[str, ...]) -> list[str] | None:
        """Return which of the wanted permissions the policy keeps from a process.

        source, target: contexts; kind: a class of objects, such as ``file``. None where the kernel does not
        say.
        """
        folder = self._fs / "class" / kind
        index = read_text(folder / "index") if self._may_ask else None
        if index is None:
            return None
        try:
            answer = self._ask("access", f"{source} {target} {index}")
        except OSError as error:
            self._may_ask = error.errno not in (errno.EACCES, errno.EPERM)
            return None
        if len(answer) > 5 and int(answer[5], 16) & _PERMISSIVE_DOMAIN:
            return []
        if not answer:
            return None
        allowed = int(answer[0], 16)
        bits = {name: read_text(folder / "perms" / name) for name in wanted}
        return [name for name, bit in bits.items() if bit and not allowed >> (int(bit) - 1) & 1]

    @contextlib.contextmanager
    def making(self, what: str, context: str) -> Iterator[None]:
        """Have what this thread makes inside labelled. what: ``sockcreate``, ``fscreate``. Raises OSError."""
        path = self._proc / "thread-self/attr" / what
        _tell(path, context.encode() + b"\0")
        try:
            yield
        finally:
            _tell(path, b"\n")  # nothing at all would not reach the kernel

    def mounts(self) -> list[str]:
        """Return the lines of the kernel's list of mounts."""
        return (read_text(self._proc / "self/mountinfo") or "").splitlines()

    # ------------------------------------------------------------------- the policy's files

    @property
    def policy(self) -> Path:
        """The folder of the policy in use."""
        kind = _DEFAULT_POLICY
        for line in (read_text(self._config / "config") or "").splitlines():
            key, equals, value = line.partition("=")
            if equals and key.strip() == "SELINUXTYPE":
                kind = value.strip()
        return self._config / kind

    def contexts(self, name: str) -> list[str]:
        """Return the contexts in a file of the policy's, such as ``virtual_domain_context``, line by line."""
        text = read_text(self.policy / "contexts" / name) or ""
        lines = (line.strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def _tell(path: Path, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def read_label(path: str) -> str:
    """Return a file's label. Raises OSError, with one of `UNLABELLED` where it can have none."""
    return os.getxattr(path, _ATTRIBUTE).decode("utf-8", "surrogateescape").rstrip("\0")


def write_label(path: str, label: str, *, follow: bool = True) -> None:
    """Give a file a label. follow: what a link leads to has it. Raises OSError."""
    text = label.encode("utf-8", "surrogateescape") + b"\0"
    os.setxattr(path, _ATTRIBUTE, text, follow_symlinks=follow)
