"""``<perf>``: which performance events are counted of a guest, and how often they have happened."""

import logging
from typing import TYPE_CHECKING

from qvirt.constants.common import TypedParameterType
from qvirt.errors import InvalidArg, QvirtError, SystemError_
from qvirt.host.perf import Counter
from qvirt.model.domain import PERF_EVENTS, PerfEvent
from qvirt.model.domain import Domain as Definition
from qvirt.runtime.manage import impact
from qvirt.runtime.records import Param
from qvirt.runtime.running import Running
from qvirt.runtime.tuning.order import change

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)


def _said(definition: Definition) -> dict[str, bool]:
    perf = definition.__dict__.get("perf")
    return {} if perf is None else {event.name: event.enabled for event in perf.events}


def count_from_start(running: Running, pid: int) -> None:
    """Count what the document says, from before the process executes QEMU. Raises SystemError_."""
    for name, enabled in _said(running.definition).items():
        if enabled:
            _count(running, name, pid)


def count_again(running: Running) -> None:
    """Count a guest that was found again, from nothing; what cannot be counted any more is shown so."""
    for name, enabled in _said(running.definition).items():
        if enabled:
            try:
                _count(running, name, running.pid)
            except SystemError_ as error:
                log.warning("domain '%s': %s", running.definition.name, error)
                _note(running.definition, {name: False})


def stop(running: Running) -> None:
    """Count no more."""
    for counter in running.counters.values():
        counter.close()
    running.counters.clear()


def _count(running: Running, name: str, pid: int) -> None:
    if name not in running.counters:
        try:
            running.counters[name] = Counter(name, pid)
        except OSError as error:
            raise SystemError_(f"unable to open host cpu perf event for {name}", error) from error


def _note(definition: Definition, values: dict[str, bool]) -> None:
    said = _said(definition) | values
    definition.perf.events = [
        PerfEvent(name=name, enabled=said[name]) for name in PERF_EVENTS if name in said
    ]


def figures(domain: "Domain") -> list[tuple[str, int]]:
    """Return how often each event that is counted has happened."""
    running = domain.running
    return [] if running is None else [(name, one.read()) for name, one in running.counters.items()]


async def events(domain: "Domain", flags: int) -> list[Param]:
    """virDomainGetPerfEvents: all there are, and whether they are counted, or shall be."""
    on_live, on_config = impact(domain, flags)
    if on_live and on_config:
        raise InvalidArg("flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' in function "
                         "'qemuDomainGetPerfEvents' are mutually exclusive")  # fmt: skip
    if on_live:
        counted = domain.need_running().counters
        found = {name: name in counted for name in PERF_EVENTS}
    else:
        found = dict.fromkeys(PERF_EVENTS, False) | _said(await domain.definition())
    return [Param(name, TypedParameterType.BOOLEAN, enabled) for name, enabled in found.items()]


async def set_events(domain: "Domain", values: dict[str, bool], flags: int) -> None:
    """virDomainSetPerfEvents. All or none; raises SystemError_ for one that this host cannot count."""

    async def on_live(running: Running) -> None:
        new: list[str] = []
        try:
            for name, enabled in values.items():
                if enabled and name not in running.counters:
                    _count(running, name, running.pid)
                    new.append(name)
        except QvirtError:
            for name in new:
                running.counters.pop(name).close()
            raise
        for name, enabled in values.items():
            if not enabled and name in running.counters:
                running.counters.pop(name).close()
        _note(running.definition, values)

    await change(domain, "set perf events", flags, live=on_live, config=lambda it: _note(it, values))
