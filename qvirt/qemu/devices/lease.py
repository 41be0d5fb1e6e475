"""Leases: nothing of QEMU's. Nobody holds them, as nobody does with libvirt's default lock manager."""

from collections.abc import Iterator

from qvirt.errors import DeviceMissing, OperationInvalid, QvirtError
from qvirt.model.devices.lease import Lease
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler
from qvirt.qemu.switches import Switch


class LeaseHandler(Handler[Lease], kind=Lease):
    """A lease."""

    live = True

    def switches(self, dev: Lease, ctx: BuildContext) -> Iterator[Switch]:
        return iter(())

    def same(self, wanted: Lease, known: Lease, ctx: Context) -> bool:
        return (wanted.key, wanted.lockspace) == (known.key, known.lockspace)

    def clash(self, dev: Lease, ctx: Context, *, live: bool) -> QvirtError | None:
        if any(self.same(dev, known, ctx) for known in ctx.domain.devices.leases if known is not dev):
            return OperationInvalid(f"Lease {_name(dev)} already exists")
        return None

    def missing(self, dev: Lease, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return DeviceMissing(f"Lease {_name(dev)} does not exist")


def _name(dev: Lease) -> str:
    return f"{dev.key} in lockspace {dev.lockspace or '(null)'}"
