"""Opening a connection, the first time and again: transport, authentication, what the daemon is to open."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from qvirt.client import transports
from qvirt.client.calls import arrange, find_procedure
from qvirt.client.config import ClientConfig
from qvirt.client.session import Session
from qvirt.client.uri import Uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import AuthFailed
from qvirt.record import Record
from qvirt.rpc.packet import Packet

if TYPE_CHECKING:
    from qvirt.net.sasl import Answer

AUTH_NONE: Final = 0
AUTH_SASL: Final = 1
AUTH_POLKIT: Final = 2
_AUTH_NAMES: Final = {AUTH_NONE: "none", AUTH_SASL: "sasl", AUTH_POLKIT: "polkit"}

OPEN_READONLY: Final = 1

FEATURE_FD_PASSING: Final = 8
FEATURE_KEEPALIVE: Final = 10
FEATURE_EVENT_CALLBACK: Final = 14
FEATURE_CLOSE_CALLBACK: Final = 15


class Link:
    """A session with a daemon that has been opened, and what the daemon said of itself.

    uri: what the daemon says it has opened, "" where the client said it.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.uri = ""
        self._features: dict[int, bool] = {}

    async def call(self, name: str, /, *, program: str = "remote", **arguments: Any) -> Any:
        """Call a procedure by its name; see `aio.Connection.call`."""
        procedure = find_procedure(program, name)
        return (await self.session.call(procedure, arrange(procedure, arguments))).values

    async def supports_feature(self, feature: int) -> bool:
        """Ask whether the daemon has a feature, once."""
        if feature not in self._features:
            answer = await self.call("CONNECT_SUPPORTS_FEATURE", feature=feature)
            self._features[feature] = bool(answer.supported)
        return self._features[feature]


class Opening(Record):
    """All that is needed to open a connection; the values are those of `aio.Connection.open`."""

    target: Uri
    config: ClientConfig
    readonly: bool
    keepalive: tuple[float, int] | None
    ask: "Answer | None"

    async def open(self, on_message: Callable[[Packet], None]) -> Link:
        """Connect, authenticate and open; raises QvirtError, and leaves nothing behind then."""
        channel = await transports.connect(self.target, readonly=self.readonly, config=self.config)
        link = Link(Session(channel, on_message))
        try:
            await self._authenticate(link)
            if self.keepalive is not None and await link.supports_feature(FEATURE_KEEPALIVE):
                link.session.start_keepalive(*self.keepalive)
            await link.call(
                "CONNECT_OPEN", name=self.target.name, flags=OPEN_READONLY if self.readonly else 0
            )
            if not self.target.driver:
                link.uri = str((await link.call("CONNECT_GET_URI")).uri)
            await link.supports_feature(FEATURE_EVENT_CALLBACK)
        except BaseException:
            link.session.close()
            await channel.wait_closed()
            raise
        return link

    async def _authenticate(self, link: Link) -> None:
        wanted = self.target.parameter("auth")
        offered: list[int] = list((await link.call("AUTH_LIST")).types)
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
            await link.call("AUTH_POLKIT")
        elif chosen == AUTH_SASL:
            # Few need it, and it brings the means to call a C library.
            from qvirt.client import credentials, sasl

            await sasl.authenticate(
                link.call,
                link.session.channel,
                hostname=self.target.host or "localhost",
                wanted=(wanted or "").partition(".")[2] or None,
                answer=await asyncio.to_thread(credentials.answerer, self.target, self.ask),
            )
        elif chosen != AUTH_NONE:
            name = _AUTH_NAMES.get(chosen, str(chosen))
            raise AuthFailed(
                f"unsupported authentication type {name}: this client knows none, sasl and polkit",
                domain=ErrorDomain.REMOTE,
            )
