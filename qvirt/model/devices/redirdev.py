"""``<redirdev>``."""

from qvirt.model.devices.device import Device


class Redirdev(Device, tag="redirdev"):
    """``<redirdev>``."""


class Redirfilter(Device, tag="redirfilter"):
    """``<redirfilter>``."""
