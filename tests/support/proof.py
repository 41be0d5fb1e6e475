"""What whoever has taken a QEMU over would try, and which layer stops it with all others off.

One table, `ROWS`, is what the tests go by and what docs/security.md shows. A row is tried in real QEMUs of
two guests (`tests.support.inside`), each against the other, under one layer at a time: what the table says
is refused, and all the rest is done, so that nothing else has refused it.
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from qvirt.daemon import listen
from qvirt.daemon.config import Config
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.model.devices.char import AGENT_CHANNEL
from qvirt.record import Record
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.life import cgroups
from tests.functional.runtime.helping import QUICK_SETUP, TPM, path_with, program
from tests.functional.runtime.instance import Instance, disk, document, until
from tests.support import inside
from tests.support.inside import (
    DONE,
    MISSING,
    NEW_USER,
    NUMBERS,
    Argument,
    Attempt,
    Call,
    First,
    tried,
)

#: qemu.conf with every layer off: QEMU is root, with root's power, and sees what there is
OFF: Final = {
    "user": '"root"',
    "group": '"root"',
    "clear_emulator_capabilities": "0",
    "seccomp_sandbox": "0",
    "security_driver": '"none"',
    "namespaces": "[ ]",
    "cgroup_controllers": '[ "cpu" ]',
}

#: layer -> what turns it on; both versions of control groups are one layer, tried one at a time
LAYERS: Final[dict[str, dict[str, str]]] = {
    "owners": {"user": '"libvirt-qemu"', "group": '"libvirt-qemu"'},
    "capabilities": {"clear_emulator_capabilities": "1"},
    "seccomp": {"seccomp_sandbox": "1"},
    "device list": {"cgroup_controllers": '[ "cpu", "devices" ]'},
    "own /dev": {"namespaces": '[ "mount" ]'},
    "AppArmor": {"security_driver": '"apparmor"'},
    "SELinux": {"security_driver": '"selinux"'},
}

#: a user that is nobody's, and the other guest's where guests have users of their own
STRANGER: Final = 4711
OTHER: Final = 4712


def options(*layers: str) -> str:
    """Return qemu.conf with these layers on and all others off."""
    chosen = dict(OFF)
    for layer in layers:
        chosen |= LAYERS[layer]
    return "".join(f"{name} = {value}\n" for name, value in chosen.items())


class Guest(Record):
    """What there is of a guest, seen from the host. stack: where its stack begins.

    memory: its file, None where it is in none.
    """

    pid: int
    disk: Path
    descriptor: str
    monitor: str
    agent: str
    channel: str
    console: str
    memory: Path | None
    nvram: str
    key: str
    status: Path
    tpm: Path
    stack: int


class World(Record):
    """Whom a guest could harm. node: a disk of the host. gain: a program that gives a stranger's rights."""

    mine: Guest
    other: Guest
    folder: Path
    node: str
    gain: Path
    socket: Path
    secret: Path
    group: Path
    daemon: int


#: None where there is nothing to try it on
Try = Callable[[World], Attempt | None]


class Row(Record):
    """An attempt. stopped: the layers of which each stops it alone. other: it is about the other guest."""

    stopped: frozenset[str]
    attempt: Try
    other: bool = False


# ------------------------------------------------------------------------- attempts


def _text(value: str | Path) -> bytes:
    return os.fsencode(value) + b"\0"


def _call(name: str, *arguments: Argument, allows: str = "") -> Call:
    return Call(NUMBERS[name], arguments, tuple(allows.split()))


_CLOSE: Final = (_call("close", First()),)


def opened(path: str | Path, flags: int = os.O_RDWR) -> Attempt:
    """Return the opening of a file or node, for reading and writing."""
    return Attempt((_call("open", _text(path), flags | os.O_NONBLOCK | os.O_NOCTTY),), _CLOSE)


