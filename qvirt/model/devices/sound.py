"""``<sound>``."""

from qvirt.model.devices.device import Device


class Sound(Device, tag="sound"):
    """``<sound>``."""
