"""Whether this kernel gives us KVM."""

import fcntl
import os
from pathlib import Path

KVM_GET_API_VERSION = 0xAE00
KVM_API_VERSION = 12  # <linux/kvm.h>; has never been another since Linux 2.6.22


def kvm_usable(device: Path = Path("/dev/kvm")) -> bool:
    """Tell whether /dev/kvm can be opened and speaks the one KVM interface there is."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.ioctl(fd, KVM_GET_API_VERSION) == KVM_API_VERSION
    except OSError:
        return False
    finally:
        os.close(fd)
