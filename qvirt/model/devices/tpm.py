"""``<tpm>``."""

from qvirt.model.devices.device import Device


class Tpm(Device, tag="tpm"):
    """``<tpm>``."""
