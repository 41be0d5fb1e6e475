"""What a QEMU is put into while it is started: its folder, its own /dev, its control groups."""

import errno
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import OperationInvalid, SystemError_
from qvirt.host import images
from qvirt.host.unix import clear_stale
from qvirt.qemu.context import BuildContext
from qvirt.runtime.life import cgroups, launch, lending
from qvirt.runtime.running import Running
from qvirt.security import private_dev

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor


def look_around(running: Running, ctx: BuildContext) -> list[images.Found]:
    """Make sure that no other QEMU lives where this one is going to, and look below its images. Blocking.

    Raises OperationInvalid for one whose status file is gone, as with a user's runtime folder when they log
    out: its folder is not ours to take away. Raises what `images.look_below` raises.
    """
    path = f"{ctx.domain_dir}/monitor.sock"
    try:
        clear_stale(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise SystemError_(f"cannot listen on '{path}'", error) from error
        raise OperationInvalid(
            f"a QEMU that is no domain of this daemon listens on '{path}': end it, or make it one with "
            f"'qvirt adopt {path}'"
        ) from error
    user = (running.user.uid, running.user.gid) if running.user is not None else None
    return images.look_below(running.definition.devices.disks, user=user)


def make_dev(hv: "Hypervisor", running: Running, plan: launch.Plan) -> None:
    """Give the process that this thread makes next a /dev of its own. Blocking. Raises SystemError_."""
    found = lending.nodes(running, plan.files, hv.config.device_acl)
    try:
        # the guest's own folder may have a label that a policy lets nobody mount upon
        private_dev.build(found, str(hv.paths.lib), marking=hv.marking)
    except OSError as error:
        raise SystemError_(f"cannot make the /dev of '{running.definition.name}'", error) from error
    hv.checkpoint("own /dev made")


async def make_groups(
    domain: "Domain", running: Running, plan: launch.Plan, *, wanted: bool = True
) -> cgroups.Doors:
    """Make the control groups while the rest is prepared: the kernel may have to wait for all CPUs."""
    hv, group = domain.hypervisor, running.group
    if group is None or not wanted:
        return cgroups.Doors()
    leader = running.pid if hv.cgroups.machined is not None else 0
    make = partial(hv.cgroups.make, group, running.definition, plan.files, leader)
    return await hv.cgroups.worker.run(f"control groups of '{domain.name}'", make)


async def join_groups(domain: "Domain", running: Running, doors: cgroups.Doors) -> None:
    """Put QEMU into the group that it need not be in from the first, while it loads."""
    hv, group = domain.hypervisor, running.group
    if group is None or not doors.is_late:
        return
    await running.qemu.executed
    join = partial(hv.cgroups.join, group, running.pid)
    await hv.cgroups.later.run(f"control groups of '{domain.name}'", join)
    hv.checkpoint("in its control groups")
