"""qvirt: a libvirt-compatible KVM/QEMU hypervisor driver in Python."""

__version__ = "0.1.0"
