"""Floors: what of a network's inbound rate is kept for single guests, by classes of its bridge.

Class 1 has all traffic, 2 that of the guests without a floor, each further one is a port's: its rate is
the floor, and it may borrow up to the network's limit. The book of ports says what there is to be: `reserve`
gives a port its class, `settle` brings the bridge there. Rates are KiB a second, the numbers libvirt's.
"""

import logging
from functools import partial
from typing import TYPE_CHECKING

from qvirt.constants.error import ErrorDomain
from qvirt.drivers.network import ports, shaping, store
from qvirt.errors import OperationInvalid, QvirtError
from qvirt.model.netdev import Traffic
from qvirt.model.network import BRIDGED_BY_US
from qvirt.model.network_port import NetworkPort, PortBandwidth
from qvirt.record import Record

if TYPE_CHECKING:
    from qvirt.drivers.network.network import Network

log = logging.getLogger(__name__)

#: the first class of a port
_FIRST = 3
#: where the numbers of filters begin, within a table of the kernel's
_FILTERS = 0x800
_KIB = 1024


class Floor(Record):
    """A class. mac: whose traffic it has; rate: KiB a second."""

    mac: str
    rate: int


def reserve(network: "Network", port: NetworkPort) -> None:
    """Give a port that is going into the book, or is changed there, the class for its floor.

    Raises OperationInvalid where the network has not so much left, OperationUnsupported where it has nothing
    to guarantee.
    """
    rate, bandwidth = port.floor, port.bandwidth
    if bandwidth is None:
        return
    known = network.ports.get(str(port.uuid))
    had = port.class_id or (known.class_id if known is not None else None)
    port.bandwidth = PortBandwidth(inbound=bandwidth.inbound, outbound=bandwidth.outbound)
    if not rate:
        return
    mac = port.mac.address or ""
    bridged = port.plug is not None and port.plug.type == "network"
    ports.check_floor(network.current if bridged else None, mac, bandwidth)
    others = [one for uuid, one in network.ports.items() if uuid != port.uuid]
    whole = _inbound(network) or Traffic()
    what, limit = ("peak", whole.peak) if whole.peak else ("average", whole.average or 0)
    total = rate + sum(one.floor for one in others)
    if total > limit:
        raise OperationInvalid(
            f"Cannot plug '{mac}' interface into '{network.bridge}' because new combined inbound "
            f"floor={total} would overcommit {what}={limit} on network '{network.name}'",
            domain=ErrorDomain.NETWORK,
        )
    taken = {one.class_id for one in others}
    if had is None or had < _FIRST or had in taken:
        had = next(number for number in range(_FIRST, _FIRST + len(taken) + 1) if number not in taken)
    port.bandwidth.class_id = had


async def settle(network: "Network") -> None:
    """Bring the classes of an active network's bridge to what its ports have. Raises InternalError."""
    async with network.settling:
        inbound = _inbound(network)
        if network.live is None or network.live.mode not in BRIDGED_BY_US or inbound is None:
            return
        wanted = {
            number: Floor(port.mac.address or "", port.floor)
            for port in network.ports.values()
            if (number := port.class_id) is not None
        }
        there = network.floors
        if wanted == there:
            return
        # what fails half way is taken away first the next time; the others' classes stay all the while
        network.floors = {
            number: had if (had := there.get(number)) == wanted.get(number) else None
            for number in there.keys() | wanted.keys()
        }
        work = partial(_settle, network, network.bridge or "", inbound, there, wanted)
        await network.host.files.run(f"floors of network '{network.name}'", work)
        network.floors = dict(wanted)


async def settle_again(network: "Network") -> None:
    """Bring the classes back to a book that is as it was, after a change that failed half way.

    Where that fails, too, it is logged: until a port of the network is changed, which tries again, the bridge
    may guarantee something else.
    """
    try:
        await settle(network)
    except QvirtError as error:
        log.error(
            "network '%s': bridge '%s' does not guarantee what its ports are promised until one of them is "
            "changed: %s",
            *(network.name, network.bridge, error),
        )


def take_up(network: "Network") -> list[str]:
    """Give the ports of a book that is read anew their classes; returns what cannot be guaranteed."""
    failures = []
    for port in network.ports.values():
        try:
            reserve(network, port)
        except QvirtError as error:
            failures.append(str(error))
    return failures


def _inbound(network: "Network") -> Traffic | None:
    bandwidth = network.current.bandwidth
    inbound = bandwidth.inbound if bandwidth is not None else None
    return inbound if inbound is not None and inbound.average else None


# ------------------------------------------------------------------------- blocking


def _settle(
    network: "Network",
    bridge: str,
    inbound: Traffic,
    there: dict[int, Floor | None],
    wanted: dict[int, Floor],
) -> None:
    gone = [number for number, had in there.items() if had is None or wanted.get(number) != had]
    new = {number: floor for number, floor in wanted.items() if there.get(number) != floor}
    limit = inbound.peak or inbound.average or 0
    shaping.batch([line for number in gone for line in _removal(bridge, number)], may_fail=True)
    lines = [line for number, floor in new.items() for line in _class(bridge, number, floor, limit)]
    rest = limit - sum(floor.rate for floor in wanted.values()) if wanted else inbound.average or 0
    burst = f" burst {inbound.burst * _KIB}b" if inbound.burst else ""
    lines.append(f"class change dev {bridge} parent 1:1 classid 1:2 htb {_rates(max(rest, 1), limit)}{burst}")
    shaping.batch(lines)
    # fairness among connections; a kernel without it only limits
    fair = [
        f"qdisc replace dev {bridge} parent 1:{number:x} handle {number:x}: sfq perturb 10" for number in new
    ]
    shaping.batch(fair, may_fail=True)
    store.write_status(network)


def _rates(rate: int, limit: int) -> str:
    return f"rate {rate * _KIB}bps ceil {limit * _KIB}bps"


def _class(bridge: str, number: int, floor: Floor, limit: int) -> list[str]:
    """Return what makes a class and sends it what goes to the guest's address, whatever the protocol."""
    mac = floor.mac.replace(":", "")
    return [
        f"class replace dev {bridge} parent 1:1 classid 1:{number:x} htb {_rates(floor.rate, limit)}",
        f"filter add dev {bridge} parent 1: protocol all prio 2 handle 800::{_FILTERS + number:x} u32 "
        f"match u32 0x{mac[4:]} 0xffffffff at -12 match u16 0x{mac[:4]} 0xffff at -14 flowid 1:{number:x}",
    ]


def _removal(bridge: str, number: int) -> list[str]:
    return [
        f"qdisc del dev {bridge} parent 1:{number:x}",
        f"filter del dev {bridge} parent 1: protocol all prio 2 handle 800::{_FILTERS + number:x} u32",
        f"class del dev {bridge} classid 1:{number:x}",
    ]
