"""The UUID that stands for this machine in capabilities and migration."""

import uuid
from pathlib import Path

from qvirt.host.sysfs import read_text

ROOT = Path("/")


def host_uuid(source: str = "smbios", root: Path = ROOT) -> str:
    """Return the machine's UUID from "smbios" or "machine-id".

    A machine whose firmware has none, or one that is a placeholder, gets the machine-id's; without that one
    for the life of the process.
    """
    if source == "smbios":
        found = usable(read_text(root / "sys/class/dmi/id/product_uuid"))
        if found:
            return found
    return usable(read_text(root / "etc/machine-id")) or str(uuid.uuid4())


def usable(text: str | None) -> str | None:
    """Return a UUID in its usual form; None for what is none, and for one digit all over."""
    try:
        value = uuid.UUID(text or "")
    except ValueError:
        return None
    return None if len(set(value.hex)) == 1 else str(value)
