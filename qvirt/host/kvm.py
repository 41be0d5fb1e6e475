"""What this kernel's KVM offers, asked through /dev/kvm; the numbers are those of <linux/kvm.h>."""

import contextlib
import fcntl
import os
from pathlib import Path

from qvirt.record import Record

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_CREATE_VCPU = 0xAE41
KVM_GET_TSC_KHZ = 0xAEA3
KVM_CAP_NR_VCPUS = 9
KVM_CAP_TSC_CONTROL = 60
KVM_CAP_GET_TSC_KHZ = 61
KVM_CAP_MAX_VCPUS = 66
KVM_API_VERSION = 12  # has never been another since Linux 2.6.22

DEVICE = Path("/dev/kvm")


def kvm_usable(device: Path = DEVICE) -> bool:
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


def kvm_max_vcpus(device: Path = DEVICE) -> int | None:
    """Return how many vCPUs a guest may have; None without KVM."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for capability in (KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS):
            count = fcntl.ioctl(fd, KVM_CHECK_EXTENSION, capability)
            if count > 0:
                return count
        return 4  # what the kernel's documentation says to assume when it does not tell
    except OSError:
        return None
    finally:
        os.close(fd)


class TscInfo(Record):
    """The time stamp counter. frequency in Hz; scaling: a guest's may run at another rate."""

    frequency: int
    scaling: bool


def tsc_info(device: Path = DEVICE) -> TscInfo | None:
    """Ask KVM for the frequency of the time stamp counter; makes a virtual machine for a moment."""
    with contextlib.ExitStack() as undo:
        try:
            kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            undo.callback(os.close, kvm)
            if fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GET_TSC_KHZ) <= 0:
                return None
            machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
            undo.callback(os.close, machine)
            vcpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
            undo.callback(os.close, vcpu)
            khz = fcntl.ioctl(vcpu, KVM_GET_TSC_KHZ)
            scaling = fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0
            return TscInfo(khz * 1000, scaling) if khz > 0 else None
        except OSError:
            return None
