"""qemu-pr-helper: persistent reservations on SCSI disks of the host, which QEMU has no right to make.

One serves all disks of a guest. QEMU hands it the disk it has open, so it opens none itself.
"""

import os
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import OperationFailed, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.unix import held_socket
from qvirt.model.devices.disk import Disk
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.disk import has_managed_reservations, reservations_socket
from qvirt.runtime.helpers.processes import Recipe
from qvirt.runtime.running import Running
from qvirt.security.stack import Guard

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

NAME = "pr-helper0"

#: for the command itself, and for multipath devices; the others until it has its socket and gives them up
_CAPABILITIES = ("sys_rawio", "sys_admin", "setpcap", "setuid", "setgid", "dac_override")


def recipe(domain: "Domain", running: Running, dev: Disk, ctx: BuildContext) -> Recipe | None:
    """Return how the helper of a disk is made; None for one that needs none.

    Raises OperationFailed where it is not installed.
    """
    if not has_managed_reservations(dev):
        return None
    hv = domain.hypervisor
    program = hv.config.pr_helper
    if not os.access(program, os.X_OK):
        raise OperationFailed(
            f"'{program}' is not a suitable pr helper for disk '{dev.name}': it cannot be executed; install "
            "it, or name another one in qemu.conf (pr_helper)"
        )
    socket = reservations_socket(ctx)
    pidfile = f"{ctx.dirs.run}/{ctx.folder_name.removeprefix('domain-')}-{NAME}.pid"
    words = [program, "-k", socket, "-f", pidfile]
    return Recipe(
        NAME,
        lambda _: words,
        QemuUser(0, 0) if hv.user is not None else None,
        hv.paths.log / f"{domain.name}-{NAME}.log",
        keep=_CAPABILITIES,
        files=(socket, pidfile),
        is_ready=partial(_serves, pidfile),
        finish=partial(hv.files.run, f"{NAME} of '{domain.name}'", partial(_give, socket, running.guard)),
    )


def _serves(pidfile: str) -> bool:
    """Tell whether it listens: it writes its pid file after that. Blocking."""
    try:
        return os.stat(pidfile).st_size > 0
    except FileNotFoundError:
        return False


def _give(socket: str, guard: Guard) -> None:
    """Let QEMU, and nobody else, come to the socket. Blocking. Raises SystemError_."""
    try:
        with held_socket(socket) as own:
            os.chmod(own, 0o600)
            guard.own(own)
    except OSError as error:
        raise SystemError_(f"cannot give '{socket}' to QEMU", error) from error
