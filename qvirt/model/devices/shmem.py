"""``<shmem>``."""

from qvirt.model.devices.device import Device


class Shmem(Device, tag="shmem"):
    """``<shmem>``."""
