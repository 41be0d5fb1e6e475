"""The NVRAM of pSeries guests."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.address import SpaprVioAddress
from qvirt.model.devices.nvram import Nvram
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler
from qvirt.qemu.machines import is_pseries
from qvirt.qemu.switches import KeyValue, Switch


class NvramHandler(Handler[Nvram], kind=Nvram):
    """NVRAM on the virtual I/O bus."""

    config = False

    def validate(self, dev: Nvram, ctx: Context) -> None:
        if not is_pseries(ctx.domain):
            raise ConfigUnsupported("nvram device is only supported for PPC64")
        if dev.address is not None and not isinstance(dev.address, SpaprVioAddress):
            raise ConfigUnsupported("nvram address type must be spaprvio")

    def switches(self, dev: Nvram, ctx: BuildContext) -> Iterator[Switch]:
        if isinstance(dev.address, SpaprVioAddress) and dev.address.reg is not None:
            yield KeyValue("global", {"spapr-nvram.reg": hex(dev.address.reg)}, origin=dev)
