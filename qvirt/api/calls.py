"""All calls there are: importing the files here registers them."""

from importlib import import_module
from typing import Final

MODULES: Final = (
    "connect",
    "node",
    "domain_list",
    "domain_define",
    "domain_lifecycle",
    "domain_info",
    "domain_cpu",
    "domain_memory",
    "domain_vcpus",
    "domain_tuning",
    "domain_memory_set",
    "domain_iothreads",
    "domain_hotplug",
    "domain_devices",
    "domain_interfaces",
    "domain_metadata",
    "domain_guest",
    "domain_launch_security",
    "domain_streams",
    "domain_events",
    "domain_stats",
    "domain_xml",
    "domain_snapshots",
    "network",
    "network_ports",
    "network_events",
    "secret",
    "qemu",
)


def load() -> None:
    """Register every call."""
    for name in MODULES:
        import_module(f"qvirt.api.{name}")
