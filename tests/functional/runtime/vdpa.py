"""vDPA where the machine has none: an ordinary file stands for the device, a user's backend for QEMU's.

The descriptor goes into a real QEMU's set and out of it; ``netdev_add`` alone is put in other words, and a
block node holds the set as the backend would.
"""

import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvirt.qmp.client import Monitor
from qvirt.qmp.commands import as_objects
from qvirt.qmp.wire import Json, JsonValue
from qvirt.runtime.domain import Domain

#: what `prlimit` was told, by process: hard limits of locked memory, bytes
LOCKABLE: dict[int, int] = {}

MAC = "52:54:00:76:64:70"


def prlimit(pid: int, number: int, limits: tuple[int, int]) -> None:
    """Stand for the system call, which needs a capability that root may lack in a container."""
    assert number == resource.RLIMIT_MEMLOCK
    assert Path(f"/proc/{pid}").exists()
    LOCKABLE[pid] = limits[1]


def vdpa_node(root: Path, number: int = 0) -> Path:
    """Return what stands for the device; it is made."""
    path = root / f"vhost-vdpa-{number}"
    path.touch(0o600)
    return path


def vdpa_card(root: Path, number: int = 0) -> str:
    """Return an interface's document."""
    return (
        f"<interface type='vdpa'><mac address='{MAC[:-1]}{number}'/>"
        f"<source dev='{vdpa_node(root, number)}'/><model type='virtio'/></interface>"
    )


class Vdpaless:
    """A monitor that makes a user's backend of a vDPA one; asked: what it was asked for."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.asked: list[Mapping[str, JsonValue]] = []

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        deadline: float | None = None,
        oob: bool = False,
    ) -> Json:
        """Pass a command on."""
        if command == "netdev_add" and arguments is not None and arguments["type"] == "vhost-vdpa":
            self.asked.append(arguments)
            node = {"driver": "file", "node-name": _holder(arguments), "filename": arguments["vhostdev"]}
            await self.monitor.execute("blockdev-add", {**node, "locking": "off"})
            arguments = {"type": "user", "id": arguments["id"]}
        if command == "netdev_del" and arguments is not None:
            await self.monitor.execute("blockdev-del", {"node-name": _holder(arguments)})
        return await self.monitor.execute(command, arguments, fds=fds, deadline=deadline, oob=oob)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)


def _holder(arguments: Mapping[str, JsonValue]) -> str:
    return f"holds-{os.getpid()}-{arguments['id']}"


def stand_in(domain: Domain) -> Vdpaless:
    """Put the monitor in between."""
    running = domain.need_running()
    made = Vdpaless(running.monitor)
    running.link = made  # type: ignore[assignment]
    return made


async def fdsets(domain: Domain) -> dict[str, int]:
    """Return QEMU's sets of descriptors by the file they are of."""
    found: dict[str, int] = {}
    for entry in as_objects(await domain.need_running().execute("query-fdsets"), "query-fdsets"):
        assert isinstance(entry["fds"], list)
        for one in entry["fds"]:
            assert isinstance(one, dict)
            found[str(one["opaque"])] = int(str(entry["fdset-id"]))
    return found
