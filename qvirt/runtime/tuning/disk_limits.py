"""The limits on one disk's traffic, read and changed: in the definition, of a running guest, or both."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from qvirt.constants.common import TypedParameterType
from qvirt.constants.domain import DomainModificationImpact
from qvirt.constants.error import ErrorDomain
from qvirt.errors import ArgumentUnsupported, ConfigUnsupported, InvalidArg, OperationUnsupported
from qvirt.model.devices.disk import Disk, DiskBus, IoTune
from qvirt.model.domain import Domain as Definition
from qvirt.model.storage_source import SourceType
from qvirt.qemu.devices.disk import throttle_arguments
from qvirt.qemu.devices.disk_rules import MAX_LIMIT
from qvirt.runtime.asking.reading import find_disk
from qvirt.runtime.events import Tunable
from qvirt.runtime.records import Param
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.runtime.tuning import order

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

GROUP: Final = "group_name"
#: what there is to limit, in libvirt's order: bytes or operations a second, bursts, seconds a burst may last
TYPES: Final = {
    field.name: TypedParameterType.STRING if field.name == GROUP else TypedParameterType.ULLONG
    for field in IoTune.fields
}
_WHAT: Final = ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max")
_WAYS: Final = ("total", "read", "write")
#: who says one of these says all of them; those that are not said are 0, no limit
_FAMILIES: Final = (
    *(tuple(f"{way}_{what}" for way in _WAYS) for what in _WHAT),
    *(tuple(f"{way}_{what}_max_length" for way in _WAYS) for what in ("bytes_sec", "iops_sec")),
    ("size_iops_sec",),
    (GROUP,),
)


def get(domain: "Domain", name: str | None, flags: int) -> list[Param]:
    """Return every limit of a disk; 0 is none. name: its target or path, None for how many limits there are.

    Raises InvalidArg, OperationInvalid.
    """
    definition = domain.chosen(flags)
    tune = IoTune()
    if name is not None:
        disk = find_disk(definition, name)
        if disk is None:
            is_config = flags & DomainModificationImpact.CONFIG or not domain.active
            where = "was not found in the domain config" if is_config else "not found in domain"
            raise InvalidArg(f"disk '{name}' {where}", domain=ErrorDomain.DOMAIN)
        tune = disk.iotune
    return [
        Param(field, type_, getattr(tune, field) or ("" if field == GROUP else 0))
        for field, type_ in TYPES.items()
    ]


async def change(domain: "Domain", name: str, values: Mapping[str, int | str], flags: int) -> None:
    """Set limits, of the disk and of all that share its group; families that are not named stay as they were.

    Raises ArgumentUnsupported, InvalidArg, ConfigUnsupported, OperationUnsupported, and what QEMU refuses.
    """
    for value in values.values():
        if isinstance(value, int) and value > MAX_LIMIT:
            raise ArgumentUnsupported(
                f"block I/O throttle limit value must be no more than {MAX_LIMIT}", domain=ErrorDomain.QEMU
            )
    for what in _WHAT:
        if values.get(f"total_{what}") and (values.get(f"read_{what}") or values.get(f"write_{what}")):
            raise InvalidArg(
                f"total and read/write of {what} cannot be set at the same time", domain=ErrorDomain.QEMU
            )

    def check(running: Definition | None, config: Definition | None) -> None:
        if running is not None:
            disk = find_disk(running, name)
            if disk is None:
                raise InvalidArg(f"disk '{name}' not found in domain", domain=ErrorDomain.DOMAIN)
            if disk.type == SourceType.VHOSTUSER or disk.target.bus == DiskBus.SD:
                raise OperationUnsupported(
                    f"disk '{disk.name}' does not pass through a part of QEMU that limits its traffic"
                )
            _check_bursts(changed(disk.iotune, values))
        if config is not None and find_disk(config, name) is None:
            raise InvalidArg(f"missing persistent configuration for disk '{name}'", domain=ErrorDomain.QEMU)

    def note(definition: Definition) -> Disk:
        disk = find_disk(definition, name)
        assert disk is not None  # noqa: S101 - checked above
        tune = changed(disk.iotune, values)
        for other in definition.devices.disks:
            shares = tune.group_name and other.iotune.group_name == tune.group_name
            if other is disk or shares:
                other.iotune = tune.copy()
        return disk

    async def live(running: Running) -> None:
        disk = find_disk(running.definition, name)
        assert disk is not None  # noqa: S101 - checked above
        arguments = throttle_arguments(disk, changed(disk.iotune, values))
        await running.execute("block_set_io_throttle", arguments, deadline=COMMAND_DEADLINE)
        note(running.definition)
        told = [(f"blkdeviotune.{field}", TYPES[field], value) for field, value in values.items()]
        named = ("blkdeviotune.disk", TypedParameterType.STRING, str(disk.name))
        domain.publish(Tunable(domain.ref, (named, *told)))

    def config(definition: Definition) -> None:
        note(definition)

    await order.change(domain, "set block I/O limits", flags, live=live, config=config, check=check)


def changed(old: IoTune, values: Mapping[str, int | str]) -> IoTune:
    """Return limits with some of them set, by virDomainSetBlockIoTune's rules; pure.

    Raises ConfigUnsupported for a disk that would be the first of a group, and bring no limits.
    """
    new = old.copy()
    for family in _FAMILIES:
        if any(field in values for field in family):
            for field in family:
                setattr(new, field, values.get(field) or None)
    if not new.limits:
        if new.group_name and new.group_name != old.group_name:
            raise ConfigUnsupported(
                "creating a new group/updating existing with all tune parameters zero is not supported"
            )
        new.group_name = None  # without limits there is nothing to share
    return new


def _check_bursts(tune: IoTune) -> None:
    """Raise ConfigUnsupported for a burst that is no more than what it bursts."""
    for what in _WHAT[:2]:
        for way in _WAYS:
            field = f"{way}_{what}"
            usual, burst = getattr(tune, field), getattr(tune, f"{field}_max")
            if burst and not usual:
                raise ConfigUnsupported(f"cannot reset '{field}' when '{field}_max' is set")
            if burst and burst < usual:
                raise ConfigUnsupported(f"value '{field}_max' cannot be smaller than '{field}'")
