"""The questions every device kind answers about itself, and the table of who answers for which kind.

A kind lives in ``qemu/devices/<kind>.py`` and registers by ``class DiskHandler(Handler[Disk], kind=Disk)``.
When each question is asked:

    defaults   on define/create/load, before addresses are given; may change the device
    validate   after addresses, before anything is kept; changes nothing, raises
    prepare    before a start, on the copy of the document that will run
    resources  before a start: what of the host the device needs
    switches   for a command line, and for hot-plug
    settings   once the device is there: what its records cannot say

Those of a kind that comes, goes or changes while the guest runs; with `live` unset, none of these is asked:

    clash      before it is added: is there one already that has its name
    entered, left
               when it has come or gone: what else of the document changes with it
    check_plug, check_unplug
               raise what cannot be plugged, or let go of, while the guest runs
    same       which of the domain's devices a document means
    missing    what to say where it is none of them
    keep, update, meanwhile
               how a device of a running guest becomes another one
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from qvirt.errors import ConfigUnsupported, DeviceMissing, QvirtError
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.vsock import Vsock
from qvirt.model.domain import Domain
from qvirt.model.seclabel import DeviceSecLabel
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.switches import Step, Switch
from qvirt.record import Record, field
from qvirt.xml.node import Node

D = TypeVar("D", bound=Device)


class Resource(Record):
    """Something of the host that a device needs; ``origin`` is the node that asks for it."""

    origin: Node


class FileResource(Resource):
    """A file or device node QEMU opens by path.

    writable: QEMU writes to it. shared: another QEMU may use it at the same time.
    create: the daemon makes it where it is missing. optional: it may be missing; QEMU makes it, or who comes
    after. late: a device node that comes into being when the daemon takes the device from its driver.
    replaced: QEMU makes it in any case, whatever is there. relabel: security models may change its
    label. seclabels: what the document says of that.
    """

    path: str
    writable: bool = True
    shared: bool = False
    create: bool = False
    optional: bool = False
    late: bool = False
    replaced: bool = False
    relabel: bool = True
    seclabels: Sequence[DeviceSecLabel] = ()


def relabelling(resource: FileResource, model: str) -> tuple[bool, str | None]:
    """Return whether a security model changes a resource's label, and to which if the document says so.

    A ``<seclabel>`` of a source that names no model is for all.
    """
    if not resource.relabel:
        return False, None
    for label in resource.seclabels:
        if label.model in (None, model):
            if label.relabel is False:
                return False, None
            if label.label:
                return True, label.label
    return True, None


def device_labels(dev: Device) -> Iterator[DeviceSecLabel]:
    """Yield every ``<seclabel>`` of a device's sources."""
    if isinstance(dev, Disk):
        for image in dev.images():
            yield from image.source.seclabels
    for source in getattr(dev, "sources", ()):
        yield from getattr(source, "seclabels", ())


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
    """A folder of this run alone, which goes with it: made and given to QEMU's user before QEMU starts."""

    path: str


class ListenResource(Resource):
    """A Unix socket the daemon binds, where QEMU's user could not, and hands over under ``name``.

    private: the daemon alone connects to it, so it stays the daemon's.
    """

    path: str
    name: str
    private: bool = False


class ReachedResource(Resource):
    """A socket nobody lends and rules have to know: QEMU makes it, or a helper has."""

    path: str


class HandedResource(Resource):
    """A file that QEMU never opens: it gets a descriptor, about which some kernels ask the rules again."""

    path: str


class HelperResource(Resource):
    """A process beside QEMU, by its name within the guest; models with rules have some of its own for it.

    opens: path -> permissions, of ``r``, ``w``, ``k`` (locks); a folder's path ends with a slash and means
    all below it. keep: capabilities it has. shuts_in: it makes a view of the file system of its own, in which
    paths mean something else.
    """

    name: str
    program: str = ""
    opens: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    shuts_in: bool = False


class OpenResource(Resource):
    """A file of root's that the daemon opens for writing and hands over under ``name``.

    paths: the first that is there. readable: it is opened for reading, too.
    """

    paths: tuple[str, ...]
    name: str
    readable: bool = False


