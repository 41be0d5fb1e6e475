"""``<hostdev>``."""

from qvirt.model.devices.device import Device


class Hostdev(Device, tag="hostdev"):
    """``<hostdev>``."""
