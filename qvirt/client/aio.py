"""The asyncio client.

    async with await Connection.open("qemu:///system") as connection:
        domain = await connection.lookup_by_name("vm")
        async with await connection.subscribe("domain", "LIFECYCLE") as events:
            await domain.create()
            async for event in events: ...

Every procedure of the tables can be called by its name: `connection.call("NODE_GET_FREE_MEMORY")`.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from qvirt.client import config as client_config
from qvirt.client import uri
from qvirt.client.calls import arrange, find_procedure
from qvirt.client.domain import Domain, text_of
from qvirt.client.events import Event, Events, Kind, Subscription
from qvirt.client.opening import FEATURE_FD_PASSING, Link, Opening
from qvirt.client.reconnect import Reconnect
from qvirt.client.session import Session, closed
from qvirt.client.stream import Stream
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg, QvirtError
from qvirt.rpc.packet import Packet

if TYPE_CHECKING:
    from qvirt.net.sasl import Answer

IMPORT_REPORT: Final = 1 << 30
"""qvirtd's own flag of CONNECT_DOMAIN_XML_FROM_NATIVE: the account, not the document."""

KEEPALIVE: Final = (5.0, 6)
"""Seconds of silence before a ping, and how many may stay unanswered; virsh's own values."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds to wait for the daemon's farewell."""

Closed = Callable[["Connection", int, QvirtError | None], None]
"""Called when the connection is lost or closed: a ConnectCloseReason, the error unless it was closed here."""
Reopened = Callable[["Connection"], None]
"""Called when a lost connection stands again, with its events registered."""


class NodeInfo(NamedTuple):
    """The host: CPU model, memory in KiB, number of CPUs, MHz, NUMA nodes, sockets, cores, threads."""

    model: str
    memory: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


