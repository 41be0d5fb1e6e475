"""``<crypto>``."""

from qvirt.model.devices.device import Device


class Crypto(Device, tag="crypto"):
    """``<crypto>``."""
