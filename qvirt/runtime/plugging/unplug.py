"""Devices a guest is asked to let go of: it may do so at once, hours later, or refuse.

QEMU only passes the request on. `ask` waits for the guest's answer for a while; what comes later is told to
whoever looks at the monitor's events.
"""

import asyncio
from enum import Enum, auto

from qvirt.errors import OperationFailed
from qvirt.qmp import commands
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import JsonObject
from qvirt.runtime.running import Running

#: seconds a guest gets to let go of a device before the caller is told that it has not
PATIENCE = 5.0

#: seconds QEMU gets to be done with a device, when it is not to be found any more and its backends are in use
SETTLING = 1.0

#: _OST source of an ejection, asked for by the guest or the host; statuses that say no (ACPI 6.3, 6.3.5)
_OST_EJECT = (1, 3, 0x103)
_OST_REFUSED = (1, 2, 0x80, 0x81, 0x82, 0x83)


class Outcome(Enum):
    """What has become of a request."""

    GONE = auto()
    PENDING = auto()
    REFUSED = auto()


async def ask(running: Running, id: str, *, patience: float = PATIENCE) -> Outcome:
    """Ask the guest to let go of a device and wait for its answer, ``patience`` seconds."""
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    running.unplugs[id] = answer
    try:
        await commands.device_del(running, id)
        await asyncio.wait([answer], timeout=patience)
    except QmpError as error:
        if error.error_class == "DeviceNotFound":
            return Outcome.GONE
        raise
    finally:
        del running.unplugs[id]
    if not answer.done():
        return Outcome.PENDING
    return Outcome.GONE if answer.result() else Outcome.REFUSED


async def deleted(running: Running, id: str, *, patience: float = SETTLING) -> None:
    """Wait, not for long, for QEMU to be done with a device that the guest has let go of."""
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    running.unplugs[id] = answer
    try:
        await asyncio.wait([answer], timeout=patience)
    finally:
        del running.unplugs[id]


def answered(running: Running, id: str, *, gone: bool) -> bool:
    """Take a guest's answer; tells whether somebody waited for it."""
    waiting = running.unplugs.get(id)
    if waiting is None:
        return False
    if not waiting.done():
        waiting.set_result(gone)
    return True


async def tray_open(running: Running, alias: str, *, patience: float = PATIENCE) -> None:
    """Wait for a drive's tray to be open, which a guest that has locked it was asked for.

    Raises OperationFailed when it stays shut for ``patience`` seconds.
    """
    drive = next((disk for disk in running.definition.devices.disks if disk.alias.name == alias), None)
    if drive is None or drive.target.tray == "open":
        return
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    running.trays[alias] = answer
    try:
        await asyncio.wait([answer], timeout=patience)
    finally:
        del running.trays[alias]
    if not answer.done():
        raise OperationFailed(
            f"timed out waiting to open tray of '{drive.name}': the guest has locked it; "
            "eject it there, or use force"
        )


def tray_moved(running: Running, alias: str, *, is_open: bool) -> None:
    """Take the news of a drive's tray."""
    waiting = running.trays.get(alias)
    if waiting is not None and is_open and not waiting.done():
        waiting.set_result(None)


def refusal(data: JsonObject) -> str | None:
    """Return the id of the device that a guest keeps, as its ACPI_DEVICE_OST says; None where it does not."""
    info = data.get("info")
    if not isinstance(info, dict):
        return None
    id = info.get("device")
    is_no = info.get("source") in _OST_EJECT and info.get("status") in _OST_REFUSED
    return id if is_no and isinstance(id, str) else None
