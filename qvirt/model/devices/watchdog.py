"""``<watchdog>``."""

from qvirt.model.devices.device import Device


class Watchdog(Device, tag="watchdog"):
    """``<watchdog>``."""
