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
from qvirt.client import transports, uri
from qvirt.client.channel import Channel
from qvirt.client.domain import Domain, text_of
from qvirt.client.events import Event, Events, Kind, Subscription
from qvirt.client.session import Session, Values
from qvirt.client.stream import Stream
from qvirt.constants.error import ErrorDomain
from qvirt.errors import AuthFailed, InvalidArg, QvirtError
from qvirt.rpc import protocol
from qvirt.rpc.packet import Packet
from qvirt.rpc.protocol import Procedure

if TYPE_CHECKING:
    from qvirt.net.sasl import Answer

AUTH_NONE: Final = 0
AUTH_SASL: Final = 1
AUTH_POLKIT: Final = 2
_AUTH_NAMES: Final = {AUTH_NONE: "none", AUTH_SASL: "sasl", AUTH_POLKIT: "polkit"}

OPEN_READONLY: Final = 1

IMPORT_REPORT: Final = 1 << 30
"""qvirtd's own flag of CONNECT_DOMAIN_XML_FROM_NATIVE: the account, not the document."""

FEATURE_FD_PASSING: Final = 8
FEATURE_KEEPALIVE: Final = 10
FEATURE_EVENT_CALLBACK: Final = 14
FEATURE_CLOSE_CALLBACK: Final = 15

KEEPALIVE: Final = (5.0, 6)
"""Seconds of silence before a ping, and how many may stay unanswered; virsh's own values."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds to wait for the daemon's farewell."""

