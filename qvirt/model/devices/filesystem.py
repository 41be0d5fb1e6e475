"""``<filesystem>``."""

from qvirt.model.devices.device import Device


class Filesystem(Device, tag="filesystem"):
    """``<filesystem>``."""
