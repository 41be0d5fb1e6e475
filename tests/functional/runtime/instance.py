"""A hypervisor on a tree of its own, the documents it is given, and what it must not leave behind."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from qvirt.constants.domain_event import DomainEventType
from qvirt.runtime.events import DomainEvent, Lifecycle, MonitorEvent
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths
from tests.support.groups import groups_of, remove_groups

T = TypeVar("T")

EMULATOR = "/usr/bin/qemu-system-x86_64"
PATIENCE = 30.0

#: emulators' answers, kept between tests: asking takes half a second
_CACHE = Path(tempfile.gettempdir()) / f"qvirt-test-caps-{os.getuid()}"


class Instance:
    """A tree that QEMU's user can get at, and the hypervisors that serve it one after the other."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="qvrt"))
        self.root.chmod(0o755)
        self.paths = Paths.root(self.root)
        cache = self.paths.cache / "capabilities"
        if _CACHE.is_dir():
            shutil.copytree(_CACHE, cache)

    def remember_caps(self) -> None:
        """Keep the emulators' answers for the next test."""
        cache = self.paths.cache / "capabilities"
        if not _CACHE.is_dir() and cache.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix="qvcaps"))
            shutil.copytree(cache, fresh, dirs_exist_ok=True)
            with contextlib.suppress(OSError):
                fresh.rename(_CACHE)

    @contextlib.asynccontextmanager
    async def serve(
        self, *, checkpoint: Callable[[str], None] | None = None, autostart: bool = True
    ) -> AsyncIterator[Hypervisor]:
        """Serve the tree for the length of the block."""
        hv = await Hypervisor.open(self.paths, checkpoint=checkpoint, autostart=autostart)
        try:
            yield hv
        finally:
            await hv.close()
            self.remember_caps()

    def image(self, name: str = "disk.img", size: int = 10 << 20) -> Path:
        """Make an empty raw image."""
        path = self.root / name
        with path.open("wb") as file:
            file.truncate(size)
        path.chmod(0o644)
        return path

    def processes(self) -> list[int]:
        """Return the processes whose command line or name is about this tree, ourselves excepted."""
        found = []
        mark = str(self.root).encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if mark in (entry / "cmdline").read_bytes() and state != "Z":
                    found.append(int(entry.name))
        return found

    def traces(self) -> list[str]:
        """Return what a domain that does not run must not leave: files of runs, folders, sockets."""
        left = [path.name for path in self.paths.run.iterdir() if path.suffix in (".xml", ".pid")]
        left = [name for name in left if name != "driver.pid"]
        left += [path.name for path in self.paths.lib.glob("domain-*")]
        left += [path.name for path in (self.paths.lib / "channel/target").glob("*")]
        # the mark that autostarts are done may just be being written
        left += [path.name for path in self.root.rglob("*.new") if path.name != "autostarted.new"]
        left += map(str, groups_of(self.root))
        return left

    def close(self) -> None:
        """End what still runs and remove the tree."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remove_groups(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def instance() -> Iterator[Instance]:
    """An instance for the length of the block."""
    it = Instance()
    try:
        yield it
    finally:
        it.close()


def run(work: Coroutine[Any, Any, T], patience: float = 120.0) -> T:
    """Run a test's coroutine, with an end. patience: seconds."""
    return asyncio.run(asyncio.wait_for(work, patience))


async def until(happened: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for something that nothing announces; a bounded poll."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not happened():
        if loop.time() > end:
            raise AssertionError(f"{what}: not within {patience} s")
        await asyncio.sleep(0.005)


class Recorder:
    """Takes down every event; lifecycle ones as (event, detail)."""

    def __init__(self, hv: Hypervisor) -> None:
        self.events: list[DomainEvent] = []
        hv.events.subscribe(self.events.append)

    def lifecycle(self) -> list[tuple[int, int]]:
        """Return the lifecycle events so far."""
        return [(e.event, e.detail) for e in self.events if isinstance(e, Lifecycle)]

    def of(self, kind: type[T]) -> list[T]:
        """Return the events of one class."""
        return [event for event in self.events if isinstance(event, kind)]

    def names(self) -> list[str]:
        """Return the classes of all events but QEMU's own."""
        return [type(event).__name__ for event in self.events if not isinstance(event, MonitorEvent)]

    async def stopped(self) -> None:
        """Wait for a stopped event."""
        await until(
            lambda: any(event == DomainEventType.STOPPED for event, _ in self.lifecycle()), "stopped event"
        )


def document(name: str, *devices: str, extra: str = "", on: str = "", uuid: str = "") -> str:
    """Return a small domain with the devices given; no USB, no balloon unless asked for."""
    return f"""<domain type='qemu'>
  <name>{name}</name>{f"<uuid>{uuid}</uuid>" if uuid else ""}
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  {on}
  {extra}
  <devices>
    <emulator>{EMULATOR}</emulator>
    <controller type='usb' model='none'/>
    {"" if any("memballoon" in device for device in devices) else "<memballoon model='none'/>"}
    {"".join(devices)}
  </devices>
</domain>"""


def disk(path: Path, target: str = "vda", more: str = "") -> str:
    """Return a raw virtio disk."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>"
        f"<target dev='{target}' bus='virtio'/>{more}</disk>"
    )
