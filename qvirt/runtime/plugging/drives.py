"""Drives with trays that a guest opens and closes while nobody watches."""

from qvirt.qmp.commands import as_objects
from qvirt.qmp.wire import JsonObject
from qvirt.runtime.running import Running


async def after_reconnect(running: Running) -> None:
    """Ask which drives stand open."""
    drives = [disk for disk in running.definition.devices.disks if disk.is_removable]
    if not drives:
        return
    seen = as_objects(await running.execute("query-block"), "query-block")
    for drive in drives:
        mine = next((entry for entry in seen if _is_of(entry, drive.alias.name)), None)
        if mine is not None and "tray_open" in mine:
            drive.target.tray = "open" if mine["tray_open"] is True else "closed"
    running.touch()


def _is_of(entry: JsonObject, alias: str | None) -> bool:
    path = entry.get("qdev")
    return isinstance(path, str) and alias in path.split("/")