class PairResource(Resource):
    """Two sockets that are connected: QEMU is handed one under ``name``, a helper of the guest the other."""

    name: str


class VsockResource(Resource):
    """The kernel's vsock device, opened by the daemon for one guest and handed over under ``name``.

    ``origin`` is the ``<vsock>``, which is told the address it got where it leaves that to the host.
    """

    origin: Vsock
    name: str


class Handler(Generic[D]):
    """Base: a kind with no defaults, nothing to check, no resources."""

    kinds: ClassVar[dict[type[Device], "Handler[Any]"]] = {}
    #: libvirt lets it come and go while the guest runs; in a definition that is kept; change in one
    live: ClassVar[bool] = False
    config: ClassVar[bool] = True
    config_update: ClassVar[bool] = False
    live_update: ClassVar[bool] = False
    #: `environment` answers something
    has_environment: ClassVar[bool] = False

    def __init_subclass__(cls, kind: type[Device] | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.has_environment = cls.environment is not Handler.environment
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

    def settings(self, dev: D, ctx: Context) -> Iterator[Step]:
        """Yield what is told to QEMU once the device is there, as its records have no words for it."""
        return iter(())

    def clash(self, dev: D, ctx: Context, *, live: bool) -> QvirtError | None:
        """Return libvirt's error for a new device whose place or name is taken; None when it is free.

        live: it is to be plugged into a running guest, where `validate` sees it among the others, too.
        """
        return None

    def entered(self, dev: D, domain: Domain) -> None:
        """Change what else of the document, which has the device now, goes with it."""

    def left(self, dev: D, domain: Domain) -> None:
        """Change what else of the document, which had the device, goes with it."""

    def check_plug(self, dev: D, ctx: Context) -> None:
        """Raise for a device of this kind that cannot be plugged into a running guest."""

    def check_unplug(self, dev: D, ctx: Context) -> None:
        """Raise for a device of this kind that cannot be taken from a running guest."""

    def same(self, wanted: D, known: D, ctx: Context) -> bool:
        """Tell whether a device of the domain is the one a document means.

        All of it has to be the same once the defaults are filled in; address and alias only where the
        document says them.
        """
        return agrees(wanted, known) and self.content(wanted, ctx) == self.content(known, ctx)

    def content(self, dev: D, ctx: Context) -> D:
        """Return what a device says of itself, without place, name and what only a run gives it."""
        twin = dev.copy()
        self.defaults(twin, ctx)
        twin.__dict__.pop("address", None)
        twin.__dict__.pop("alias", None)
        return twin

    def missing(self, dev: D, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        """Return the error for a device that is not there to be detached, or updated."""
        return DeviceMissing(f"matching {word(dev)} device was not found")

    def ambiguous(self, dev: D) -> QvirtError | None:
        """Return the error for a document that means several devices; None: it means the first of them."""
        return None

    def keep(self, old: D, new: D) -> None:
        """Give the new description of a running guest's device what it leaves to the old one."""

    def update(self, old: D, new: D, ctx: BuildContext, *, force: bool) -> Iterator[Step]:
        """Yield the commands that make a running guest's device the new one.

        force: whatever the guest says. Raises what cannot change.
        """
        return iter(())

    def meanwhile(self, old: D, new: D) -> None:
        """Give the new description what the guest has done to the old device while it became the new one."""


def word(dev: Device) -> str:
    """Return what libvirt's messages call a kind of device."""
    return "chr" if dev.tag in ("serial", "parallel", "console", "channel") else dev.tag


def agrees(wanted: Device, known: Device) -> bool:
    """Tell whether a device has the address and the alias that a document says, where it says them.

    In a definition few have aliases; those that have none are known by what else is said.
    """
    name = wanted.alias.name
    if name is not None and known.alias.name is not None and name != known.alias.name:
        return False
    return wanted.address is None or wanted.address.is_empty() or wanted.address == known.address


def handler(dev: Device) -> Handler[Device]:
    """Return who answers for the device."""
    return Handler.kinds.get(type(dev), _UNKNOWN)


def line(dev: Any) -> str:
    """Return ' (line N)' for a node that was read from a document."""
    return f" (line {dev.line})" if dev.line else ""


_UNKNOWN: Handler[Device] = Handler()
