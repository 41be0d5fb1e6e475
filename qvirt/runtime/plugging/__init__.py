"""Devices that come to a running guest and go."""
