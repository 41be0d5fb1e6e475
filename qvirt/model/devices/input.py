"""``<input>``."""

from qvirt.model.devices.device import Device


class Input(Device, tag="input"):
    """``<input>``."""
