"""polkit over D-Bus: may this process do that?

One connection to the system's bus serves the whole daemon. Every question has a deadline.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from qvirt.api.session import Identity
from qvirt.constants.error import ErrorDomain
from qvirt.daemon.policy import Question, Undecided
from qvirt.errors import AuthCancelled, AuthFailed, AuthUnavailable
from qvirt.host.dbus import Bus, Unreachable, bus_address, has_library, listens

if TYPE_CHECKING:
    from jeepney import Message

DEADLINE: Final = 25.0
"""Seconds polkit has to answer where it need ask nobody."""

PERSON_DEADLINE: Final = 300.0
"""Seconds a person has to answer a password prompt."""

AT_ONCE: Final = 64
"""Questions that may wait for their answers; a bus takes 128 of one connection."""

PEOPLE_AT_ONCE: Final = 48
"""The same where people may have to answer, so that they keep nobody else from asking."""

_NAME: Final = "org.freedesktop.PolicyKit1"
_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
_INTERFACE: Final = "org.freedesktop.PolicyKit1.Authority"
_INTERACTIVE: Final = 1


def action_of(question: Question) -> str:
    """Give polkit's name of a permission: ``org.libvirt.api.storage-pool.search-storage-vols``."""
    return f"org.libvirt.api.{question.object}.{question.permission}".replace("_", "-")


def missing() -> str | None:
    """Say why polkit cannot be asked on this machine; None when it can."""
    address = bus_address()
    if not listens(address):
        return f"no D-Bus listens on '{address.partition('=')[2]}'"
    if not has_library():
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
        self._bus = Bus(address)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._people = asyncio.Semaphore(PEOPLE_AT_ONCE)

    async def close(self) -> None:
        """Leave the bus."""
        await self._bus.close()

    def reload(self) -> None:
        """Nothing is kept: polkit reads its rules itself."""

    def answer(self, who: Identity, question: Question) -> bool | None:
        """Give no answer: polkit has to be asked."""
        return None

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
        deadline = PERSON_DEADLINE if interactive else DEADLINE
        try:
            async with asyncio.timeout(deadline), self._people if interactive else self._turns:
                reply = await self._send(message, deadline)
        except TimeoutError:
            raise Undecided(f"polkit did not answer within {deadline:g} s, nor those asked before") from None
        if reply.header.message_type is MessageType.error:
            raise Undecided(f"polkit: {reply.body[0] if reply.body else 'an error without words'}")
        authorized, challenge, said = reply.body[0]
        return Verdict(authorized, challenge, said)

    async def _send(self, message: "Message", deadline: float) -> "Message":
        try:
            return await self._bus.send(message, deadline)
        except TimeoutError:
            raise Undecided(f"polkit did not answer within {deadline:g} s") from None
        except Unreachable as error:
            raise Undecided(f"cannot reach polkit by {error}") from error


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
