"""``<graphics>``."""

from qvirt.model.devices.device import Device


class Graphics(Device, tag="graphics"):
    """``<graphics>``."""
