"""A QEMU that somebody else started, as /proc shows it: its words, its folder, its monitor. Blocking."""

import contextlib
import os
import re
from collections import Counter
from pathlib import Path

from qvirt.errors import ConfigUnsupported, OperationInvalid, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.proc import start_time
from qvirt.qemu.importer.options import Argument, read_arguments, split_opts
from qvirt.record import Record

#: what to start it with next time
_REMEDY = (
    "a monitor cannot be added to a QEMU that runs: start it with '-qmp unix:PATH,server=on,wait=off', "
    "or make a domain of its command line for the next start with 'qvirt import'"
)


class Seen(Record):
    """A process. argv: its program is the file that runs. folder: where its relative paths begin."""

    pid: int
    start_time: int
    argv: tuple[str, ...]
    env: dict[str, str]
    folder: str
    user: QemuUser
    monitor: str


def look_at(pid: int) -> Seen:
    """Read what a process is.

    Raises SystemError_ where there is none or it cannot be read, OperationInvalid for one that is no QEMU,
    ConfigUnsupported for a QEMU whose monitor cannot be reached.
    """
    began = start_time(pid)
    proc = Path(f"/proc/{pid}")
    try:
        if began is None:
            raise ProcessLookupError(3, "No such process")
        exe = os.readlink(proc / "exe")
        words = _words(proc / "cmdline")
        env = _pairs(_words(proc / "environ"), "=")
        folder = _folder(proc, words[1:], env.get("PWD", ""))
        user = _user(proc)
    except OSError as error:
        raise SystemError_(f"Unable to resolve {proc}/exe link", error) from error
    name = os.path.basename(exe.removesuffix(" (deleted)"))
    if not words or not re.search("qemu|kvm", name):  # also one of somebody's own build, by another name
        raise OperationInvalid(f"process {pid} runs '{exe}', which is no QEMU")
    program = exe if not exe.endswith(" (deleted)") else words[0]
    return Seen(pid, began, (program, *words[1:]), env, folder, user, _monitor(pid, words[1:], folder))


def _words(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return text.removesuffix("\0").split("\0") if text else []


def _pairs(lines: list[str], between: str) -> dict[str, str]:
    parts = (line.partition(between) for line in lines)
    return {key: value for key, found, value in parts if found}


def _folder(proc: Path, words: list[str], said: str) -> str:
    """Return where the paths of a command line begin. said: what the shell that started it calls the folder.

    It is the process's own, which ``-daemonize`` makes ``/`` when everything is opened (os_setup_post). Then
    the files it has open tell, whose ends the command line names; then the shell.
    """
    now = os.readlink(proc / "cwd")
    if now != "/":
        return now
    names = {
        name for word in words for name in re.split(r'[=,:"{}\s]', word) if name[:1] not in ("", "/", "-")
    }
    links = _open_files(proc)
    if said.startswith("/") and any(os.path.normpath(f"{said}/{name}") in links for name in names):
        return said
    ends = Counter(
        link.removesuffix(f"/{name}") for link in links for name in names if link.endswith(f"/{name}")
    )
    if ends:
        return ends.most_common(1)[0][0] or "/"
    return said if said.startswith("/") else now


def _open_files(proc: Path) -> set[str]:
    """Return the paths of the files a process has open."""
    links: set[str] = set()
    for fd in os.listdir(proc / "fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(proc / "fd" / fd))
    return {link for link in links if link.startswith("/")}


def elsewhere(pid: int, path: str) -> bool:
    """Tell whether a path is another file, or none, to a process, which has mounts of its own. Blocking."""
    try:
        theirs = os.stat(f"/proc/{pid}/root{path}")
    except OSError:
        return False  # it may have gone since it was opened
    try:
        return not os.path.samestat(theirs, os.stat(path))
    except OSError:
        return True


def _user(proc: Path) -> QemuUser:
    """Return whom the process acts as: its effective ids."""
    said = _pairs((proc / "status").read_text("utf-8").splitlines(), ":")
    uid, gid = (int(said[key].split()[1]) for key in ("Uid", "Gid"))
    return QemuUser(uid, gid, tuple(int(word) for word in said.get("Groups", "").split()))


# ------------------------------------------------------------------------- monitor


def _monitor(pid: int, words: list[str], folder: str) -> str:
    """Return the path of a QMP monitor's socket. Raises ConfigUnsupported."""
    arguments = read_arguments(words)
    lines = {
        props.get("id", ""): props
        for argument in arguments
        if argument.name == "chardev"
        for props in [dict(split_opts(argument.value or "", "backend"))]
    }
    refused = ""
    for props in _monitors(arguments, lines):
        path = _socket(pid, props)
        if path is not None:
            return os.path.join(folder, path)
        refused = refused or str(props.get("backend") or "?")
    if refused:
        raise ConfigUnsupported(
            f"Cannot connect to monitor connection of type '{refused}' for pid {pid}: "
            f"it must be a unix socket on which QEMU listens; {_REMEDY}"
        )
    human = any(argument.name in ("monitor", "mon") for argument in arguments)
    what = "its monitor is the human one, QMP is needed; " if human else ""
    raise ConfigUnsupported(f"No monitor connection for pid {pid}: {what}{_REMEDY}")


def _monitors(arguments: list[Argument], lines: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """Return what the QMP monitors are connected to, as the properties of their character devices."""
    found: list[dict[str, str]] = []
    for argument in arguments:
        value = argument.value or ""
        if argument.name == "mon":
            props = dict(split_opts(value, "chardev"))
            if props.get("mode") == "control":
                found.append(lines.get(props.get("chardev", ""), {}))
        elif argument.name == "qmp" and value != "none":
            found.append(_legacy(value, lines))
    return found


def _legacy(value: str, lines: dict[str, dict[str, str]]) -> dict[str, str]:
    kind, colon, rest = value.partition(":")
    if kind == "chardev":
        return lines.get(rest, {})
    if kind != "unix" or not colon:
        return {"backend": kind}
    path, _, options = rest.partition(",")
    return {"backend": "socket", "path": path, **dict(split_opts(options))}


def _socket(pid: int, props: dict[str, str]) -> str | None:
    """Return the path of a socket that QEMU listens on; None for any other line."""
    if props.get("backend") != "socket" or props.get("server", "off") not in ("on", "yes", "true", "y"):
        return None
    if "path" in props:
        return None if props.get("abstract") == "on" else props["path"]
    if props.get("fd", "").isdigit():
        return _path_of_socket(pid, int(props["fd"]))
    return None


def _path_of_socket(pid: int, fd: int) -> str | None:
    """Return the path a process's descriptor is bound to."""
    try:
        found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
        table = Path(f"/proc/{pid}/net/unix").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    for line in table.splitlines() if found is not None else ():
        fields = line.split(maxsplit=7)
        if found is not None and len(fields) == 8 and fields[6] == found[1]:
            return fields[7]
    return None
