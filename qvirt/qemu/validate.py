"""Domain-level validation: combinations libvirt refuses, with its own sentences."""

from qvirt.qemu.context import Context


def validate_domain(ctx: Context) -> None:
    """Raise ConfigUnsupported or XmlError for what cannot run; changes nothing."""
