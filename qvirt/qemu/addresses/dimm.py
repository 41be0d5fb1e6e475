"""Slots of memory modules."""

from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.address import DimmAddress
from qvirt.model.domain import Domain

#: the kinds that sit in a slot; the others are PCI devices or have no place
IN_SLOTS = frozenset({"dimm", "nvdimm"})


def assign_slots(domain: Domain) -> None:
    """Give each module without one the first free slot.

    Raises ConfigUnsupported for a slot that does not exist or is taken, InternalError when none is left.
    """
    if domain.max_memory is None:
        return
    slots = domain.max_memory.slots
    modules = [dev for dev in domain.devices.memory if dev.model in IN_SLOTS]
    taken: set[int] = set()
    for dev in modules:
        if not isinstance(dev.address, DimmAddress) or dev.address.slot is None:
            continue
        slot = dev.address.slot
        if slot >= slots:
            raise ConfigUnsupported(f"memory device slot '{slot}' exceeds slots count '{slots}'")
        if slot in taken:
            raise ConfigUnsupported(
                f"memory device slot '{slot}' is already being used by another memory device"
            )
        taken.add(slot)
    for dev in modules:
        if isinstance(dev.address, DimmAddress) and dev.address.slot is not None:
            continue
        if dev.address is not None and not isinstance(dev.address, DimmAddress):
            continue  # refused later, with what it may be
        free = next((slot for slot in range(slots) if slot not in taken), None)
        if free is None:
            raise InternalError("failed to find an empty memory slot")
        taken.add(free)
        if isinstance(dev.address, DimmAddress):
            dev.address.slot = free
        else:
            dev.address = DimmAddress(slot=free)
