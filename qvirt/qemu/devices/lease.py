"""Leases: nothing of QEMU's; the lock manager holds them."""

from collections.abc import Iterator

from qvirt.model.devices.lease import Lease
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.base import Handler
from qvirt.qemu.switches import Switch


class LeaseHandler(Handler[Lease], kind=Lease):
    """A lease."""

    def switches(self, dev: Lease, ctx: BuildContext) -> Iterator[Switch]:
        return iter(())
