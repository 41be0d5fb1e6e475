"""What confines a QEMU: user and groups, file owners, capabilities, limits."""