def _connected(path: str | Path) -> Attempt:
    folder, _, name = str(path).rpartition("/")
    address = struct.pack("H", socket.AF_UNIX) + _text(name)
    made = _call("socket", socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
    # an address has no room for a long path
    gone, back = _call("chdir", _text(folder)), _call("chdir", _text("/"))
    # a queue that is full is one that we were let into
    connected = _call("connect", First(), address, len(address), allows="EAGAIN")
    return Attempt((made, gone, connected), (*_CLOSE, back))


def _read(world: World) -> Attempt:
    own, theirs = (struct.pack("QQ", guest.stack, 8) for guest in (world.mine, world.other))
    return Attempt((_call("process_vm_readv", world.other.pid, own, 1, theirs, 1, 0),))


def _traced(world: World) -> Attempt:
    """Seize it; undone by stopping it, waiting until it has stopped, and leaving it."""
    pid = world.other.pid
    stopped = (_call("ptrace", inside.INTERRUPT, pid, 0, 0), _call("wait4", pid, 0, inside.ALL, 0))
    left = _call("ptrace", inside.DETACH, pid, 0, 0)
    return Attempt((_call("ptrace", inside.SEIZE, pid, 0, 0),), (*stopped, left))


def _node(world: World) -> Attempt:
    path = _text(world.folder / "node")
    number = os.stat(world.node).st_rdev
    return Attempt((_call("mknod", path, stat.S_IFBLK | 0o600, number),), (_call("unlink", path),))


def _mount(world: World) -> Attempt:
    where, kind = _text(world.folder / "mount"), _text("tmpfs")
    return Attempt((_call("mount", kind, where, kind, 0, 0),), (_call("umount2", where, 2),))


def _calls(*calls: Call, undo: tuple[Call, ...] = ()) -> Try:
    return lambda _: Attempt(calls, undo)


def _signalled(pid: int) -> Attempt:
    return Attempt((_call("kill", pid, signal.SIGWINCH),))  # which nobody minds


#: what stops a guest from having what is another user's, and what is root's
_BY_LABEL: Final = frozenset({"AppArmor", "SELinux"})
_ROOTS: Final = _BY_LABEL | {"owners"}
_OTHERS: Final = _ROOTS | {"capabilities"}


def _other(stopped: frozenset[str], attempt: Try) -> Row:
    return Row(stopped, attempt, other=True)


#: what is tried, in this order, as the last ones end the process
ROWS: Final[dict[str, Row]] = {
    "another guest's disk": _other(_OTHERS, lambda w: opened(w.other.disk)),
    "a file another guest has open": _other(_OTHERS, lambda w: opened(w.other.descriptor)),
    "another guest's monitor": _other(_OTHERS - {"AppArmor"}, lambda w: _connected(w.other.monitor)),
    "another guest's agent": _other(_OTHERS - {"AppArmor"}, lambda w: _connected(w.other.agent)),
    "another guest's channel": _other(_OTHERS - {"AppArmor"}, lambda w: _connected(w.other.channel)),
    "another guest's console": _other(_OTHERS - {"AppArmor"}, lambda w: opened(w.other.console)),
    "another guest's memory": _other(_OTHERS, lambda w: opened(f"/proc/{w.other.pid}/mem")),
    "the same, by reading it": _other(_OTHERS, _read),
    "the same, by its file": _other(_OTHERS, lambda w: opened(w.other.memory) if w.other.memory else None),
    "another guest's NVRAM": _other(_OTHERS, lambda w: opened(w.other.nvram)),
    "another guest's TPM": _other(_OTHERS, lambda w: opened(w.other.tpm)),
    "another guest's key": _other(_OTHERS, lambda w: opened(w.other.key, os.O_RDONLY)),
    "tracing another guest": _other(_OTHERS, _traced),
    "signals to another guest": _other(_OTHERS, lambda w: _signalled(w.other.pid)),
    "signals to the daemon": Row(_ROOTS, lambda w: _signalled(w.daemon)),
    "the daemon's memory": Row(_OTHERS, lambda w: opened(f"/proc/{w.daemon}/mem", os.O_RDONLY)),
    "the daemon's socket": Row(frozenset({"owners", "SELinux"}), lambda w: _connected(w.socket)),
    "a status file": Row(_ROOTS, lambda w: opened(w.other.status, os.O_RDONLY)),
    "a secret": Row(_ROOTS, lambda w: opened(w.secret, os.O_RDONLY)),
    "/etc/shadow": Row(_ROOTS, lambda _: opened("/etc/shadow", os.O_RDONLY)),
    "a disk of the host": Row(_ROOTS | {"device list", "own /dev"}, lambda w: opened(w.node)),
    "mknod of that disk": Row(_OTHERS | {"device list"}, _node),
    "leaving its control group": Row(_ROOTS, lambda w: opened(w.group, os.O_WRONLY)),
    "raw sockets": Row(_OTHERS, _calls(_call("socket", socket.AF_INET, socket.SOCK_RAW, 1), undo=_CLOSE)),
    "chown": Row(_OTHERS, lambda w: Attempt((_call("chown", _text(w.folder), STRANGER, -1),))),
    "chroot": Row(_OTHERS, _calls(_call("chroot", _text("/")))),
    "loading a module": Row(_OTHERS, _calls(_call("init_module", b"\0", 0, b"\0", allows="ENOEXEC"))),
    "mount": Row(_OTHERS | {"seccomp"}, _mount),
    "reboot": Row(_OTHERS | {"seccomp"}, _calls(_call("reboot", 0, 0, 0, 0, allows="EINVAL"))),
    "a better priority": Row(
        _OTHERS | {"seccomp"}, _calls(_call("setpriority", 0, 0, -1), undo=(_call("setpriority", 0, 0, 0),))
    ),
    "setuid": Row(
        frozenset({"owners", "capabilities", "seccomp", "SELinux"}),
        _calls(_call("setresuid", -1, STRANGER, -1), undo=(_call("setresuid", -1, 0, -1),)),
    ),
    "an obsolete system call": Row(frozenset({"seccomp"}), _calls(_call("ustat", 0, 0, allows="EINVAL"))),
    "another process": Row(frozenset({"seccomp"}), _calls(_call("fork"))),
    "another program": Row(
        frozenset({"seccomp", "AppArmor"}), lambda w: Attempt((_call("execve", _text(w.gain), 0, 0),))
    ),
    # not a call of its own: whom that program runs as
    "a set-user-ID program": Row(frozenset({"capabilities", "seccomp", "AppArmor"}), lambda _: None),
}

ABOUT_OTHERS: Final = {name: row for name, row in ROWS.items() if row.other}

#: layers that tell guests apart by their users
TAKES_USERS: Final = ("owners", "capabilities")

#: what needs the right to trace, which Yama may give to nobody's equals
_TRACES: Final = {"another guest's memory", "the same, by reading it", "tracing another guest"}


def within_one_user() -> set[str]:
    """Return what a guest may do to another of its user without labels, with all other layers on."""
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    kept = {"another guest's monitor", "another guest's agent", "another guest's TPM"}
    return ABOUT_OTHERS.keys() - kept - (_TRACES if yama.exists() and yama.read_text() != "0\n" else set())


_PROGRAM: Final = "another program"
_RIGHTS: Final = "a set-user-ID program"


# ------------------------------------------------------------------------- two guests

MEMORY = "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>"
LABEL = "<seclabel type='static' model='dac' relabel='yes'><label>+{0}:+{0}</label></seclabel>"
CHANNEL = "<channel type='unix'><target type='virtio' name='{}'/></channel>"
SERIAL = "<serial type='pty'/>"


def guest_document(it: Instance, name: str, *, user: int | None = None, memory: str = MEMORY) -> str:
    """Return a guest with all that another could want. user: its own, None for that of qemu.conf.

    memory: what the document says about its memory.
    """
    code, template = it.image("code.fd", 1 << 20), it.image("vars.fd", 1 << 20)
    tpm = (TPM,) if shutil.which("swtpm") else ()
    loader = (
        f"<loader readonly='yes' type='pflash'>{code}</loader>"
        f"<nvram template='{template}'>{it.paths.nvram}/{name}_VARS.fd</nvram>"
    )
    image = it.image(f"{name}.img")
    text = document(
        name,
        disk(image),
        *map(CHANNEL.format, (AGENT_CHANNEL, "a.0")),
        SERIAL,
        *tpm,
        extra=memory,
    ).replace("</os>", f"{loader}</os>")
    return text.replace("</domain>", f"{LABEL.format(user)}</domain>") if user is not None else text


def seen(it: Instance, domain: Domain) -> Guest:
    """Look a guest that runs up."""
    running = domain.need_running()
    name, pid = domain.name, running.pid
    image = it.root / f"{name}.img"
    links = {link: os.readlink(link) for link in map(str, Path(f"/proc/{pid}/fd").iterdir())}
    [console] = [one.path for one in running.definition.devices.serials]
    memory = next(it.paths.lib.glob(f"ram/{running.id}-{name}/*"), None)
    return Guest(
        pid=pid,
        disk=image,
        descriptor=next(link for link, target in links.items() if target == str(image)),
        monitor=running.monitor_path,
        agent=next(path for path in running.footprint.files if path.endswith(AGENT_CHANNEL)),
        channel=next(path for path in running.footprint.files if path.endswith("/a.0")),
        console=str(console),
        memory=memory,
        nvram=f"{it.paths.nvram}/{name}_VARS.fd",
        key=f"{running.folder}/master-key.aes",
        status=it.paths.status(name),
        tpm=_tpm_state(it.paths.swtpm_storage / domain.uuid),
        stack=_stack(pid),
    )


def _tpm_state(folder: Path) -> Path:
    """Return the state of a guest's TPM; without swtpm one as that leaves it, another user's."""
    found = next((path for path in folder.rglob("*") if path.is_file()), None)
    if found is None:
        found = folder / "tpm2/tpm2-00.permall"
        found.parent.mkdir(parents=True, exist_ok=True)
        found.touch(0o600)
        os.chown(found, STRANGER, STRANGER)
    return found


def _stack(pid: int) -> int:
    """Return where a process's stack begins."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("[stack]"):
            return int(line.partition("-")[0], 16)
    raise LookupError(pid)


Trier = Callable[[int, dict[str, Attempt]], Awaitable[dict[str, str]]]


class Proof:
    """Two guests of one hypervisor, and what each may do."""

    def __init__(
        self, it: Instance, hv: Hypervisor, node: str, gain: Path, trier: Trier, memory: str
    ) -> None:
        self.it = it
        self.hv = hv
        self._node = node
        self._gain = gain
        self._try = trier
        self._memory = memory
        self.folder = it.root / "open"

    async def all(
        self, *, apart: bool, rows: Mapping[str, Row] = ROWS
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the attempts of a guest came to, and those of the other against it.

        apart: the other one has a user of its own.
        """
        user = OTHER if apart else None
        one = await self.hv.define(guest_document(self.it, "one", memory=self._memory))
        two = await self.hv.create(
            guest_document(self.it, "two", user=user, memory=self._memory), paused=True
        )
        attempts = dict(rows)
        found: dict[str, str] = {}
        back: dict[str, str] = {}
        while attempts:
            await one.start(paused=True)
            for domain in (one, two):
                await cgroups.placed(domain.need_running())
            if not back:
                back = await self._tried(two, one, ABOUT_OTHERS)
            here = await self._tried(one, two, attempts)
            assert here, attempts
            found |= here
            attempts = {name: row for name, row in attempts.items() if name not in found}
            if one.active:
                await one.destroy()
        await two.destroy()
        return found, back

    async def _tried(self, mine: Domain, other: Domain, rows: Mapping[str, Row]) -> dict[str, str]:
        """Try in one guest; where one attempt was its end, those behind it are missing."""
        world = self._world(mine, other)
        attempts = {name: one for name, row in rows.items() if (one := row.attempt(world)) is not None}
        found = await self._try(world.mine.pid, attempts) if attempts else {}
        if len(found) < len(attempts):
            await until(lambda: not mine.active, "the end of a guest that was killed")
        for name in rows:
            if name not in attempts and name != _RIGHTS:
                found[name] = MISSING
        if _PROGRAM in found:
            said = found[_PROGRAM]
            found[_RIGHTS] = DONE if said == NEW_USER else "no other user" if said == DONE else said
            found[_PROGRAM] = DONE if said == NEW_USER else said
        return found

    def _world(self, mine: Domain, other: Domain) -> World:
        group = self.hv.cgroups.mounts
        assert group is not None
        top = group.v2 if group.v2 is not None else group.v1["devices"]
        return World(
            mine=seen(self.it, mine),
            other=seen(self.it, other),
            folder=self.folder,
            node=self._node,
            gain=self._gain,
            socket=self.it.paths.sockets / listen.NAMES[0],
            secret=next(self.it.paths.secrets.glob("*.base64")),
            group=top / "cgroup.procs",
            daemon=os.getpid(),
        )


_DOCUMENT = "<secret><description>x</description></secret>"


@contextlib.asynccontextmanager
async def serving(it: Instance, conf: str) -> AsyncIterator[Hypervisor]:
    """Serve a tree as qemu.conf says."""
    config = make_config(parse_conf(conf, "qemu.conf"), privileged=True)
    hv = await Hypervisor.open(it.paths, config=config)
    try:
        yield hv
    finally:
        await hv.close()
        it.remember_caps()


@contextlib.asynccontextmanager
async def proving(
    it: Instance,
    conf: str,
    node: str,
    *,
    gain: Path | None = None,
    trier: Trier = tried,
    memory: str = MEMORY,
) -> AsyncIterator[Proof]:
    """Serve two guests with the layers that qemu.conf says.

    node: a disk of the host; gain: a program with a stranger's rights, None to make one; memory: what
    documents say about memory.
    """
    async with serving(it, conf) as hv:
        assert hv.secrets is not None
        kept = await hv.secrets.define(_DOCUMENT)
        await hv.secrets.set_value(kept, b"secret")
        services = listen.listen(it.paths.sockets, Config(), privileged=True, private=True)
        try:
            proof = Proof(it, hv, node, gain or gaining(it.root / "gain"), trier, memory)
            for path in (proof.folder, proof.folder / "mount"):
                path.mkdir()
                path.chmod(0o777)
            with _quick_tpms(it):
                yield proof
        finally:
            listen.close_all(services)


@contextlib.contextmanager
def _quick_tpms(it: Instance) -> Iterator[None]:
    """Have TPMs made without keys, which takes seconds."""
    before = os.environ["PATH"]
    program(it.root / "bin", "swtpm_setup", QUICK_SETUP)
    os.environ["PATH"] = path_with(it.root / "bin")
    try:
        yield
    finally:
        os.environ["PATH"] = before


def gaining(path: Path) -> Path:
    """Make a program that gives whoever runs it a stranger's rights."""
    shutil.copy(os.path.realpath("/bin/true"), path)
    os.chown(path, STRANGER, -1)
    path.chmod(0o4755)
    return path


#: not in every kernel
_OPTIONAL: Final = frozenset({"loading a module"})


def unlike(found: dict[str, str], rows: Iterable[str], *layers: str) -> dict[str, str]:
    """Return which rows came to something else than the table says of some layers together."""
    wrong = {}
    for name in rows:
        said = found.get(name, "not tried")
        if said == MISSING and name in _OPTIONAL:
            continue
        is_stopped = bool(ROWS[name].stopped & set(layers))
        if (said != DONE) != is_stopped or said in (MISSING, "not tried"):
            wrong[name] = said
    return wrong


def table() -> str:
    """Return the rows as docs/security.md has them."""
    lines = [f"| | {' | '.join(LAYERS)} |", f"|---|{'---|' * len(LAYERS)}"]
    for name, row in ROWS.items():
        marks = ("x" if layer in row.stopped else "" for layer in LAYERS)
        lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines)
