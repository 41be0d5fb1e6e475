"""``<vsock>``."""

from qvirt.model.devices.device import Device


class Vsock(Device, tag="vsock"):
    """``<vsock>``."""
