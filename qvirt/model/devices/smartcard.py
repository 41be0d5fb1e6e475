"""``<smartcard>``."""

from qvirt.model.devices.device import Device


class Smartcard(Device, tag="smartcard"):
    """``<smartcard>``."""
