"""polkit over D-Bus: may this process do that?

One connection to the system's bus serves the whole daemon; it is opened when polkit is first asked, and again
after it has broken. Questions do not wait for each other. Every one has a deadline.
"""

import asyncio
import contextlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qvirt.api.session import Identity
from qvirt.constants import ErrorDomain
from qvirt.daemon.policy import Question, Undecided
from qvirt.errors import AuthCancelled, AuthFailed, AuthUnavailable

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.asyncio import DBusConnection, DBusRouter

DEADLINE: Final = 25.0
"""Seconds polkit has to answer where it need ask nobody."""

PERSON_DEADLINE: Final = 300.0
"""Seconds a person has to answer a password prompt."""

_NAME: Final = "org.freedesktop.PolicyKit1"
_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
_INTERFACE: Final = "org.freedesktop.PolicyKit1.Authority"
_INTERACTIVE: Final = 1
_DEFAULT_BUS: Final = "unix:path=/run/dbus/system_bus_socket"


def action_of(question: Question) -> str:
    """Give polkit's name of a permission: ``org.libvirt.api.storage-pool.search-storage-vols``."""
    return f"org.libvirt.api.{question.object}.{question.permission}".replace("_", "-")


def bus_address() -> str:
    """Give the address of the system's bus."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _DEFAULT_BUS


def missing() -> str | None:
    """Say why polkit cannot be asked on this machine; None when it can."""
    address = bus_address()
    _, _, path = address.partition("unix:path=")
    path = path.partition(",")[0]
    if path and not Path(path).is_socket():
        return f"no D-Bus listens on '{path}'"
    if find_spec("jeepney") is None:
        return "the Python library jeepney is not installed (pip install 'qvirt[polkit]')"
    return None


class Verdict:
    """What polkit said. challenge: somebody would have to give a password first."""

    def __init__(self, authorized: bool, challenge: bool, details: dict[str, str]) -> None:
        self.authorized = authorized
        self.challenge = challenge
        self.dismissed = bool(details.get("polkit.dismissed"))


class Polkit:
    """A connection to polkit, and a policy that asks it about every permission."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._opening = asyncio.Lock()
        self._connection: DBusConnection | None = None
        self._router: DBusRouter | None = None

    async def close(self) -> None:
        """Leave the bus."""
        if self._router is not None:
            await self._leave(self._router)

    def reload(self) -> None:
        """Nothing is kept: polkit reads its rules itself."""

    async def allows(self, who: Identity, question: Question) -> bool:
        """Decide a permission by polkit; raises Undecided. Nobody is asked for a password."""
        if who.pid is None or who.started is None:
            raise Undecided("polkit decides about processes of this machine only, and the client is none")
        subject = (who.pid, who.started, who.uid if who.uid is not None else -1)
        return (await self.ask(subject, action_of(question), question.attributes)).authorized

    async def ask(
        self,
        subject: tuple[int, int, int],
        action: str,
        details: dict[str, str] | None = None,
        *,
        interactive: bool = False,
    ) -> Verdict:
        """Ask about a process, told by pid, start in clock ticks since boot, and uid; raises Undecided.

        interactive: a person may be asked for a password.
        """
        from jeepney import DBusAddress, MessageType, new_method_call

        pid, started, uid = subject
        process = {"pid": ("u", pid), "start-time": ("t", started), "uid": ("i", uid)}
        message = new_method_call(
            DBusAddress(_PATH, bus_name=_NAME, interface=_INTERFACE),
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            (("unix-process", process), action, details or {}, _INTERACTIVE if interactive else 0, ""),
        )
        reply = await self._send(message, PERSON_DEADLINE if interactive else DEADLINE)
        if reply.header.message_type is MessageType.error:
            raise Undecided(f"polkit: {reply.body[0] if reply.body else 'an error without words'}")
        authorized, challenge, said = reply.body[0]
        return Verdict(authorized, challenge, said)

    async def _send(self, message: "Message", deadline: float) -> "Message":
        from jeepney.io.common import RouterClosed

        try:
            async with asyncio.timeout(deadline):
                router = await self._open()
                try:
                    return await router.send_and_get_reply(message)
                except (OSError, RouterClosed):
                    # the bus was restarted since the last question
                    await self._leave(router)
                    return await (await self._open()).send_and_get_reply(message)
        except TimeoutError:
            raise Undecided(f"polkit did not answer within {deadline:g} s") from None
        except (OSError, EOFError, RouterClosed, ValueError) as error:
            raise Undecided(f"cannot reach polkit by D-Bus ({self.address}): {error}") from error

    async def _leave(self, router: "DBusRouter") -> None:
        """Close a connection, unless somebody has replaced it already."""
        if router is not self._router:
            return
        connection, self._router, self._connection = self._connection, None, None
        with contextlib.suppress(OSError, EOFError):
            await router.__aexit__(None, None, None)
        if connection is not None:
            with contextlib.suppress(OSError):
                await connection.close()

    @property
    def address(self) -> str:
        """The address of the bus."""
        return self._address or bus_address()

    async def _open(self) -> "DBusRouter":
        from jeepney.io.asyncio import DBusRouter, open_dbus_connection

        async with self._opening:
            if self._router is None:
                self._connection = await open_dbus_connection(self.address)
                self._router = DBusRouter(self._connection)
            return self._router


async def authenticate(polkit: Polkit, subject: tuple[int, int, int], action: str) -> None:
    """Let a client in by policy. Raises AuthFailed, AuthUnavailable (a password agent is missing),
    AuthCancelled.
    """
    try:
        verdict = await polkit.ask(subject, action, interactive=True)
    except Undecided as error:
        raise AuthFailed(str(error), domain=ErrorDomain.POLKIT) from error
    if verdict.authorized:
        return
    if verdict.dismissed:
        raise AuthCancelled("user cancelled authentication process", domain=ErrorDomain.POLKIT)
    if verdict.challenge:
        raise AuthUnavailable(
            f"no polkit agent available to authenticate action '{action}'", domain=ErrorDomain.POLKIT
        )
    raise AuthFailed("access denied by policy", domain=ErrorDomain.POLKIT)
