"""What is asked of a running guest's images: another size, a word when one has grown past a mark."""

import re
from typing import TYPE_CHECKING

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, InvalidArg, OperationUnsupported
from qvirt.model.domain import Domain as Definition
from qvirt.model.storage_chain import Image
from qvirt.model.storage_source import SourceType
from qvirt.qemu.devices.blockdev import format_node, storage_node
from qvirt.qmp.wire import JsonValue
from qvirt.runtime.asking.reading import find_disk
from qvirt.runtime.jobs import Job
from qvirt.runtime.running import COMMAND_DEADLINE

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: formats whose size is counted in sectors, and a sector's bytes
_SECTORED = frozenset({"qcow2", "qed"})
_SECTOR = 512


async def resize(domain: "Domain", name: str, size: int) -> None:
    """Make a disk larger or smaller, in bytes; the guest is told. name: its target or path.

    Raises InvalidArg, OperationInvalid, OperationUnsupported, and what QEMU refuses.
    """
    async with domain.job(Job.MODIFY, "block resize"):
        running = domain.need_running()
        disk = find_disk(running.definition, name)
        if disk is None:
            raise InvalidArg(f"disk '{name}' was not found in the domain config", domain=ErrorDomain.QEMU)
        if disk.type == SourceType.VHOSTUSER:
            raise OperationUnsupported("block resize is not supported for vhostuser disk")
        image = disk.top
        if image is None or disk.readonly:
            raise OperationUnsupported(f"can't resize empty or readonly disk '{name}'")
        if image.format in _SECTORED:
            size = -(-size // _SECTOR) * _SECTOR
        arguments: dict[str, JsonValue] = {"node-name": format_node(image), "size": size}
        await running.execute("block_resize", arguments, deadline=COMMAND_DEADLINE)


async def set_threshold(domain: "Domain", name: str, threshold: int) -> None:
    """Have a BLOCK_THRESHOLD event come when an image is written past a place in bytes; 0: none any more.

    name: a disk's target, or ``vda[2]`` for the image with that index in its chain.
    Raises InvalidArg, OperationInvalid.
    """
    async with domain.job(Job.MODIFY, "set block threshold"):
        running = domain.need_running()
        node = storage_node(_image(running.definition, name))
        arguments: dict[str, JsonValue] = {"node-name": node, "write-threshold": threshold}
        await running.execute("block-set-write-threshold", arguments, deadline=COMMAND_DEADLINE)


def _image(definition: Definition, name: str) -> Image:
    said = re.fullmatch(r"([^\[\]]+)(?:\[(\d+)\])?", name)
    disk = next(
        (disk for disk in definition.devices.disks if said is not None and disk.name == said[1]), None
    )
    if disk is None or said is None:
        raise InvalidArg(f"failed to find disk '{name}'", domain=ErrorDomain.QEMU)
    if disk.top is None:
        raise InternalError(f"drive '{disk.name}' is empty: it has no image that could grow")
    if said[2] is None:
        return disk.top
    for image in disk.images():
        if image.index == int(said[2]):
            return image
    raise InvalidArg(f"failed to find disk '{name}'", domain=ErrorDomain.QEMU)
