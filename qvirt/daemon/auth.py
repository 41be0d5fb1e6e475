"""Authentication: what a client is offered, and proving who it is (none, polkit; SASL is in `sasl`)."""

import logging
from typing import TYPE_CHECKING, Final

from qvirt.api.registry import remote_early
from qvirt.api.session import Session
from qvirt.daemon.polkit import authenticate
from qvirt.daemon.remote_config import AuthMode
from qvirt.errors import AuthFailed, QvirtError
from qvirt.host.proc import start_time

if TYPE_CHECKING:
    from qvirt.daemon.client import Client
    from qvirt.daemon.sasl import SaslServer

log = logging.getLogger(__name__)

_NONE: Final = 0
_SASL: Final = 1
_POLKIT: Final = 2


Word = tuple[int, int, bytes]
"""An answer of SASL: whether it is complete, whether there is no data, the data."""


class Authentication:
    """How one client proves who it is."""

    def __init__(self, client: "Client", mode: AuthMode) -> None:
        # The superuser needs no policy: it owns the policy.
        self.mode: AuthMode = "none" if client.identity.uid == 0 and mode == "polkit" else mode
        self.sasl: SaslServer | None = None
        """Where the mode is SASL."""
        self._client = client

    def methods(self) -> list[int]:
        """Give the methods offered; where none is needed, asking for them is enough."""
        if self.mode == "none":
            self._client.trust()
            return [_NONE]
        return [_SASL if self.mode == "sasl" else _POLKIT]

    async def polkit(self) -> int:
        """Ask the policy about the peer; raises AuthFailed."""
        if self.mode != "polkit":
            raise AuthFailed("client tried invalid polkit init request")
        identity = self._client.identity
        if identity.pid is None or identity.uid is None:
            raise AuthFailed("the client's process is not known")
        started = start_time(identity.pid)
        if started is None:
            raise AuthFailed(f"process {identity.pid} has ended")
        action = "monitor" if self._client.session.readonly else "manage"
        await authenticate(
            self._client.server.polkit,
            (identity.pid, started, identity.uid),
            f"org.libvirt.unix.{action}",
        )
        self._client.trust()
        return 1


def authentication_of(session: Session) -> Authentication:
    """Give how a session's client authenticates."""
    authentication = session.authentication
    if not isinstance(authentication, Authentication):
        raise QvirtError("this connection has no authentication")
    return authentication


@remote_early
def auth_list(session: Session) -> list[int]:
    """Say how to authenticate; a client that needs none is in by asking."""
    return authentication_of(session).methods()


@remote_early
async def auth_polkit(session: Session) -> int:
    """Authenticate by policy."""
    return await authentication_of(session).polkit()


def _sasl_of(session: Session) -> "SaslServer":
    sasl = authentication_of(session).sasl
    if sasl is None:
        raise AuthFailed("authentication failed")
    return sasl


@remote_early
async def auth_sasl_init(session: Session) -> str:
    """Begin to authenticate: the mechanisms there are."""
    return await _sasl_of(session).init()


@remote_early
async def auth_sasl_start(session: Session, mech: str, nil: int, data: bytes) -> Word:
    """Choose a mechanism, with the first word."""
    return await _sasl_of(session).start(mech, nil, data)


@remote_early
async def auth_sasl_step(session: Session, nil: int, data: bytes) -> Word:
    """Say the next word."""
    return await _sasl_of(session).step(nil, data)
