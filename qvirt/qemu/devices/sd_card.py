"""SD cards: the one kind of disk QEMU takes only as ``-drive``, since boards wire the slot themselves."""

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.disk import Disk
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.blockdev import Needs, effective_cache
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import KeyValue


def sd_drive(disk: Disk, ctx: BuildContext) -> KeyValue:
    """Return the ``-drive`` of an SD card. Raises ConfigUnsupported for an empty slot."""
    top = disk.top
    if top is None:
        raise ConfigUnsupported(f"disk type of '{disk.name}' does not support ejectable media")
    storage = Needs(top, ctx).storage_props(disk)
    file: JsonValue = storage["filename"] if storage["driver"] in ("file", "host_device") else storage
    props: dict[str, JsonValue] = {
        "file": file,
        "format": top.format,
        "if": "sd",
        "index": disk.index,
        "readonly": True if disk.readonly else None,
        "cache": effective_cache(disk),
        "copy-on-read": disk.driver.copy_on_read,
        "discard": disk.driver.discard,
        "detect-zeroes": disk.driver.detect_zeroes,
        "aio": disk.driver.io,
    }
    return KeyValue("drive", props, origin=disk)
