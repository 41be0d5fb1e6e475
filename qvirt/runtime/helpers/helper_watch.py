"""Helpers that end while their guest runs on: it is said, and those QEMU comes back to are started again.

QEMU connects anew to a helper for reservations that it has lost, for some seconds with each command of the
guest; so that helper is worth starting again. With the others what they knew of the guest is gone.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import QvirtError
from qvirt.qemu.context import Launch
from qvirt.record import Record, field
from qvirt.runtime.helpers import helper_kinds, processes
from qvirt.runtime.helpers.processes import Helper, Recipe
from qvirt.runtime.jobs import Job
from qvirt.runtime.life.launch import Descriptors
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: seconds in which a helper that ends may be ahead of the QEMU it serves, whose end is why
_AHEAD = 2.0
#: how often one is started again in how many seconds, before it is left alone; seconds between two that fail
MOST_RETURNS = 5
RETURNS_WITHIN = 60.0
PAUSE = 1.0


class Returns(Record, frozen=False):
    """When a helper was started again, by the loop's clock. given_up: that was too often, and is said."""

    times: list[float] = field(default_factory=list)
    given_up: bool = False

    def may_go_on(self, now: float) -> bool:
        """Tell whether it may be started once more, and count it if so."""
        self.times = [time for time in self.times if now - time < RETURNS_WITHIN]
        if len(self.times) >= MOST_RETURNS:
            return False
        self.times.append(now)
        self.given_up = False
        return True


async def start(
    domain: "Domain", running: Running, recipes: Sequence[Recipe], descriptors: Descriptors | None = None
) -> None:
    """Start helpers that were reserved, and watch them. Raises as `processes.start`."""
    for helper in await processes.start(domain, running, recipes, descriptors):
        _watch(domain, running, helper)


def find_again(domain: "Domain", running: Running, *, same_boot: bool) -> None:
    """Find the helpers that a footprint names, and watch them."""
    for helper in processes.find_again(domain, running, same_boot=same_boot):
        _watch(domain, running, helper)


async def after_reconnect(domain: "Domain", running: Running) -> None:
    """Start again what ended while nobody watched. @background."""
    for mark in list(running.footprint.helpers):
        if mark.name not in running.helpers:
            await bring_back(domain, running, mark.name)


def _watch(domain: "Domain", running: Running, helper: Helper) -> None:
    """Look after a helper when it ends while its guest runs on."""

    def ended(_: object) -> None:
        if not helper.is_ending and not domain.hypervisor.closing:
            domain.hypervisor.background(_died(domain, running, helper), f"end of {helper.name}")

    helper.process.exited.add_done_callback(ended)


async def _died(domain: "Domain", running: Running, helper: Helper) -> None:
    """Look after a helper that ended by itself: because QEMU did, or before its time. @background."""
    hv = domain.hypervisor
    await processes.end_orphans(hv, helper)
    ends = [running.process.exited] if running.process is not None else []
    await asyncio.wait([running.ended, *ends], timeout=_AHEAD, return_when="FIRST_COMPLETED")
    if running.finishing or running.process is None or running.process.is_gone or helper.is_ending:
        return
    words = await hv.files.run(helper.name, helper.last_words)
    # libvirt does nothing about the others: the guest goes on without what they did for it
    comes_back = helper_kinds.comes_back(running, helper.name)
    then = "it is started again" if comes_back else "the guest goes on without it"
    log.error("domain '%s': %s; %s", domain.name, words, then)
    hv.log_line(domain, f"helper {helper.name} {helper.process.ending}; {then}")
    if comes_back:
        await bring_back(domain, running, helper.name)


async def bring_back(domain: "Domain", running: Running, name: str) -> None:
    """Start a helper again that has ended, if it is one that QEMU comes back to. @background.

    One that ends too often is left alone, until a guest asks for it later.
    """
    hv = domain.hypervisor
    returns = running.returns.setdefault(name, Returns())
    while _is_missing(domain, running, name):
        try:
            async with domain.job(Job.MODIFY, f"start {name} again"):
                if not _is_missing(domain, running, name):
                    return
                if not returns.may_go_on(asyncio.get_running_loop().time()):
                    _give_up(domain, name, returns)
                    return
                helper = await processes.start_again(domain, running, await _recipe(domain, running, name))
        except QvirtError as error:
            log.error("domain '%s': %s cannot be started again: %s", domain.name, name, error)
            await asyncio.sleep(PAUSE)
            continue
        hv.log_line(domain, f"helper {name} runs again (pid {helper.process.pid})")
        _watch(domain, running, helper)
        if helper.process.is_gone:  # before it was watched
            continue
        return


def _is_missing(domain: "Domain", running: Running, name: str) -> bool:
    if domain.running is not running or running.finishing or running.process is None:
        return False
    helper = running.helpers.get(name)
    return (
        not running.process.is_gone
        and (helper is None or helper.process.is_gone)
        and any(mark.name == name for mark in running.footprint.helpers)
        and helper_kinds.comes_back(running, name)
    )


def _give_up(domain: "Domain", name: str, returns: Returns) -> None:
    """Say that a helper is left alone, once; a guest may ask for it without end."""
    if returns.given_up:
        return
    returns.given_up = True
    said = f"{name} ended {MOST_RETURNS} times within {RETURNS_WITHIN:g} s; the guest goes on without it"
    log.error("domain '%s': %s", domain.name, said)
    domain.hypervisor.log_line(domain, f"helper {said}")


async def _recipe(domain: "Domain", running: Running, name: str) -> Recipe:
    documents = domain.hypervisor.documents
    if running.caps is None:
        running.caps = await documents.start_caps(running.definition)
    launch = Launch()
    launch.id = running.id
    ctx = documents.build_context(running.definition, running.caps, launch)
    work = partial(helper_kinds.again, domain, running, name, ctx)
    return await domain.hypervisor.files.run(f"{name} of '{domain.name}'", work)
