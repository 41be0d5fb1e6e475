"""vhost-user-gpu: a virtio card that is a process beside QEMU; one that draws in 3D has a GPU of the host."""

import os
from typing import TYPE_CHECKING

from qvirt.errors import InternalError
from qvirt.model.devices.video import Video
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.video import gpu_socket, is_served
from qvirt.runtime.helpers import vhost_user
from qvirt.runtime.helpers.processes import Recipe
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

_REMEDY = "vhost-user-gpu: none is described in {}; install it, or leave out <driver name='vhostuser'/>"


def name(alias: str) -> str:
    """Return what the process of a card is called within its guest."""
    return f"{alias}-vhost-user-gpu"


def recipe(domain: "Domain", running: Running, dev: Video, ctx: BuildContext) -> Recipe | None:
    """Return how the process of a card is made; None for one that is QEMU's own. Blocking.

    Raises OperationFailed where there is none, InternalError for one that cannot be executed.
    """
    if not is_served(dev):
        return None
    program = vhost_user.find("gpu", _REMEDY)
    if not os.access(program, os.X_OK):
        raise InternalError(f"vhost-user-gpu binary '{program}' is not executable")
    drawing = dev.model.acceleration
    options = ["--virgl"] if drawing.accel3d else []
    if drawing.rendernode is not None:
        options.append(f"--render-node={drawing.rendernode}")
    own = name(str(dev.alias.name))
    return Recipe(
        own,
        lambda fd: [program, f"--fd={fd}", *options],
        running.user,
        domain.hypervisor.paths.log / f"{domain.name}-{own}.log",
        end=gpu_socket(dev),
        pidfile=f"{ctx.dirs.run}/{ctx.folder_name.removeprefix('domain-')}-{own}.pid",
        opens={drawing.rendernode: "rw"} if drawing.rendernode is not None else {},
    )
