"""The host's message bus: one connection, opened when somebody first asks, and again after it has broken."""

import asyncio
import contextlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.asyncio import DBusConnection, DBusRouter

_DEFAULT: Final = "unix:path=/run/dbus/system_bus_socket"


class Unreachable(Exception):
    """Nobody answered on the bus, for the reason in the message."""


def bus_address() -> str:
    """Give the address of the system's bus."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _DEFAULT


def listens(address: str) -> bool:
    """Tell whether there can be a bus at an address. Blocking, for a moment."""
    path = address.partition("unix:path=")[2].partition(",")[0]
    return not path or Path(path).is_socket()


def has_library() -> bool:
    """Tell whether the Python package for it is installed."""
    return find_spec("jeepney") is not None


class Bus:
    """A connection to a bus. Questions do not wait for each other; every one has a deadline."""

    def __init__(self, address: str | None = None) -> None:
        """address: None for the system's."""
        self._address = address
        self._opening = asyncio.Lock()
        self._connection: DBusConnection | None = None
        self._router: DBusRouter | None = None

    @property
    def address(self) -> str:
        """The address of the bus."""
        return self._address or bus_address()

    async def send(self, message: "Message", deadline: float) -> "Message":
        """Send a call and return its answer, an error perhaps.

        Raises TimeoutError after so many seconds, Unreachable.
        """
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
            raise
        except (OSError, EOFError, RouterClosed, ValueError) as error:
            raise Unreachable(f"D-Bus ({self.address}): {error}") from error

    async def close(self) -> None:
        """Leave the bus."""
        if self._router is not None:
            await self._leave(self._router)

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

    async def _open(self) -> "DBusRouter":
        from jeepney.io.asyncio import DBusRouter, open_dbus_connection

        async with self._opening:
            if self._router is None:
                self._connection = await open_dbus_connection(self.address)
                self._router = DBusRouter(self._connection)
            return self._router
