"""Virtual functions of network cards: whose they are, and the MAC address and VLAN their card keeps for each.

All of it blocks.
"""

import os

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, SystemError_
from qvirt.host import netlink
from qvirt.host.pci import Bus
from qvirt.host.sysfs import read_text
from qvirt.record import Record

_UP = 1
#: what says that a card keeps no address for a function, and what does where the card takes no such address
_NO_MAC = "00:00:00:00:00:00"
_INSTEAD = "02:00:00:00:00:00"


class Place(Record):
    """Where a virtual function's settings are: the network device of the physical one, and its own number."""

    card: str
    number: int


def find(bus: Bus, name: str) -> Place:
    """Return whose virtual function it is. Raises ConfigUnsupported for what is none, InternalError."""
    physical = bus.path(name) / "physfn"
    if not physical.exists():
        raise ConfigUnsupported(
            f"Interface type hostdev is currently supported on SR-IOV Virtual Functions only: {name} is "
            "none; give it to the guest as <hostdev>",
            domain=ErrorDomain.NONE,
        )
    try:
        (card, *_) = sorted(entry.name for entry in (physical / "net").iterdir())
    except (OSError, ValueError) as error:
        raise InternalError(
            f"The PF device for VF {bus.path(name)} has no network device name, cannot get virtual function "
            "info",
            domain=ErrorDomain.NONE,
        ) from error
    for link in physical.glob("virtfn[0-9]*"):
        if os.path.basename(os.readlink(link)) == name:
            return Place(card, int(link.name.removeprefix("virtfn")))
    raise InternalError(f"'{name}' is not a VF device of '{card}'", domain=ErrorDomain.NONE)


def read(place: Place) -> netlink.VfConfig:
    """Return what a card keeps for a function. Raises SystemError_, InternalError, ConfigUnsupported."""
    return netlink.vf_config(place.card, place.number)


def check_online(bus: Bus, place: Place) -> None:
    """Raise InternalError for a card that is down, which passes nothing on for its functions."""
    flags = read_text(bus.root / "sys/class/net" / place.card / "flags")
    if flags is not None and not int(flags, 16) & _UP:
        raise InternalError(
            f"Unable to configure VF {place.number} of PF '{place.card}' because the PF is not online. "
            "Please change host network config to put the PF online.",
            domain=ErrorDomain.NONE,
        )


def write(place: Place, config: netlink.VfConfig) -> None:
    """Have a card keep an address and a VLAN for a function. Raises SystemError_."""
    netlink.set_vf(place.card, place.number, config)


def _is_there(card: str) -> bool:
    return os.path.exists(f"/sys/class/net/{card}")


def restore(place: Place, config: netlink.VfConfig) -> list[str]:
    """Give a function what its card kept for it before; returns what could not be done."""
    if not _is_there(place.card):
        return []
    try:
        try:
            write(place, config)
        except SystemError_:
            if config.mac != _NO_MAC:
                raise
            write(place, netlink.VfConfig(_INSTEAD, config.vlan, config.qos))
    except SystemError_ as error:
        return [f"VF {place.number} of '{place.card}': {error}"]
    return []
