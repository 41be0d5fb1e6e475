"""``<nvram>``."""

from qvirt.model.devices.device import Device


class Nvram(Device, tag="nvram"):
    """``<nvram>``."""
