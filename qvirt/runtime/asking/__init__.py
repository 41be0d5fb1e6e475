"""What a guest, its agent and its QEMU are asked."""
