"""Drivers beside the domains: virtual networks, secrets."""
