"""``<audio>``."""

from qvirt.model.devices.device import Device


class Audio(Device, tag="audio"):
    """``<audio>``."""
