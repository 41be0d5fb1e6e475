"""libvirt's words <-> QEMU's words. Pure: no I/O, no process, no clock."""
