"""Profiles as files, and in the kernel. Blocking; the caller runs it off the loop."""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from qvirt.errors import InternalError, OperationTimeout, SystemError_
from qvirt.host.persist import remove, write_atomic
from qvirt.security.apparmor.rules import FilesText

#: the kernel's side
SECURITYFS = Path("/sys/kernel/security/apparmor")
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")

#: where the parser looks for what profiles include
SYSTEM = Path("/etc/apparmor.d")

#: seconds the parser gets; it takes a tenth of one, twenty times as much on a machine that is emulated
DEADLINE = 60.0

_TEMPLATES = ("TEMPLATE.qemu", "TEMPLATE")
_PROFILE_LINE = re.compile(r"^(\s*profile\s+)LIBVIRT_TEMPLATE\b", re.M)

#: where a profile's rules begin: a brace that is in no path or variable
_OPENING = re.compile(r"(?<=[\s)])\{(?=\s|$)")
#: what has braces that open or close nothing: a comment, a quoted path, an escaped character
_PASSED_OVER = re.compile(r'(?:(?<=[\s,{}])|^)#[^\n]*|"(?:[^"\\\n]|\\.)*"|\\.|[{}]', re.M)


def unavailable(folder: Path) -> str | None:
    """Say why profiles cannot be used by an instance whose own are in ``folder``; None when they can."""
    try:
        if _ENABLED.read_text(encoding="ascii").strip() != "Y":
            return "the kernel has AppArmor, but not enabled"
    except OSError:
        return "the kernel has no AppArmor"
    if os.geteuid() != 0:
        return "only root loads profiles"
    if not (SECURITYFS / ".remove").exists():
        return f"'{SECURITYFS}' is not there: mount securityfs"
    if shutil.which("apparmor_parser") is None:
        return "apparmor_parser is not installed"
    if template_in(folder) is None:
        return f"template '{folder / _TEMPLATES[0]}' does not exist"
    return None


def template_in(folder: Path) -> Path | None:
    """Return the template guests' profiles are made from."""
    return next((folder / name for name in _TEMPLATES if (folder / name).is_file()), None)


def loaded() -> dict[str, str]:
    """Return the profiles the kernel has, and the mode of each."""
    found = {}
    with (SECURITYFS / "profiles").open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name, _, mode = line.rstrip("\n").rpartition(" ")
            found[name] = mode.strip("()")
    return found


def is_loaded(name: str) -> bool:
    """Tell whether the kernel has a profile."""
    return name in loaded()


class Profile:
    """The profile of one guest: ``libvirt-UUID`` and ``libvirt-UUID.files`` in the instance's folder."""

    def __init__(self, folder: Path, uuid: str) -> None:
        self.name = f"libvirt-{uuid}"
        self._folder = folder
        self.path = folder / self.name
        self.files_path = folder / f"{self.name}.files"

    def rules(self) -> FilesText:
        """Return what is granted to a guest that runs. Raises SystemError_."""
        try:
            return FilesText(self.files_path.read_text(encoding="utf-8", errors="surrogateescape"))
        except OSError as error:
            raise SystemError_(
                f"cannot read '{self.files_path}', without which the guest can be given nothing more",
                error,
            ) from error

    def write_rules(self, text: FilesText) -> None:
        """Keep what is granted. Raises SystemError_."""
        try:
            write_atomic(self.files_path, str(text).encode("utf-8", "surrogateescape"), 0o644)
        except OSError as error:
            raise SystemError_(f"cannot write '{self.files_path}'", error) from error

    def source(self) -> tuple[Path, list[str]]:
        """Return the profile's file and lines, or those of what it would be made of. Raises SystemError_."""
        path = self.path if self.path.exists() else template_in(self._folder) or self.path
        try:
            return path, path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise SystemError_(f"cannot read '{path}'", error) from error

    def make(self) -> Path | None:
        """Make the profile from the template where there is none; an administrator may have changed it.

        Returns the template it is made of now. Raises InternalError for one without a profile of the name
        that is replaced.
        """
        if self.path.exists():
            return None
        template = template_in(self._folder)
        if template is None:
            raise InternalError(f"template '{self._folder / _TEMPLATES[0]}' does not exist")
        try:
            text = template.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise SystemError_(f"Failed to read AppArmor template '{template}'", error) from error
        made, count = _PROFILE_LINE.subn(rf"\g<1>{self.name}", text, count=1)
        end = _end_of(made, self.name) if count else -1
        if end < 0:
            raise InternalError(
                f"template '{template}' has no profile LIBVIRT_TEMPLATE in braces to make one of"
            )
        include = f"  #include <libvirt/{self.files_path.name}>\n"
        made = f"{made[:end].rstrip()}\n{include}\n{made[end:].rstrip()}\n"
        try:
            write_atomic(self.path, made.encode("utf-8", "surrogateescape"), 0o644)
        except OSError as error:
            raise SystemError_(f"cannot write '{self.path}'", error) from error
        return template

    def unmake(self) -> None:
        """Remove the profile, which the next start makes of the template again."""
        remove(self.path)

    def load(self, template: Path | None = None) -> None:
        """Have the kernel take the profile as it is in the files now.

        template: what it was just made of, which has the same lines. Raises InternalError with the parser's
        words, OperationTimeout.
        """
        words = ["apparmor_parser", "--replace", "--skip-cache", "--quiet", "-O", "no-expr-simplify"]
        if self._folder.parent != SYSTEM:
            words += ["--Include", str(self._folder.parent)]
        try:
            done = subprocess.run(
                [*words, str(self.path)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=DEADLINE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OperationTimeout(
                f"apparmor_parser did not load '{self.path}' within {DEADLINE:g} s"
            ) from None
        except OSError as error:
            raise SystemError_("cannot execute 'apparmor_parser'", error) from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            of = f", made of '{template}'" if template is not None else ""
            if template is not None:
                said = re.sub(rf"{re.escape(str(self.path))}(?!\.files)", str(template), said)
            elif re.search(rf"in profile {re.escape(str(self.path))} at", said):
                said += f"\nRemove '{self.path}' to have it made of the template again."
            raise InternalError(f"cannot load AppArmor profile '{self.name}'{of}: {said}")

    def unload(self) -> None:
        """Take the profile out of the kernel; harmless when it is not there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(SECURITYFS / ".remove", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, self.name.encode())
            finally:
                os.close(fd)

    def forget(self) -> None:
        """Remove what is granted; the profile's file stays, as the next start and libvirt use it again."""
        remove(self.files_path)


def _end_of(text: str, name: str) -> int:
    """Return where the brace is that closes a profile; -1 where there is none."""
    named = re.search(rf"^\s*profile\s+{re.escape(name)}\b", text, re.M)
    opening = _OPENING.search(text, named.end()) if named is not None else None
    depth = 0
    for found in _PASSED_OVER.finditer(text, opening.start()) if opening is not None else ():
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth and found[0] == "}":
            return found.start()
    return -1
