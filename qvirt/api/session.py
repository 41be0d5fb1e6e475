"""What a call may know of the client that makes it, and of the daemon it reached."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from qvirt.errors import InternalError
from qvirt.record import Record, field

if TYPE_CHECKING:
    from qvirt.api.events import EventHub, Subscriptions
    from qvirt.api.node import Node
    from qvirt.runtime.hypervisor import Hypervisor


class Identity(Record):
    """Who is at the other end; None where nobody tells.

    pid, uid, gid, groups: as the kernel says (not for TCP). started: when the process began, in clock ticks
    since boot; asked for only where somebody decides by it. sasl_user, x509_dn: as it has authenticated.
    """

    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    started: int | None = None
    sasl_user: str | None = None
    x509_dn: str | None = None


class Instance(Record, frozen=False):
    """The daemon behind a connection.

    privileged: it runs as root, so ``qemu:///system`` is its URI; otherwise ``qemu:///session``.
    """

    hypervisor: "Hypervisor"
    node: "Node"
    hub: "EventHub"
    privileged: bool

    @property
    def default_uri(self) -> str:
        """What a client that names no URI is connected to."""
        return "qemu:///system" if self.privileged else "qemu:///session"


class Stream(Protocol):
    """The data stream a call opens; it starts to flow when the call has been answered."""

    def pipe(self, fd: int, on_end: Callable[[], None]) -> Callable[[], None]:
        """Carry bytes both ways between the client and a non-blocking descriptor, until either side ends.

        on_end is called once, when the stream is over for whatever reason; the descriptor is its to close.
        Returns what ends the stream from our side.
        """
        ...

    def send_file(self, fd: int, on_end: Callable[[], None]) -> None:
        """Send all of an open regular file, from its current offset."""
        ...


class Session(Record, frozen=False, eq=False):
    """One client's connection, as the calls see it.

    number: which of its server's connections it is, from 1. uri: what CONNECT_OPEN named. driver: "QEMU", or
    the sub-driver's name. Empty before it. readonly: nothing may be changed. close_callback: the client wants
    to be told before we close. owns_domains: it has started domains that end with it; they know it as their
    owner. shown: the keys of the objects that a call which lists may show; None for all. authentication,
    start_keepalive, end: set by the daemon; end closes the connection once the reply is out.
    """

    instance: Instance
    subscriptions: "Subscriptions"
    identity: Identity = field(default_factory=Identity)
    readonly: bool = False
    number: int = 0
    uri: str = ""
    driver: str = ""
    close_callback: bool = False
    owns_domains: bool = False
    shown: frozenset[str] | None = None
    authentication: object = None
    start_keepalive: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None

    @property
    def hypervisor(self) -> "Hypervisor":
        """The domains."""
        return self.instance.hypervisor

    def may_show(self, key: str) -> bool:
        """Tell whether a call that lists may show the object with this key."""
        return self.shown is None or key in self.shown

    def require_open(self) -> None:
        """Raise InternalError before CONNECT_OPEN."""
        if not self.driver:
            raise InternalError("hypervisor connection not open", domain=7)
