"""``<nvram>``: the non-volatile memory of pSeries guests."""

from qvirt.model.devices.device import Device


class Nvram(Device, tag="nvram"):
    """``<nvram>``."""
