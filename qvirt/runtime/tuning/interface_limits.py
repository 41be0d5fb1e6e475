"""The limits on one interface's traffic, read and changed: in the definition, of a running guest, or both."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InvalidArg
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.domain import Domain as Definition
from qvirt.model.netdev import Bandwidth, Traffic
from qvirt.runtime import interfaces
from qvirt.runtime.asking.reading import find_interface
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import order

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: what there is to limit, in libvirt's order
NAMES: Final = (
    *(f"inbound.{name}" for name in ("average", "peak", "burst", "floor")),
    *(f"outbound.{name}" for name in ("average", "peak", "burst")),
)
_LIMITED: Final = (InterfaceType.NETWORK, InterfaceType.BRIDGE, InterfaceType.ETHERNET, InterfaceType.DIRECT)


def get(domain: "Domain", device: str, flags: int) -> list[tuple[str, int]]:
    """Return every limit of an interface, in KiB (a second); 0 is none. Raises InvalidArg."""
    bandwidth = _find(domain.chosen(flags), device).plugged().bandwidth or Bandwidth()
    found = []
    for name in NAMES:
        direction, _, what = name.partition(".")
        traffic = getattr(bandwidth, direction)
        found.append((name, (getattr(traffic, what) if traffic is not None else None) or 0))
    return found


async def change(domain: "Domain", device: str, values: Mapping[str, int], flags: int) -> None:
    """Set limits; a direction of which neither average nor floor is said stays as it was.

    Raises InvalidArg, ConfigUnsupported, OperationUnsupported.
    """

    def check(*definitions: Definition | None) -> None:
        for definition in definitions:
            if definition is not None:
                _check(_find(definition, device))

    async def live(running: Running) -> None:
        devices = running.definition.devices.interfaces
        old = _find(running.definition, device)
        new = old.copy()
        new.bandwidth = changed(old.plugged().bandwidth, values)
        interfaces.check_floor(domain, new)
        await interfaces.update(domain, running, old, new)
        for shown in (new, new.actual):
            if shown is not None and shown.bandwidth is not None and shown.bandwidth.is_empty():
                shown.bandwidth = None
        devices[devices.index(old)] = new

    def config(definition: Definition) -> None:
        interface = _find(definition, device)
        bandwidth = changed(interface.bandwidth, values)
        interface.bandwidth = None if bandwidth.is_empty() else bandwidth

    await order.change(domain, "set_interface_parameters", flags, live=live, config=config, check=check)


def changed(old: Bandwidth | None, values: Mapping[str, int]) -> Bandwidth:
    """Return limits with some of them set, by virDomainSetInterfaceParameters' rules. Pure."""
    bandwidth = old.copy() if old is not None else Bandwidth()
    for direction, deciding in (("inbound", ("average", "floor")), ("outbound", ("average",))):
        if not any(f"{direction}.{name}" in values for name in deciding):
            continue
        traffic = Traffic()
        for name in ("average", "peak", "burst", "floor"):
            setattr(traffic, name, values.get(f"{direction}.{name}") or None)
        says = any(getattr(traffic, name) for name in deciding)
        setattr(bandwidth, direction, traffic if says else None)
    return bandwidth


def _find(definition: Definition, device: str) -> Interface:
    found = find_interface(definition, device)
    if found is None:
        raise InvalidArg(f"'{device}' is not a known interface", domain=ErrorDomain.DOMAIN)
    return found


def _check(interface: Interface) -> None:
    if interface.actual_type not in _LIMITED:
        raise ConfigUnsupported(
            f"setting bandwidth on interfaces of type '{interface.actual_type}' is not implemented yet"
        )
