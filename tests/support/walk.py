"""Daemon or QEMU are killed at every step of a guest's life; afterwards everything is as before or as after.

One table (`LIFE`) of what is done to a guest, with the steps that this must pass; the others are found by
doing it once. What there is (`world`) was looked at then, too: a kill at any step must lead to what there was
before it or to what there was after it. Runs on any machine, under whichever security model it has.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

from qvirt.constants.domain import DomainDeviceModifyFlags
from qvirt.errors import QvirtError
from qvirt.record import Record
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.helping import SHARED_MEMORY, shared_folder
from tests.functional.runtime.instance import Instance, disk, document
from tests.support.world import World, difference, look

LIVE = DomainDeviceModifyFlags.LIVE

#: whom images belong to
OWNER = 12345

VICTIMS = ("daemon", "qemu", "both")

#: seconds until everything is as it is to be
PATIENCE = 30.0

#: work on a domain; the folder is that of its tree
Work = Callable[[Domain, "Places"], Awaitable[None]]


class Places(Record):
    """Where what a guest uses lies. node: a device node of the host's, its own in /dev."""

    root: Path
    node: Path

    def plugged(self, kind: str) -> str:
        """Return the document of the device that is plugged in."""
        if kind == "disk":
            return disk(self.root / "plugged.img", "sda").replace("'virtio'", "'scsi'")
        return (
            f"<channel type='dev'><source path='{self.node}'/><target type='virtio' name='walk'/></channel>"
        )

    def document(self) -> str:
        """Return the guest: with images that it writes and reads, a socket, and a helper."""
        cd = disk(self.root / "cd.iso", "sdb", "<readonly/>").replace("'virtio'", "'scsi'")
        channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        scsi = "<controller type='scsi' index='0' model='virtio-scsi'/>"
        devices = (disk(self.root / "disk.img"), cd, scsi, channel, shared_folder(self.root))
        return document("walked", *devices, extra=SHARED_MEMORY)


async def _start(domain: Domain, _: Places) -> None:
    await domain.start(paused=True)


async def _stop(domain: Domain, _: Places) -> None:
    await domain.destroy()


def _plug(kind: str) -> Work:
    async def work(domain: Domain, places: Places) -> None:
        await hotplug.attach(domain, places.plugged(kind), LIVE)

    return work


def _unplug(kind: str) -> Work:
    async def work(domain: Domain, places: Places) -> None:
        await hotplug.detach(domain, places.plugged(kind), LIVE)

    return work


class Stage(Record):
    """A piece of a guest's life. before, after: what there is then, by name. passes: steps it must pass."""

    before: str
    after: str
    work: Work
    passes: frozenset[str]


_STARTING = (
    *("start", "checked", "status written", "host prepared", "own /dev made", "helper spawned"),
    *("helpers written down", "helpers executed", "helpers ready", "sockets made", "spawned"),
    *("control groups made", "executed", "monitor connected", "monitor ready", "running", "started"),
)
_PLUGGING = (
    *("device checked", "device written down", "device's files given", "device's host side made"),
    *("device_add done", "device plugged"),
)
_UNPLUGGING = ("device deleted", "device's backends removed", "device's host side released")
_STOPPING = ("destroy", "killed", "finish", "helpers ended", "cleared", "finished")

LIFE = (
    Stage("off", "running", _start, frozenset(_STARTING)),
    Stage("running", "disk", _plug("disk"), frozenset(_PLUGGING)),
    Stage("disk", "running", _unplug("disk"), frozenset(_UNPLUGGING)),
    Stage("running", "node", _plug("node"), frozenset(_PLUGGING)),
    Stage("node", "running", _unplug("node"), frozenset(_UNPLUGGING)),
    Stage("running", "off", _stop, frozenset(_STOPPING)),
)


class Step(Record):
    """A step of a stage: the one of its name, counted. has_qemu: there is a process of QEMU's at it."""

    stage: int
    name: str
    count: int
    has_qemu: bool

    def __str__(self) -> str:
        stage = LIFE[self.stage]
        return f"{stage.before} → {stage.after}, {self.name} ({self.count})"