_PROGRAMS: Final = {
    "remote": protocol.REMOTE,
    "qemu": protocol.QEMU,
    "lxc": protocol.LXC,
    "admin": protocol.ADMIN,
}


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
    """An open connection to a daemon. Calls may be made from many tasks at once."""

    def __init__(self, channel: Channel, opened: str) -> None:
        self._session = Session(channel, self._on_message)
        self._events = Events(self)
        self._features: dict[int, bool] = {}
        self._uri = opened
        self._watch = asyncio.ensure_future(self._watch_end())

    @classmethod
    async def open(
        cls,
        address: str | None = None,
        *,
        readonly: bool = False,
        keepalive: tuple[float, int] | None = KEEPALIVE,
        ask: "Answer | None" = None,
    ) -> "Connection":
        """Connect, authenticate and open; raises QvirtError.

        address: URI or alias; None: LIBVIRT_DEFAULT_URI, libvirt.conf's uri_default, the daemon's choice.
        keepalive: seconds of silence before a ping, pings that may go unanswered; None never asks for it.
        ask: asks for names and passwords that auth.conf does not know; called in a thread, it may wait.
        """
        config = client_config.load()
        text = config.resolve(address) if address is not None else client_config.default_uri(config)
        target = uri.parse(text)
        channel = await transports.connect(target, readonly=readonly, config=config)
        connection = cls(channel, text)
        try:
            await connection._open(target, readonly, keepalive, ask)
        except BaseException:
            connection._session.close()
            await channel.wait_closed()
            raise
        return connection

    async def _open(
        self, target: uri.Uri, readonly: bool, keepalive: tuple[float, int] | None, ask: "Answer | None"
    ) -> None:
        await self._authenticate(target, ask)
        if keepalive is not None and await self.supports_feature(FEATURE_KEEPALIVE):
            self._session.start_keepalive(*keepalive)
        await self.call("CONNECT_OPEN", name=target.name, flags=OPEN_READONLY if readonly else 0)
        if not target.driver:
            self._uri = str((await self.call("CONNECT_GET_URI")).uri)
        await self.supports_feature(FEATURE_EVENT_CALLBACK)

    async def _authenticate(self, target: uri.Uri, ask: "Answer | None") -> None:
        wanted = target.parameter("auth")
        offered: list[int] = list((await self.call("AUTH_LIST")).types)
        chosen = offered[0] if offered else AUTH_NONE
        if wanted:
            if wanted.partition(".")[0] not in ("sasl", "polkit"):
                raise AuthFailed(
                    f"unknown authentication type {wanted}, expected sasl, sasl.MECHANISM or polkit",
                    domain=ErrorDomain.REMOTE,
                )
            named = [kind for kind in offered if _AUTH_NAMES.get(kind) == wanted.partition(".")[0]]
            if not named:
                raise AuthFailed(
                    f"requested authentication type {wanted} rejected", domain=ErrorDomain.REMOTE
                )
            chosen = named[0]
        if chosen == AUTH_POLKIT:
            await self.call("AUTH_POLKIT")
        elif chosen == AUTH_SASL:
            # Few need it, and it brings the means to call a C library.
            from qvirt.client import credentials, sasl

            await sasl.authenticate(
                self.call,
                self._session.channel,
                hostname=target.host or "localhost",
                wanted=(wanted or "").partition(".")[2] or None,
                answer=await asyncio.to_thread(credentials.answerer, target, ask),
            )
        elif chosen != AUTH_NONE:
            name = _AUTH_NAMES.get(chosen, str(chosen))
            raise AuthFailed(
                f"unsupported authentication type {name}: this client knows none, sasl and polkit",
                domain=ErrorDomain.REMOTE,
            )

    # --- life ----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Say farewell to the daemon and close; waits a few seconds at most, raises nothing."""
        if self._session.is_alive:
            try:
                # Closed with the reply: the daemon's end of file right behind it is no failure.
                farewell = self.call_procedure(
                    find_procedure("remote", "CONNECT_CLOSE"), (), lambda _: self._session.close()
                )
                await asyncio.wait_for(farewell, CLOSE_TIMEOUT)
            except (QvirtError, TimeoutError):
                # It is gone or stuck: closing the socket tells it the same.
                pass
            finally:
                self._session.close()
        await self._watch
        await self._session.channel.wait_closed()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_alive(self) -> bool:
        """Tell whether calls can still be made; asks nobody."""
        return self._session.is_alive

    @property
    def uri(self) -> str:
        """The URI of the connection; asks nobody."""
        return self._uri

    async def wait_closed(self) -> QvirtError | None:
        """Wait for the connection's end; gives why, None when it was closed here."""
        return await self._session.wait_closed()

    async def _watch_end(self) -> None:
        self._events.end(await self._session.wait_closed())

    def _on_message(self, message: Packet) -> None:
        self._events.receive(message)

    # --- any call ------------------------------------------------------------------------------------

    async def call(self, name: str, /, *, program: str = "remote", **arguments: Any) -> Any:
        """Call a procedure by its name with its fields as keywords; `flags` is 0 unless given.

        Gives the reply's NamedTuple, () where it has none. Raises the daemon's error, InvalidArg for an
        argument the procedure does not have or lacks.
        """
        procedure = find_procedure(program, name)
        return (await self._session.call(procedure, arrange(procedure, arguments))).values

    async def call_with_fds(
        self, name: str, fds: Sequence[int] = (), /, *, program: str = "remote", **arguments: Any
    ) -> tuple[Any, tuple[int, ...]]:
        """Call with file descriptors; gives the reply and the descriptors that came, now the caller's."""
        if fds and not await self.supports_feature(FEATURE_FD_PASSING):
            raise InvalidArg("Server does not support FD passing", domain=ErrorDomain.REMOTE)
        procedure = find_procedure(program, name)
        answer = await self._session.call(procedure, arrange(procedure, arguments), fds=fds)
        return answer.values, answer.fds

    async def stream(self, name: str, /, *, program: str = "remote", **arguments: Any) -> Stream:
        """Call a procedure that opens a stream."""
        procedure = find_procedure(program, name)
        if procedure.stream is None:
            raise InvalidArg(f"{name} opens no stream", domain=ErrorDomain.STREAMS)
        return await self._session.open_stream(procedure, arrange(procedure, arguments))

    async def call_procedure(
        self, procedure: Procedure, values: Sequence[Any], on_reply: Callable[[Values], None] | None = None
    ) -> Values:
        """Call with the values in the table's order; on_reply runs before any later packet is looked at."""
        return (await self._session.call(procedure, values, on_reply=on_reply)).values

    async def supports_feature(self, feature: int) -> bool:
        """Ask whether the daemon has a feature, once per connection."""
        if feature not in self._features:
            answer = await self.call("CONNECT_SUPPORTS_FEATURE", feature=feature)
            self._features[feature] = bool(answer.supported)
        return self._features[feature]

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


def find_procedure(program: str, name: str) -> Procedure:
    """Find a procedure by program and name; raises InvalidArg."""
    if program not in _PROGRAMS:
        raise InvalidArg(f"unknown program '{program}', expected one of {', '.join(_PROGRAMS)}")
    procedure = protocol.program(_PROGRAMS[program]).by_name.get(name)
    if procedure is None or procedure.event:
        raise InvalidArg(f"program '{program}' has no procedure '{name}'")
    return procedure


def arrange(procedure: Procedure, arguments: dict[str, Any]) -> Sequence[Any]:
    """Put keyword arguments into the table's order; raises InvalidArg for one too many or too few."""
    fields = procedure.args.fields if procedure.args else ()
    if len(arguments) == len(fields) and all(map(arguments.__contains__, fields)):
        return [arguments[name] for name in fields]
    if "flags" in fields:
        arguments.setdefault("flags", 0)
    unknown = [name for name in arguments if name not in fields]
    missing = [name for name in fields if name not in arguments]
    if unknown or missing:
        wrong = f"has no argument {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise InvalidArg(f"{procedure.name} {wrong}; its arguments are: {', '.join(fields) or 'none'}")
    return [arguments[name] for name in fields]
