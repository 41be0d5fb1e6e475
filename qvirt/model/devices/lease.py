"""``<lease>``."""

from qvirt.model.devices.device import Device


class Lease(Device, tag="lease"):
    """``<lease>``."""
