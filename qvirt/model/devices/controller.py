"""``<controller>``."""

from qvirt.model.devices.device import Device


class Controller(Device, tag="controller"):
    """``<controller>``."""
