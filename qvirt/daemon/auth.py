"""Authentication: what a client is offered, and proving who it is (none, polkit)."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qvirt.api.registry import remote_early
from qvirt.api.session import Session
from qvirt.daemon.config import AuthMode
from qvirt.errors import AuthFailed, QvirtError

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

_NONE: Final = 0
_POLKIT: Final = 2

POLKIT_DEADLINE: Final = 300.0
"""Seconds a person has to answer a password prompt."""


class PolkitFailed(AuthFailed):
    """The policy said no; in the domain by which virsh knows to start its own password agent."""

    default_domain = 60


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
        action = "monitor" if self._client.session.readonly else "manage"
        await check_policy(f"org.libvirt.unix.{action}", identity.pid, identity.uid)
        self._client.trust()
        return 1


async def check_policy(action: str, pid: int | None, uid: int | None) -> None:
    """Ask polkit whether a process may do something; raises AuthFailed."""
    if pid is None:
        raise AuthFailed("the client's process is not known")
    start = process_start_time(pid)
    if start is None:
        raise AuthFailed(f"process {pid} has ended")
    try:
        process = await asyncio.create_subprocess_exec(
            "pkcheck",
            "--action-id",
            action,
            "--process",
            f"{pid},{start},{uid}",
            "--allow-user-interaction",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise AuthFailed(f"cannot ask polkit: pkcheck: {error.strerror}") from error
    try:
        async with asyncio.timeout(POLKIT_DEADLINE):
            _, words = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise PolkitFailed(f"nobody answered for action '{action}'") from None
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode != 0:
        reason = words.decode(errors="replace").strip() or f"access denied by policy for action '{action}'"
        raise PolkitFailed(reason)


def process_start_time(pid: int) -> int | None:
    """Give when a process started, in clock ticks since boot; with its pid it names it for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def has_polkit() -> bool:
    """Tell whether polkit can be asked here."""
    return shutil.which("pkcheck") is not None


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
