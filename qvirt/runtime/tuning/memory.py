"""How much memory a domain has: the balloon of a running guest, and the definition."""

from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainMemoryModFlags
from qvirt.errors import InvalidArg, OperationInvalid
from qvirt.model.devices.memballoon import BalloonStats, Memballoon
from qvirt.model.domain import Domain as Definition
from qvirt.model.memory import CurrentMemory, TotalMemory
from qvirt.qmp import commands
from qvirt.qmp.errors import QmpError
from qvirt.runtime.asking.reading import memory_kib
from qvirt.runtime.running import Running
from qvirt.runtime.tuning.order import change

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

_NO_BALLOON = (
    "Unable to change memory of active domain without the balloon device and guest OS balloon driver"
)


def balloon_of(definition: Definition) -> Memballoon | None:
    """Return the balloon device, None where the document turns it off."""
    return next((dev for dev in definition.devices.memballoons if dev.model != "none"), None)


async def set_memory(domain: "Domain", kib: int, flags: int) -> None:
    """Set the memory the guest has, or may have; flags: DomainMemoryModFlags."""
    maximum = bool(flags & DomainMemoryModFlags.MAXIMUM)

    def check(running: Definition | None, config: Definition | None) -> None:
        if maximum:
            if running is not None:
                raise OperationInvalid("cannot resize the maximum memory on an active domain")
            if config is not None and config.cpu is not None and config.cpu.numa is not None:
                raise OperationInvalid(
                    "initial memory size of a domain with NUMA nodes cannot be modified with this API"
                )
            return
        most = min(memory_kib(one) for one in (running, config) if one is not None)
        if kib > most:
            raise InvalidArg(f"cannot set memory higher than max memory: {kib} KiB > {most} KiB")
        if running is not None and balloon_of(running) is None:
            raise OperationInvalid(_NO_BALLOON)

    async def on_live(running: Running) -> None:
        try:
            await commands.balloon(running, kib * 1024)
        except QmpError as error:
            if error.error_class == "DeviceNotActive":
                raise OperationInvalid(_NO_BALLOON) from error
            raise

    def note(definition: Definition) -> None:
        if maximum:
            definition.memory = TotalMemory(value=kib, unit="KiB")
            if definition.current_memory is not None:
                definition.current_memory.value = min(definition.current_memory.value, kib)
        elif definition.current_memory is not None:
            definition.current_memory.value = kib
        else:
            definition.current_memory = CurrentMemory(value=kib, unit="KiB")

    await change(domain, "set memory", flags, live=on_live, config=note, check=check)


async def set_stats_period(domain: "Domain", seconds: int, flags: int) -> None:
    """Set how often the balloon's driver reports; 0 turns it off."""

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition in (running, config):
            if definition is not None and balloon_of(definition) is None:
                raise OperationInvalid("Memory balloon model must be virtio to set the collection period")

    async def on_live(running: Running) -> None:
        balloon = balloon_of(running.definition)
        path = f"/machine/peripheral/{balloon.alias.name if balloon is not None else ''}"
        try:
            await commands.qom_set(running, path, "guest-stats-polling-interval", seconds)
        except QmpError as error:
            raise OperationInvalid(f"unable to set balloon driver collection period: {error.desc}") from error
        note(running.definition)

    def note(definition: Definition) -> None:
        balloon = balloon_of(definition)
        if balloon is not None:
            balloon.stats = BalloonStats(period=seconds) if seconds else None

    await change(domain, "set memory stats period", flags, live=on_live, config=note, check=check)
