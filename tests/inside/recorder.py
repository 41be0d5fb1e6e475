"""Serves the domains of `tests.support.confined` by one daemon after the other; notes how each is confined.

Run inside the testbed by `tests/functional/security/test_beside_libvirt_*.py`, as
``recorder.py NAME=COMMAND …``: each command is a daemon of the system's own paths, in the foreground. Prints
a line for each domain, `MARK` and what was found. What differs from run to run is written as a word: the
guest's own folder, its number, its uuid, its categories, QEMU's user.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import libvirt  # type: ignore[import-not-found]

from qvirt.host import bpf
from tests.support import confined

MARK = "found: "
URI = "qemu:///system"
SOCKET = Path("/run/libvirt/libvirt-sock")

#: where the policy expects images
ROOT = Path("/var/lib/libvirt/images/beside")  # short, as sockets lie below

#: control groups, whose files are the kernel's
GROUPS = Path("/sys/fs/cgroup")

LOGS = Path("/var/log/libvirt/qemu")

#: folders in which guests have files of their own
TREES = (
    Path("/var/lib/libvirt/qemu"),
    Path("/run/libvirt/qemu"),
    LOGS,
    Path("/dev/hugepages"),
    GROUPS,
)
PROFILES = Path("/etc/apparmor.d/libvirt")

#: what is mounted in a guest's /dev, and so is the host's
MOUNTED = ("pts", "shm", "mqueue", "hugepages")

#: of /proc/PID/status
PROCESS = (
    *("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Umask"),
)

#: domains that run at a time
WORKERS = 2

#: seconds
PATIENCE = 120.0

Facts = dict[str, str]


def main(daemons: list[str]) -> None:
    for word in daemons:
        name, _, command = word.partition("=")
        began = time.monotonic()
        with serving(name, shlex.split(command)), ThreadPoolExecutor(WORKERS) as pool:
            print(f"{name} serves after {time.monotonic() - began:.1f} s", flush=True)
            chosen = list(confined.selected(os.environ["TESTBED"]).items())
            lanes = [(name, ROOT / str(number), chosen[number::WORKERS]) for number in range(WORKERS)]
            for done in [pool.submit(lane, *each) for each in lanes]:
                done.result()
        print(f"{name} is done after {time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def serving(name: str, command: list[str]) -> Iterator[None]:
    """Run a daemon until the block ends."""
    SOCKET.unlink(missing_ok=True)
    with open(f"/var/log/libvirt/{name}.out", "wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not SOCKET.exists():
            if daemon.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{name} does not serve: {Path(log.name).read_text(errors='replace')}")
            time.sleep(0.05)
        yield
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
        print(Path(log.name).read_text(errors="replace")[-3000:], flush=True)


def lane(daemon: str, folder: Path, domains: list[tuple[str, list[str]]]) -> None:
    """Start, look at and end domains one after the other. domains: names, and the rows each is made of."""
    connection = libvirt.open(URI)
    try:
        for name, rows in domains:
            found = {"daemon": daemon, "domain": name, "facts": record(connection, name, rows, folder)}
            print(f"{MARK}{json.dumps(found, sort_keys=True)}\n", end="", flush=True)
    finally:
        connection.close()


def record(connection: "libvirt.virConnect", name: str, rows: list[str], folder: Path) -> Facts:
    confined.make_for(rows, folder)
    if (folder / "kernel/kernel").exists():
        shutil.copy(next(Path("/boot").glob("vmlinuz-*")), folder / "kernel/kernel")
    with contextlib.ExitStack() as stack:
        for row in rows:
            stack.enter_context(confined.serving(folder / row))
        try:
            return observe(connection, name, confined.combined(name, rows, folder), folder)
        finally:
            shutil.rmtree(folder)


def observe(connection: "libvirt.virConnect", name: str, text: str, folder: Path) -> Facts:
    """Start a domain, look, end it, look again."""
    for path in (LOGS / f"sec-{name}.log", *PROFILES.glob(f"*{confined.uuid_of(name)}*")):
        path.unlink(missing_ok=True)  # the other daemon's
    untouched = Reader(name, folder)
    untouched.look_at_files("")
    times = [time.monotonic()]
    reader = Reader(name, folder, untouched.facts)
    try:
        domain = connection.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED)
    except libvirt.libvirtError as error:
        print(f"{name}: {error}", flush=True)
        reader.facts["refused"] = "by QEMU" if "monitor" in str(error) else "by the daemon"
        reader.look_at_files("after")
        return reader.facts
    times.append(time.monotonic())
    try:
        reader.running(domain.ID(), domain.XMLDesc())
    finally:
        times.append(time.monotonic())
        domain.destroy()
    times.append(time.monotonic())
    print(name, *(f"{after - before:.1f}" for before, after in pairwise(times)), flush=True)
    reader.look_at_files("after")
    return reader.facts


class Reader:
    """Reads facts of one domain. facts: by name; a fact that is not there is as telling as a value.

    before: the files' as they were, which are left out.
    """

    def __init__(self, name: str, folder: Path, before: Facts | None = None) -> None:
        self.facts: Facts = {}
        self._before = before or {}
        self._name = f"sec-{name}"
        self._uuid = confined.uuid_of(name)
        self._folder = folder
        self._id = 0
        self._pair = ""

    def running(self, id: int, xml: str) -> None:
        self._id = id
        pid = int(Path(f"/run/libvirt/qemu/{self._name}.pid").read_text())
        label = Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")
        pair = re.search(r":(c\d+,c\d+)$", label)
        self._pair = pair[1] if pair else ""
        self._put("process label", label)
        self._look_at_process(pid)
        self._look_at_document(xml)
        self._look_at_devices(pid)
        self._look_at_dev(pid)
        if os.environ["TESTBED"] == "apparmor":
            self._look_at_profile()
        self.look_at_files("running")

    def _word(self, text: str) -> str:
        """Return a text with words for what differs from run to run."""
        text = text.replace(str(self._folder), confined.FOLDER).replace(self._uuid, "UUID")
        if self._pair:
            text = text.replace(self._pair, "PAIR")
        text = re.sub(r"(?<![\d:])c\d+,c\d+\b", "OTHER-PAIR", text)
        return re.sub(rf"\b{self._id}-(?={self._name}\b)", "ID-", text) if self._id else text

    def _put(self, name: str, value: str) -> None:
        self.facts[self._word(name)] = self._word(value)

    def _put_if_new(self, what: str, when: str, path: str, value: str) -> None:
        if self._before.get(self._word(f"{what} {path}")) != self._word(value):
            self._put(f"{when} {what} {path}".strip(), value)

    def _look_at_process(self, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        for key in PROCESS:
            self._put(f"process {key}", " ".join(status[key].split()))
        self._put("process Groups", " ".join(sorted(status["Groups"].split())))
        self._put("process cgroup", Path(f"/proc/{pid}/cgroup").read_text().strip())
        for kind in sorted(os.listdir(f"/proc/{pid}/ns")):
            ours, theirs = os.readlink(f"/proc/self/ns/{kind}"), os.readlink(f"/proc/{pid}/ns/{kind}")
            if ours != theirs:
                self._put(f"process namespace {kind}", "own")

    def _look_at_document(self, xml: str) -> None:
        for text in re.findall(r"<seclabel\b(?:[^>]*/>|.*?</seclabel>)", xml, re.S):
            model = re.search(r"model='(\w+)'", text)
            name = f"document seclabel {model[1] if model else ''}".strip()
            while name in self.facts:
                name += " again"
            self._put(name, re.sub(r">\s+<", "><", text))

    def _look_at_devices(self, pid: int) -> None:
        group = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition(":")[2]
        folder = Path("/sys/fs/cgroup" + group)
        while "qemu-" not in folder.name:
            folder = folder.parent
        for rule in bpf.rules(folder):
            kind = "block" if rule.type == bpf.BLOCK else "char"
            minor = "*" if rule.minor is None else rule.minor
            bits = ((bpf.READ, "r"), (bpf.WRITE, "w"), (bpf.MKNOD, "m"))
            access = "".join(letter for bit, letter in bits if rule.access & bit)
            self._put(f"device {kind} {rule.major}:{minor}", access)

    def _look_at_dev(self, pid: int) -> None:
        top = f"/proc/{pid}/root/dev"
        for folder, folders, files in os.walk(top):
            if folder == top:
                folders[:] = [name for name in folders if name not in MOUNTED]
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                self._put_file("node", path, path[len(top) - 4 :])

    def _look_at_profile(self) -> None:
        name = f"libvirt-{self._uuid}"
        loaded = Path("/sys/kernel/security/apparmor/profiles").read_text()
        self._put("profile", "loaded" if f"{name} (enforce)" in loaded else "not loaded")
        for path in (PROFILES / name, PROFILES / f"{name}.files"):
            with contextlib.suppress(FileNotFoundError):
                text = path.read_text()
                if path.suffix != ".files":
                    self._put("profile text", "\n".join(line for line in text.splitlines() if line.strip()))
                    continue
                own = re.sub(r"^\s*profile [^\n]*\{\n.*?^\s*\}$", "", text, flags=re.M | re.S)  # not helpers'
                for match in re.finditer(r'^\s*(deny )?"?(/.*?)"? (\w+),$', own, re.M):
                    key = f"rule {match[1] or ''}{match[2]}"
                    before = self.facts.get(self._word(key), "")
                    self._put(key, "".join(sorted({*before, *match[3]})))

    def look_at_files(self, when: str) -> None:
        for made in (self._folder, *self._folder.rglob("*")):
            self._put_file(when, str(made))
        mine = re.compile(rf"\b{self._name}(?![\w-])")
        for tree in TREES:
            for folder, folders, files in os.walk(tree):  # whose folders may go meanwhile
                for name in (*folders, *(files if tree != GROUPS else ())):
                    path = os.path.join(folder, name)
                    if mine.search(path[len(str(tree)) :]):
                        self._put_file(when, path)
        if when == "after" and os.environ["TESTBED"] == "apparmor":
            for profile in sorted(PROFILES.glob(f"*{self._uuid}*")):
                self._put(f"after {profile}", "there")
            loaded = Path("/sys/kernel/security/apparmor/profiles").read_text()
            self._put("after profile", "loaded" if self._uuid in loaded else "not loaded")

    def _put_file(self, when: str, path: str, name: str = "") -> None:
        """Put down kind, owner and mode, the label, and each mark of a file. name: what it is called."""
        try:
            status = os.lstat(path)
            names = os.listxattr(path, follow_symlinks=False)
            marks = {mark: os.getxattr(path, mark, follow_symlinks=False) for mark in names}
        except FileNotFoundError:
            return
        mode = f"{KINDS[stat.S_IFMT(status.st_mode)]} {owner(status)} {stat.S_IMODE(status.st_mode):04o}"
        self._put_if_new("owner", when, name or path, mode)
        for mark, value in marks.items():
            text = value.rstrip(b"\0").decode(errors="replace")
            if mark != "security.selinux":
                self._put_if_new(mark, when, name or path, "TIME" if "timestamp" in mark else text)
            elif os.environ["TESTBED"] == "selinux":
                self._put_if_new("label", when, name or path, text)


KINDS = {
    stat.S_IFSOCK: "socket",
    stat.S_IFDIR: "folder",
    stat.S_IFREG: "file",
    stat.S_IFIFO: "pipe",
    stat.S_IFLNK: "link",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
}


def owner(status: os.stat_result) -> str:
    names = {0: "root", 64055: "qemu"}
    return f"{names.get(status.st_uid, status.st_uid)}:{names.get(status.st_gid, status.st_gid)}"


if __name__ == "__main__":
    signal.alarm(800)
    socket.setdefaulttimeout(PATIENCE)
    main(sys.argv[1:])
