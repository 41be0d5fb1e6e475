"""Authentication: what a client is offered, and proving who it is (none, polkit)."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qvirt.api.registry import remote_early
from qvirt.api.session import Session
from qvirt.daemon.config import AuthMode
from qvirt.daemon.polkit import authenticate
from qvirt.errors import AuthFailed, QvirtError

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

_NONE: Final = 0
_POLKIT: Final = 2


class Authentication:
    """How one client proves who it is."""

    def __init__(self, client: "Client", mode: AuthMode) -> None:
        # The superuser needs no policy: it owns the policy.
        self.mode: AuthMode = "none" if client.identity.uid == 0 else mode
        self._client = client

    def methods(self) -> list[int]:
        """Give the methods offered; where none is needed, asking for them is enough."""
        if self.mode == "none":
            self._client.trust()
            return [_NONE]
        return [_POLKIT]

    async def polkit(self) -> int:
        """Ask the policy about the peer; raises AuthFailed."""
        if self.mode != "polkit":
            raise AuthFailed("client tried invalid polkit init request")
        identity = self._client.identity
        if identity.pid is None or identity.uid is None:
            raise AuthFailed("the client's process is not known")
        started = process_start_time(identity.pid)
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


def process_start_time(pid: int) -> int | None:
    """Give when a process started, in clock ticks since boot; with its pid it names it for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _of(session: Session) -> Authentication:
    authentication = session.authentication
    if not isinstance(authentication, Authentication):
        raise QvirtError("this connection has no authentication")
    return authentication


@remote_early
def auth_list(session: Session) -> list[int]:
    """Say how to authenticate; a client that needs none is in by asking."""
    return _of(session).methods()


@remote_early
async def auth_polkit(session: Session) -> int:
    """Authenticate by policy."""
    return await _of(session).polkit()
