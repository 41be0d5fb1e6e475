"""``<rng>``."""

from qvirt.model.devices.device import Device


class Rng(Device, tag="rng"):
    """``<rng>``."""
