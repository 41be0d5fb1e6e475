"""Which security models there may be beside DAC, in the order in which they are tried."""

from functools import partial
from pathlib import Path

from qvirt.host.config import QemuConfig
from qvirt.qemu.context import Dirs
from qvirt.security.apparmor import profiles
from qvirt.security.apparmor.model import AppArmor
from qvirt.security.model import Model
from qvirt.security.stack import Driver


def drivers(config: QemuConfig, daemon: str, etc: Path, dirs: Dirs, root: Path = Path("/")) -> list[Driver]:
    """Return them for an instance.

    daemon: the word of its marks. etc: what stands for /etc there; dirs: where its guests' files are.
    root: of the machine, moved by tests.
    """
    folder = etc / "apparmor.d/libvirt"
    return [
        Driver("selinux", partial(_no_selinux, root), partial(_selinux, config, daemon, root)),
        Driver("apparmor", partial(profiles.unavailable, folder), partial(AppArmor, folder, dirs)),
    ]


def _no_selinux(root: Path) -> str | None:
    """Say why SELinux is not in use; it is loaded only where the kernel has it."""
    if not (root / "sys/fs/selinux/enforce").exists():
        return "this kernel has it not, or not in use"
    from qvirt.security import selinux

    return selinux.probe(root)


def _selinux(config: QemuConfig, daemon: str, root: Path) -> Model:
    from qvirt.security.selinux import Selinux

    return Selinux(daemon, remember=config.remember_owner, root=root)
