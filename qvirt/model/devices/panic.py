"""``<panic>``."""

from qvirt.model.devices.device import Device


class Panic(Device, tag="panic"):
    """``<panic>``."""
