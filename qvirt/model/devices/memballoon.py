"""``<memballoon>``."""

from qvirt.model.devices.device import Device


class Memballoon(Device, tag="memballoon"):
    """``<memballoon>``."""
