"""Everything there is of one tree's guests: what a run makes, changes or leaves behind is seen in it."""

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from qvirt.host import bpf
from qvirt.host.cgroup import machine_name
from qvirt.runtime.running import Running
from qvirt.security.apparmor import profiles
from qvirt.security.loans import daemon_word
from tests.functional.runtime.instance import Instance
from tests.support.groups import groups_of

#: name of a thing -> what it is like; what differs from run to run is a word
World = dict[str, str]

#: nobody else makes nodes, devices and mounts on this machine meanwhile
ALONE = "TESTBED" in os.environ

#: below /dev, what is the kernel's or everybody's
_SHARED = ("pts", "shm", "mqueue", "hugepages", "vcs", "tty")

#: what outlives a run: logs, emulators' answers, files of the daemon's own, a profile's part that is kept
_STAYS = re.compile(r".*\.log(\.\d)?|.*/driver\.pid|.*/cache/.*|.*\.new|.*/libvirt-[0-9a-f-]{36}")

_KINDS = {
    stat.S_IFSOCK: "socket",
    stat.S_IFDIR: "folder",
    stat.S_IFREG: "file",
    stat.S_IFIFO: "pipe",
    stat.S_IFLNK: "link",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


def look(it: Instance, uuid: str, running: Running | None) -> World:
    """Return all that a run of the guest of this tree can leave traces in. running: the guest's, if any."""
    found = dict(_files(it.root, _STAYS))
    if ALONE:
        found |= _files(
            Path("/dev"), re.compile(rf"/dev/({'|'.join(_SHARED)}).*|/dev/walk(/(?!{it.root.name}).*)?")
        )
        found |= {f"network device {name}": "" for name in os.listdir("/sys/class/net")}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4]
        if ALONE or where.startswith(str(it.root)):
            found[f"mount {where}"] = line.split(" - ")[1]
    if profiles.SECURITYFS.is_dir():
        found |= {f"profile {name}": mode for name, mode in profiles.loaded().items() if uuid in name}
        for path in (it.paths.etc.parent / "apparmor.d/libvirt").glob("*.files"):
            found[f"rules {path}"] = path.read_text()
    for group in groups_of(it.root):
        found |= {f"group {path}": _rules(path) for path in (group, *filter(Path.is_dir, group.rglob("*")))}
    for number, (name, who) in enumerate(sorted(_processes(it))):
        found[f"process {number} {name}"] = who
    if running is not None and running.process is not None:
        with contextlib.suppress(FileNotFoundError):  # it has ended
            found |= _own_dev(running.process.pid)
    return _words(found, it, uuid, running)


def difference(now: World, wanted: World) -> list[str]:
    """Return what is not as it is to be, a line each."""
    names = sorted(name for name in {*now, *wanted} if now.get(name) != wanted.get(name))
    return [f"{name}: {now.get(name)!r}, not {wanted.get(name)!r}" for name in names]


def _files(top: Path, but: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for path in (top, *_below(str(top))):
        if not but.fullmatch(str(path)):
            with contextlib.suppress(FileNotFoundError):
                yield str(path), _file(str(path))


def _below(top: str) -> Iterator[str]:
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if folder != "/dev" or name not in _SHARED]
        yield from (os.path.join(folder, name) for name in (*folders, *files))


def _file(path: str) -> str:
    """Return kind, owner, mode, label and marks."""
    status = os.lstat(path)
    said = [_KINDS[stat.S_IFMT(status.st_mode)], f"{status.st_uid}:{status.st_gid}"]
    said.append(f"{stat.S_IMODE(status.st_mode):04o}")
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        with contextlib.suppress(OSError):  # it goes just now
            value = os.getxattr(path, name, follow_symlinks=False)
            said.append(f"{name}={value.rstrip(bytes(1)).decode()}")
    return " ".join(said)


def _rules(group: Path) -> str:
    """Return which devices a control group may open."""
    if not (group / "cgroup.controllers").exists():
        return ""
    rules: Iterable[bpf.Rule] = ()
    with contextlib.suppress(OSError):  # a policy forbids to ask
        rules = bpf.rules(group)
    return " ".join(sorted(f"{rule.type}:{rule.major}:{rule.minor}={rule.access}" for rule in rules))


def _processes(it: Instance) -> Iterator[tuple[str, str]]:
    for pid in it.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it goes just now
            yield Path(f"/proc/{pid}/cmdline").read_bytes().split(bytes(1))[0].decode(), _of(pid)


def _of(pid: int) -> str:
    """Return who a process is."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    label = ""
    with contextlib.suppress(OSError):  # a policy forbids to ask, or there is none
        label = Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")
    group = Path(f"/proc/{pid}/cgroup").read_text().split()
    return " ".join((status["Uid"], status["CapBnd"], label, *sorted(group)))


def _own_dev(pid: int) -> World:
    """Return the nodes in a guest's own /dev."""
    top = f"/proc/{pid}/root/dev"
    own: World = {}
    if os.stat(top).st_dev != os.stat("/dev").st_dev:
        for path in _below(top):
            name = path[len(top) :]
            if not name.startswith(tuple(f"/{shared}" for shared in _SHARED)):
                own[f"own /dev{name}"] = _file(path)
    return own


def _words(found: World, it: Instance, uuid: str, running: Running | None) -> World:
    """Put words for what is another's in each tree and run: folder, uuid, number, categories."""
    words = {
        str(it.root): "TREE",
        it.root.name: "TREE",
        uuid: "UUID",
        daemon_word(str(it.paths.lib)): "DAEMON",
    }
    words[machine_name(1, "x", str(it.root)).split("-")[2]] = "TREE"
    number = re.compile(r"(?!)")
    if running is not None:
        labels = [label.label or "" for label in running.definition.seclabels if label.model == "selinux"]
        words |= {match[0]: "PAIR" for label in labels if (match := re.search(r"c\d+,c\d+$", label))}
        number = re.compile(rf"(?<!\d){running.id}(?=-{running.definition.name})")

    def worded(text: str) -> str:
        for old, new in words.items():
            text = text.replace(old, new)
        return number.sub("ID", text)

    return {worded(name): worded(value) for name, value in found.items()}
