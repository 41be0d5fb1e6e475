"""``<memory>``."""

from qvirt.model.devices.device import Device


class Memory(Device, tag="memory"):
    """``<memory>``."""
