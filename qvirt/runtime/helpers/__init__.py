"""Processes beside QEMU that serve one guest."""
