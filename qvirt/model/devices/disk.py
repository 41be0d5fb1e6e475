"""``<disk>``."""

from qvirt.model.devices.device import Device


class Disk(Device, tag="disk"):
    """``<disk>``."""