class Connection:
    """An open connection to a daemon. Calls may be made from many tasks at once.

    One that was opened with `reconnect` comes back when it is lost. Calls and streams under way then fail
    with why it was lost: the daemon may have done what they asked for, so none is made again. Later calls
    wait until the connection stands again, or fail with why it does not. Subscriptions go on.
    """

    def __init__(self, opening: Opening, reconnect: Reconnect | None, opened: str) -> None:
        """Make one that is not open yet; `open` is what to call."""
        self._opening = opening
        self._reconnect = reconnect
        self._uri = opened
        self._events = Events(self._ready)
        self._on_close: list[Closed] = []
        self._on_reopen: list[Reopened] = []
        self._closing = False
        self._changed = asyncio.Event()
        self._end: asyncio.Future[QvirtError | None] = asyncio.get_running_loop().create_future()
        self._link: Link
        self._keeper: asyncio.Task[None]

    @classmethod
    async def open(
        cls,
        address: str | None = None,
        *,
        readonly: bool = False,
        keepalive: tuple[float, int] | None = KEEPALIVE,
        ask: "Answer | None" = None,
        reconnect: Reconnect | None = None,
    ) -> "Connection":
        """Connect, authenticate and open; raises QvirtError.

        address: URI or alias; None: LIBVIRT_DEFAULT_URI, libvirt.conf's uri_default, the daemon's choice.
        keepalive: seconds of silence before a ping, pings that may go unanswered; None never asks for it.
        ask: asks for names and passwords that auth.conf does not know; called in a thread, it may wait.
        reconnect: come back when the connection is lost; a failure to open is raised all the same.
        """
        if reconnect is not None:
            reconnect.check()
        config = client_config.load()
        text = config.resolve(address) if address is not None else client_config.default_uri(config)
        opening = Opening(uri.parse(text), config, readonly, keepalive, ask)
        connection = cls(opening, reconnect, text)
        connection._link = await opening.open(connection._on_message)
        connection._uri = connection._link.uri or text
        connection._keeper = asyncio.ensure_future(connection._keep())
        return connection

    # --- life ----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Say farewell to the daemon and close; waits a few seconds at most, raises nothing."""
        self._closing = True
        session = self._session
        if session.is_alive:
            try:
                # Closed with the reply: the daemon's end of file right behind it is no failure.
                farewell = session.call(
                    find_procedure("remote", "CONNECT_CLOSE"), on_reply=lambda _: session.close()
                )
                await asyncio.wait_for(farewell, CLOSE_TIMEOUT)
            except (QvirtError, TimeoutError):
                # It is gone or stuck: closing the socket tells it the same.
                pass
            finally:
                session.close()
        else:
            # It may be about to come back.
            self._keeper.cancel()
        await asyncio.wait([self._keeper])
        await self._session.channel.wait_closed()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_alive(self) -> bool:
        """Tell whether the connection stands at this moment; asks nobody."""
        return self._session.is_alive

    @property
    def uri(self) -> str:
        """The URI of the connection; asks nobody."""
        return self._uri

    async def wait_closed(self) -> QvirtError | None:
        """Wait for the end, from which it does not come back; gives why, None when it was closed here."""
        return await asyncio.shield(self._end)

    def register_close_callback(self, callback: Closed) -> None:
        """Have a function called, from the loop, each time the connection is lost, and when it is closed."""
        self._on_close.append(callback)

    def unregister_close_callback(self, callback: Closed) -> None:
        """Have it called no more; raises InvalidArg for one that is not registered."""
        _remove(self._on_close, callback, "close")

    def register_reopen_callback(self, callback: Reopened) -> None:
        """Have a function called, from the loop, each time the connection stands again.

        Events come again by then, so who asks now for the state of things misses no change.
        """
        self._on_reopen.append(callback)

    def unregister_reopen_callback(self, callback: Reopened) -> None:
        """Have it called no more; raises InvalidArg for one that is not registered."""
        _remove(self._on_reopen, callback, "reopen")

    @property
    def _session(self) -> Session:
        return self._link.session

    async def _ready(self) -> Session:
        """Give the session, waiting for it while it is to come back; raises why it does not."""
        while not self._session.is_alive:
            if self._end.done():
                raise self._end.result() or closed()
            self._changed.clear()
            await self._changed.wait()
        return self._session

    async def _keep(self) -> None:
        """See the connection through its losses to its end."""
        loop = asyncio.get_running_loop()
        final: QvirtError | None = None
        try:
            while True:
                session = self._session
                error = final = await session.wait_closed()
                self._events.lost()
                for closed_ in self._on_close:
                    loop.call_soon(closed_, self, session.close_reason, error)
                await session.channel.wait_closed()
                if error is None or self._reconnect is None or self._closing:
                    return
                try:
                    self._link = await self._reconnect.again(self._come_back, self._uri or "the daemon")
                except QvirtError as failure:
                    final = failure
                    return
                self._changed.set()
                for reopened in self._on_reopen:
                    loop.call_soon(reopened, self)
        finally:
            # Closed while it was away, it ends as one that was closed.
            final = None if self._closing and not self._session.is_alive else final
            self._end.set_result(final)
            self._events.end(final)
            self._changed.set()

    async def _come_back(self) -> Link:
        link = await self._opening.open(self._on_message)
        try:
            await self._events.register_again(link.session)
        except BaseException:
            self._events.lost()
            link.session.close()
            await link.session.channel.wait_closed()
            raise
        return link

    def _on_message(self, message: Packet) -> None:
        self._events.receive(message)

    # --- any call ------------------------------------------------------------------------------------

    async def call(self, name: str, /, *, program: str = "remote", **arguments: Any) -> Any:
        """Call a procedure by its name with its fields as keywords; `flags` is 0 unless given.

        Gives the reply's NamedTuple, () where it has none. Raises the daemon's error, InvalidArg for an
        argument the procedure does not have or lacks.
        """
        procedure = find_procedure(program, name)
        values = arrange(procedure, arguments)
        session = self._session if self._session.is_alive else await self._ready()
        return (await session.call(procedure, values)).values

    async def call_with_fds(
        self, name: str, fds: Sequence[int] = (), /, *, program: str = "remote", **arguments: Any
    ) -> tuple[Any, tuple[int, ...]]:
        """Call with file descriptors; gives the reply and the descriptors that came, now the caller's."""
        if fds and not await self.supports_feature(FEATURE_FD_PASSING):
            raise InvalidArg("Server does not support FD passing", domain=ErrorDomain.REMOTE)
        procedure = find_procedure(program, name)
        session = await self._ready()
        answer = await session.call(procedure, arrange(procedure, arguments), fds=fds)
        return answer.values, answer.fds

    async def stream(self, name: str, /, *, program: str = "remote", **arguments: Any) -> Stream:
        """Call a procedure that opens a stream."""
        procedure = find_procedure(program, name)
        if procedure.stream is None:
            raise InvalidArg(f"{name} opens no stream", domain=ErrorDomain.STREAMS)
        session = await self._ready()
        return await session.open_stream(procedure, arrange(procedure, arguments))

    async def supports_feature(self, feature: int) -> bool:
        """Ask whether the daemon has a feature, once for each time the connection was made."""
        await self._ready()
        return await self._link.supports_feature(feature)

    async def subscribe(
        self,
        kind: Kind,
        event: int | str,
        subject: Domain | tuple[Any, ...] | None = None,
        callback: Callable[[Event], None] | None = None,
    ) -> Subscription:
        """Subscribe to an event, of all objects or of one; raises the daemon's error.

        event: number or name ("LIFECYCLE"); for kind "monitor" QEMU's name, "" for all.
        callback: called with each event; without it the subscription is iterated.
        """
        handle = subject.handle if isinstance(subject, Domain) else subject
        return await self._events.subscribe(kind, event, handle, callback)

    # --- domains -------------------------------------------------------------------------------------

    async def list_all_domains(self, flags: int = 0) -> list[Domain]:
        """Give the domains that pass the filter flags, all without any."""
        answer = await self.call("CONNECT_LIST_ALL_DOMAINS", need_results=1, flags=flags)
        return [Domain(self, handle) for handle in answer.domains]

    async def lookup_by_name(self, name: str) -> Domain:
        """Find a domain by name; raises NoDomain."""
        return Domain(self, (await self.call("DOMAIN_LOOKUP_BY_NAME", name=name)).dom)

    async def lookup_by_uuid(self, uuid: UUID | str) -> Domain:
        """Find a domain by UUID; raises NoDomain."""
        raw = (uuid if isinstance(uuid, UUID) else UUID(uuid)).bytes
        return Domain(self, (await self.call("DOMAIN_LOOKUP_BY_UUID", uuid=raw)).dom)

    async def lookup_by_id(self, number: int) -> Domain:
        """Find a running domain by id; raises NoDomain."""
        return Domain(self, (await self.call("DOMAIN_LOOKUP_BY_ID", id=number)).dom)

    async def define_xml(self, xml: str, flags: int = 0) -> Domain:
        """Define a domain, or change its definition."""
        if flags:
            return Domain(self, (await self.call("DOMAIN_DEFINE_XML_FLAGS", xml=xml, flags=flags)).dom)
        return Domain(self, (await self.call("DOMAIN_DEFINE_XML", xml=xml)).dom)

    async def create_xml(self, xml: str, flags: int = 0) -> Domain:
        """Start a domain that leaves no definition behind."""
        return Domain(self, (await self.call("DOMAIN_CREATE_XML", xml_desc=xml, flags=flags)).dom)

    async def attach_qemu(self, pid: int) -> Domain:
        """Make a domain of a running QEMU that somebody else started."""
        return Domain(self, (await self.call("DOMAIN_ATTACH", program="qemu", pid_value=pid)).dom)

    async def domain_xml_to_native(self, xml: str, format_: str = "qemu-argv") -> str:
        """Give the command line QEMU would be started with."""
        answer = await self.call("CONNECT_DOMAIN_XML_TO_NATIVE", nativeFormat=format_, domainXml=xml)
        return str(answer.nativeConfig)

    async def domain_xml_from_native(
        self, config: str, format_: str = "qemu-argv", *, report: bool = False
    ) -> str:
        """Give the document of a QEMU command line; report: what became of each argument, of qvirtd only."""
        answer = await self.call(
            "CONNECT_DOMAIN_XML_FROM_NATIVE",
            nativeFormat=format_,
            nativeConfig=config,
            flags=IMPORT_REPORT if report else 0,
        )
        return str(answer.domainXml)

    # --- host ----------------------------------------------------------------------------------------

    async def capabilities(self) -> str:
        """Give the capabilities XML."""
        return str((await self.call("CONNECT_GET_CAPABILITIES")).capabilities)

    async def domain_capabilities(
        self,
        emulatorbin: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virttype: str | None = None,
    ) -> str:
        """Give the domain capabilities XML of an emulator."""
        answer = await self.call(
            "CONNECT_GET_DOMAIN_CAPABILITIES",
            emulatorbin=emulatorbin,
            arch=arch,
            machine=machine,
            virttype=virttype,
        )
        return str(answer.capabilities)

    async def node_info(self) -> NodeInfo:
        """Give the host's CPUs and memory."""
        model, *rest = await self.call("NODE_GET_INFO")
        return NodeInfo(text_of(model), *rest)

    async def type(self) -> str:
        """Give the driver's name, "QEMU"."""
        return str((await self.call("CONNECT_GET_TYPE")).type)

    async def version(self) -> int:
        """Give the emulator's version: major*1000000 + minor*1000 + micro."""
        return int((await self.call("CONNECT_GET_VERSION")).hv_ver)

    async def lib_version(self) -> int:
        """Give the daemon's version: major*1000000 + minor*1000 + micro."""
        return int((await self.call("CONNECT_GET_LIB_VERSION")).lib_ver)

    async def hostname(self) -> str:
        """Give the daemon's host name."""
        return str((await self.call("CONNECT_GET_HOSTNAME")).hostname)

    async def security_model(self) -> tuple[str, str]:
        """Give the security model and its domain of interpretation, both "" without one."""
        answer = await self.call("NODE_GET_SECURITY_MODEL")
        return text_of(answer.model), text_of(answer.doi)


def _remove(callbacks: list[Any], callback: object, kind: str) -> None:
    if callback not in callbacks:
        raise InvalidArg(f"this {kind} callback is not registered with the connection")
    callbacks.remove(callback)
