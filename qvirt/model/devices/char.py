"""Character devices: ``<serial>``, ``<parallel>``, ``<console>``, ``<channel>``."""

from qvirt.model.devices.device import Device


class Serial(Device, tag="serial"):
    """``<serial>``."""


class Parallel(Device, tag="parallel"):
    """``<parallel>``."""


class Console(Device, tag="console"):
    """``<console>``."""


class Channel(Device, tag="channel"):
    """``<channel>``."""
