"""``<video>``."""

from qvirt.model.devices.device import Device


class Video(Device, tag="video"):
    """``<video>``."""