class Hook:
    """The daemon's checkpoints: counts the steps of a stage, and strikes at one."""

    def __init__(self) -> None:
        self.stage: int | None = None
        self.passed: list[Step] = []
        self.strike: Callable[[], None] = lambda: None
        self.at: Step | None = None
        self.domain: Domain | None = None

    def __call__(self, name: str) -> None:
        if self.stage is None:
            return
        count = sum(one.name == name for one in self.passed)
        step = Step(self.stage, name, count, self.qemu() is not None)
        self.passed.append(step)
        at = self.at
        if at is not None and (at.name, at.count) == (step.name, step.count):
            self.strike()

    def qemu(self) -> int | None:
        """Return the process that is, or is going to be, the guest's QEMU."""
        running = self.domain.running if self.domain is not None else None
        process = running.process if running is not None else None
        return process.pid if process is not None and not process.is_gone else None

    async def do(self, places: Places, stage: int, strike: Callable[[], None], at: Step | None) -> None:
        """Do a piece of work with the checkpoints armed."""
        assert self.domain is not None
        self.stage, self.strike, self.at = stage, strike, at
        self.passed.clear()
        try:
            await LIFE[stage].work(self.domain, places)
        finally:
            self.stage = self.at = None


class Walk:
    """A tree, its guest, and what there was in each of its states."""

    def __init__(self, it: Instance, learnt: "Walk | None" = None) -> None:
        """learnt: one that has learnt in another tree."""
        self.it = it
        self.places = Places(it.root, node_of(it))
        self.worlds: dict[str, World] = learnt.worlds if learnt is not None else {}
        self.steps: list[Step] = learnt.steps if learnt is not None else []
        for name in ("disk.img", "cd.iso", "plugged.img"):
            os.chown(it.image(name, 1 << 20), OWNER, OWNER)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Hypervisor, Domain, Hook]]:
        """Serve the tree; its guest is defined."""
        hook = Hook()
        async with self.it.serve(checkpoint=hook, autostart=False) as hv:
            domain = hook.domain = hv.domains.find_name("walked")
            if domain is None:
                domain = hook.domain = await hv.define(self.places.document())
            # a QEMU that does not answer in time is asked again, on a busy machine
            assert [report for report in hv.reports if "it is tried again" not in report] == []
            yield hv, domain, hook

    def now(self, domain: Domain) -> World:
        return look(self.it, domain.uuid, domain.running)

    def go(self, victim: str) -> None:
        """Kill the ``daemon``, ``qemu`` or ``both`` at every step."""
        if victim == "qemu":
            assert in_child(self.kill_qemu) == 0
        else:
            self.kill_daemons(with_qemu=victim == "both")

    async def settled(self, domain: Domain, *states: str) -> str:
        """Wait until everything is as in one of these states; returns which."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            now = self.now(domain)
            for state in states:
                is_there = domain.active and not domain.need_running().monitor_failed
                if is_there != (state == "off") and not difference(now, self.worlds[state]):
                    return state
            if loop.time() > end:
                closest = min((difference(now, self.worlds[state]) for state in states), key=len)
                raise AssertionError("\n".join([f"active: {domain.active}", *closest]))
            await asyncio.sleep(0.02)

    async def reach(self, domain: Domain, hook: Hook, state: str, wanted: str) -> None:
        """Lead the guest from one state to another, on the shortest way."""
        ways: dict[str, tuple[Stage, ...]] = {state: ()}
        while wanted not in ways:
            ways = {
                stage.after: (*way, stage)
                for at, way in list(ways.items())
                for stage in LIFE
                if stage.before == at
            } | ways
        for stage in ways[wanted]:
            await stage.work(domain, self.places)

    # ---------------------------------------------------------------------- once, unharmed

    async def learn(self) -> None:
        """Go through life once; note the steps, and what there is between the stages."""
        async with self.serving() as (_, domain, hook):
            self.worlds["off"] = self.now(domain)
            for number, stage in enumerate(LIFE):
                await hook.do(self.places, number, lambda: None, None)
                assert stage.passes <= {step.name for step in hook.passed}, stage
                self.steps += hook.passed
                if stage.after in self.worlds:
                    await self.settled(domain, stage.after)
                else:
                    self.worlds[stage.after] = await self._calm(domain)

    async def _calm(self, domain: Domain) -> World:
        """Return what there is when nothing changes any more: threads go to their groups by and by."""
        before = self.now(domain)
        same = 0
        while same < 5:
            await asyncio.sleep(0.05)
            now = self.now(domain)
            same = same + 1 if now == before else 0
            before = now
        return before

    # --------------------------------------------------------------------------- QEMU is killed

    async def kill_qemu(self) -> None:
        """Kill QEMU at every step at which there is one; the daemon lives, and takes all away."""
        async with self.serving() as (_, domain, hook):
            for step in self.steps:
                if step.has_qemu:
                    await self._kill_qemu(domain, hook, step)
            await domain.undefine()

    async def _kill_qemu(self, domain: Domain, hook: Hook, step: Step) -> None:
        await self.reach(domain, hook, "off", LIFE[step.stage].before)
        struck: list[int] = []

        def strike() -> None:
            pid = hook.qemu()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            struck.append(pid)

        failure: QvirtError | None = None
        try:
            await hook.do(self.places, step.stage, strike, step)
        except QvirtError as error:
            failure = error
        assert struck, f"never came to {step}: {failure}"
        with told(step):
            await self.settled(domain, "off")

    # ----------------------------------------------------------------------- the daemon is killed

    def kill_daemons(self, *, with_qemu: bool = False) -> None:
        """Kill the daemon at every step; the next one finds things as before or as after, and dies in turn.

        with_qemu: the guest's QEMU dies with it, where there is one: nothing is to be left then.
        """
        states: tuple[str, ...] = ("off",)
        last: Step | None = None
        for step in self.steps:
            if with_qemu and not step.has_qemu:
                continue
            work = partial(self._next, states, last, step, with_qemu=with_qemu)
            assert in_child(work) == -signal.SIGKILL, f"the next daemon has not come to {step}"
            stage = LIFE[step.stage]
            states, last = ("off",) if with_qemu else (stage.before, stage.after), step
        assert in_child(partial(self._next, states, last, None)) == 0

    async def _next(
        self, states: tuple[str, ...], last: Step | None, step: Step | None, *, with_qemu: bool = False
    ) -> None:
        """Be the next daemon: look at what the last one left, and die at a step. step: None to clear up."""
        async with self.serving() as (_, domain, hook):
            with told(last):
                state = await self.settled(domain, *states)
            if step is None:
                await self.reach(domain, hook, state, "off")
                await self.settled(domain, "off")
                await domain.undefine()
                return
            await self.reach(domain, hook, state, LIFE[step.stage].before)

            def strike() -> None:
                if with_qemu and (pid := hook.qemu()) is not None:
                    os.kill(pid, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

            await hook.do(self.places, step.stage, strike, step)


@contextlib.contextmanager
def told(step: Step | None) -> Iterator[None]:
    """Say in a failure which kill has led to it."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"after a kill at {step}:\n{error}") from None


