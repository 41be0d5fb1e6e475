"""``<hub>``."""

from qvirt.model.devices.device import Device


class Hub(Device, tag="hub"):
    """``<hub>``."""
