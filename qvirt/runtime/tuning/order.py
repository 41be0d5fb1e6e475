"""One order for changing a guest and its definition: check both, change the guest, write the definition."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from qvirt.model.domain import Domain as Definition
from qvirt.runtime.jobs import Job
from qvirt.runtime.manage import impact
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: a change to a definition; it may wait for something, such as an emulator that is asked
Change = Callable[[Definition], Awaitable[None] | None]


async def change(
    domain: "Domain",
    owner: str,
    flags: int,
    *,
    live: Callable[[Running], Awaitable[None]],
    config: Change,
    check: Callable[[Definition | None, Definition | None], Awaitable[None] | None] | None = None,
    soon: bool = False,
) -> None:
    """Do ``live`` to the guest and ``config`` to a copy of its definition, as LIVE and CONFIG say.

    ``config`` comes first, so that what it refuses leaves the guest alone; the result is kept last. check: is
    given the live and the persistent definition, None for one that is not meant. soon: ``live`` touches what
    it changes, and the status file may come a moment later, as who finds an old one asks QEMU for what has
    changed.
    """
    async with domain.job(Job.MODIFY, owner):
        on_live, on_config = impact(domain, flags)
        running = domain.need_running() if on_live else None
        definition = (await domain.definition()).copy() if on_config else None
        if check is not None:
            await _whole(check(running.definition if running is not None else None, definition))
        if definition is not None:
            await _whole(config(definition))
        if running is not None:
            try:
                await live(running)
            finally:
                if soon:
                    domain.save_soon()
                else:
                    running.touch()
                    await domain.save_status()
        if definition is not None:
            await domain.keep(definition)


async def _whole(work: Awaitable[None] | None) -> None:
    if work is not None:
        await work