def in_child(work: Callable[[], Awaitable[None]]) -> int:
    """Run it in a process of its own, as loading everything anew takes long; returns how that ended."""
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(work())  # type: ignore[arg-type]
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def learn(walk: Walk) -> None:
    """Learn in a process of its own, so that ours has no threads when it is forked."""
    with tempfile.TemporaryFile() as file:

        async def work() -> None:
            await walk.learn()
            steps = [[step.stage, step.name, step.count, step.has_qemu] for step in walk.steps]
            file.write(json.dumps([walk.worlds, steps]).encode())
            file.flush()

        assert in_child(work) == 0
        file.seek(0)
        walk.worlds, steps = json.load(file)
    walk.steps = [Step(*step) for step in steps]


def node_of(it: Instance) -> Path:
    """Return a device node of a tree's own in the host's /dev."""
    return Path(f"/dev/walk/{it.root.name}/node")


@contextlib.contextmanager
def node_in_dev(it: Instance) -> Iterator[None]:
    """Have it there until the block ends."""
    path = node_of(it)
    path.parent.mkdir(mode=0o755, parents=True)
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.stat("/dev/null").st_rdev)
        yield
    finally:
        shutil.rmtree(path.parent)
        with contextlib.suppress(OSError):  # another tree's is in it, or it was there before
            path.parent.parent.rmdir()
