"""Which security models there may be beside DAC, in the order in which they are tried."""

from functools import partial
from pathlib import Path

from qvirt.qemu.context import Dirs
from qvirt.security.apparmor import profiles
from qvirt.security.apparmor.model import AppArmor
from qvirt.security.stack import Driver


def drivers(etc: Path, dirs: Dirs) -> list[Driver]:
    """Return them for an instance. etc: what stands for /etc there; dirs: where its guests' files are."""
    folder = etc / "apparmor.d/libvirt"
    return [Driver("apparmor", partial(profiles.unavailable, folder), partial(AppArmor, folder, dirs))]
