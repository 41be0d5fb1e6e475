"""``<interface>``."""

from qvirt.model.devices.device import Device


class Interface(Device, tag="interface"):
    """``<interface>``."""
