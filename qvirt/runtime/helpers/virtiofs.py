"""virtiofsd: serves a folder of the host to a guest, as root, shut into that folder by itself."""

import os
from typing import TYPE_CHECKING

from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.host.config import QemuUser
from qvirt.model.devices.filesystem import Filesystem
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.base import line
from qvirt.qemu.devices.filesystem import virtiofs_socket
from qvirt.runtime.helpers import vhost_user
from qvirt.runtime.helpers.processes import Recipe
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: what it needs to serve other people's files, and what to shut itself in, which it gives up then
_CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap"),
    *("sys_admin", "sys_resource", "setpcap"),
)

_REMEDY = "virtiofsd: none is described in {}; install it, or name it with <binary path='…'/>"

_OPTIONS = {True: "", False: "no_"}


def name(alias: str) -> str:
    """Return what the virtiofsd of a device is called within its guest."""
    return f"{alias}-virtiofsd"


def recipe(domain: "Domain", running: Running, dev: Filesystem, ctx: BuildContext) -> Recipe | None:
    """Return how a virtiofsd is made; None for a folder that QEMU or somebody else serves. Blocking.

    The live document says which program it is.
    """
    source = dev.source
    if dev.driver.type != "virtiofs" or source is None or source.socket is not None:
        return None
    if not dev.idmap.is_empty():
        raise ConfigUnsupported(f"<idmap>{line(dev.idmap)} of <filesystem>{line(dev)} is for containers")
    folder = source.dir or ""
    if not os.path.isdir(folder):
        raise InternalError(f"the virtiofs export directory '{folder}' does not exist")
    program = dev.binary.path or vhost_user.find("fs", _REMEDY)
    if not os.access(program, os.X_OK):
        raise InternalError(f"virtiofsd binary '{program}' is not executable")
    dev.binary.path = program
    hv, alias = domain.hypervisor, str(dev.alias.name)
    said = options(dev, folder)
    chroot = ("sys_chroot",) if dev.binary.sandbox.mode == "chroot" else ()

    def command(fd: int) -> list[str]:
        words = [program, f"--fd={fd}", "-o", said]
        if hv.config.virtiofsd_debug:
            words.append("-d")
        if dev.binary.thread_pool.size is not None:
            words.append(f"--thread-pool-size={dev.binary.thread_pool.size}")
        return words

    return Recipe(
        name(alias),
        command,
        QemuUser(0, 0),
        hv.paths.log / f"{domain.name}-{alias}-virtiofsd.log",
        keep=_CAPABILITIES + chroot,
        listen=virtiofs_socket(dev, ctx),
        opens={},
        shuts_in=True,
        pidfile=f"{ctx.dirs.run}/{ctx.folder_name.removeprefix('domain-')}-{alias}-fs.pid",
    )


def options(dev: Filesystem, folder: str) -> str:
    """Return the options of the program that came with QEMU; the one that followed it understands them."""
    binary = dev.binary
    out = [f"source={folder.replace(',', ',,')}"]
    if binary.cache.mode:
        out.append(f"cache={binary.cache.mode}")
    if binary.sandbox.mode:
        out.append(f"sandbox={binary.sandbox.mode}")
    for said, word in (
        (binary.xattr, "xattr"),
        (binary.lock.flock, "flock"),
        (binary.lock.posix, "posix_lock"),
    ):
        if said is not None:
            out.append(_OPTIONS[said] + word)
    return ",".join(out)
