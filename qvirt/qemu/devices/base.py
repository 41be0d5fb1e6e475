"""The questions every device kind answers about itself, and the table of who answers for which kind.

A kind lives in ``qemu/devices/<kind>.py`` and registers by ``class DiskHandler(Handler[Disk], kind=Disk)``.
When each question is asked:

    defaults   on define/create/load, before addresses are given; may change the device
    validate   after addresses, before anything is kept; changes nothing, raises
    prepare    before a start, on the copy of the document that will run
    resources  before a start: what of the host the device needs
    switches   for a command line, and for hot-plug
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.device import Device
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.switches import Switch
from qvirt.record import Record

D = TypeVar("D", bound=Device)


class Resource(Record):
    """Something of the host that a device needs; ``origin`` is the node that asks for it."""

    origin: Device


class FileResource(Resource):
    """A file or device node QEMU opens by path.

    writable: QEMU writes to it. shared: another QEMU may use it at the same time.
    create: it may be missing, QEMU or the daemon makes it. relabel: the owner is given to QEMU's user.
    """

    path: str
    writable: bool = True
    shared: bool = False
    create: bool = False
    relabel: bool = True


class TapResource(Resource):
    """Tap queues handed over as descriptors named ``name``.

    vhost: the kernel serves the queues where it can, by as many descriptors named ``vhost_name``;
    vhost_required: without them the start fails.
    """

    name: str
    queues: int = 1
    vhost: bool = False
    vhost_required: bool = False

    @property
    def vhost_name(self) -> str:
        """The name of the vhost-net descriptors."""
        return f"vhostfd-{self.name}"


class DirectoryResource(Resource):
    """A folder that must exist before QEMU starts, owned by QEMU's user: sockets are made in it."""

    path: str


class ListenResource(Resource):
    """A Unix socket the daemon binds, where QEMU's user could not, and hands over under ``name``."""

    path: str
    name: str


class Handler(Generic[D]):
    """Base: a kind with no defaults, nothing to check, no resources."""

    kinds: ClassVar[dict[type[Device], "Handler[Any]"]] = {}

    def __init_subclass__(cls, kind: type[Device] | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            Handler.kinds[kind] = cls()

    def defaults(self, dev: D, ctx: Context) -> None:
        """Fill in what the user left out, as libvirt does."""

    def validate(self, dev: D, ctx: Context) -> None:
        """Raise ConfigUnsupported (or XmlError) for what this emulator or driver cannot do."""

    def prepare(self, dev: D, ctx: BuildContext) -> None:
        """Fill in what holds for one start only, such as the path of a socket.

        Raises ConfigUnsupported for what can be described but not started. Not asked by ``domxml-to-native``.
        """

    def environment(self, dev: D, ctx: BuildContext) -> Mapping[str, str]:
        """Return the environment variables the device's backend in QEMU needs."""
        return {}

    def resources(self, dev: D, ctx: Context) -> Iterable[Resource]:
        """Yield what the device needs of the host."""
        return ()

    def switches(self, dev: D, ctx: BuildContext) -> Iterator[Switch]:
        """Yield the records that make the device, backends before the frontend that uses them."""
        raise ConfigUnsupported(
            f"device <{dev.tag}>{line(dev)} is not supported yet; remove it to start the domain"
        )


def handler(dev: Device) -> Handler[Device]:
    """Return who answers for the device."""
    return cast("Handler[Device]", Handler.kinds.get(type(dev)) or _UNKNOWN)


def line(dev: Any) -> str:
    """Return ' (line N)' for a node that was read from a document."""
    return f" (line {dev.line})" if dev.line else ""


_UNKNOWN: Handler[Device] = Handler()
