"""systemd-machined: a guest as a machine of the host's, in a scope whose control groups are handed to us.

https://www.freedesktop.org/software/systemd/man/org.freedesktop.machine1.html. Names, slices and properties
are libvirt's, so that `machinectl` and administrators' drop-ins mean the same guests.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

from qvirt.errors import DBusService, OperationTimeout
from qvirt.host.dbus import Bus, Unreachable, has_library, listens

#: seconds machined, and systemd behind it, may take
DEADLINE = 20.0

_NAME = "org.freedesktop.machine1"
_LOGIND = "org.freedesktop.login1"
_BUS = "org.freedesktop.DBus"

_PLAIN = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:_.")


def escape(text: str) -> str:
    """Return a name as systemd writes it into the names of units."""
    out = ""
    for place, char in enumerate(text):
        if char == "/":
            out += "-"
        elif char in _PLAIN and not (char == "." and not place):
            out += char
        else:
            out += "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    return out


def unescape(text: str) -> str:
    """Undo `escape`."""
    data = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes((int(found[1], 16),)), os.fsencode(text))
    return os.fsdecode(data)


def slice_of(partition: str) -> str:
    """Return the slice of a partition: ``/machine/fast`` is ``machine-fast.slice``."""
    return f"{'-'.join(escape(part) for part in partition.split('/') if part)}.slice"


def scope_path(partition: str, machine: str) -> str:
    """Return where a machine's scope is, below each hierarchy."""
    parts = [escape(part) for part in partition.split("/") if part]
    slices = [f"{'-'.join(parts[: n + 1])}.slice" for n in range(len(parts))]
    return "/".join([*slices, f"machine-{escape(machine)}.scope"])


def machine_of(path: str) -> str | None:
    """Return the machine whose scope a group's path goes through; None without a scope."""
    for part in path.split("/"):
        if part.startswith("machine-") and part.endswith(".scope"):
            return unescape(part.removeprefix("machine-").removesuffix(".scope"))
    return None


class Machined:
    """The service, by a connection that is made when it is needed, and made again when it is lost."""

    def __init__(self, bus: Bus) -> None:
        """Use `find`."""
        self._bus = bus

    @classmethod
    async def find(cls, address: str | None = None) -> tuple[Self | None, str | None]:
        """Return the service, or None where there is none; and what keeps us from one that there may be.

        address: of the bus; None for the system's. As libvirt has it, logind must be there as well.
        """
        bus = Bus(address)
        if not listens(bus.address):
            return None, None
        if not has_library():
            return None, "guests are no machines of systemd's: the Python package 'jeepney' is not installed"
        self = cls(bus)
        try:
            names: set[str] = set()
            for method in ("ListNames", "ListActivatableNames"):
                (found,) = await self._call(_BUS, "/org/freedesktop/DBus", _BUS, method, None, ())
                names |= set(found)
        except (DBusService, OperationTimeout) as error:
            await bus.close()
            return None, f"guests are no machines of systemd's: {error.detail}"
        if not {_NAME, _LOGIND} <= names:
            await bus.close()
            return None, None
        return self, None

    async def create(
        self,
        name: str,
        *,
        uuid: bytes,
        leader: int,
        slice: str,
        interfaces: Sequence[int] = (),
        max_tasks: int = 0,
    ) -> None:
        """Make a machine of a process, which systemd puts into the machine's scope.

        interfaces: indexes of the host's network devices. Raises DBusService, OperationTimeout.
        """
        properties: list[tuple[str, tuple[str, object]]] = [
            ("Slice", ("s", slice)),
            ("After", ("as", ["libvirtd.service", "qvirtd.service"])),
            ("Before", ("as", ["virt-guest-shutdown.target"])),
        ]
        if max_tasks:
            properties.append(("TasksMax", ("t", max_tasks)))
        body = (name, uuid, "libvirt-qemu", "vm", leader, "", list(interfaces), properties)
        await self._manager("CreateMachineWithNetwork", "sayssusaia(sv)", body)

    async def terminate(self, name: str) -> None:
        """End a machine, with whatever is left in its scope; one that is gone is none of our business.

        Raises DBusService, OperationTimeout.
        """
        try:
            await self._manager("TerminateMachine", "s", (name,))
        except DBusService as error:
            if "NoSuchMachine" not in error.detail:
                raise

    async def close(self) -> None:
        """Let go of the bus."""
        await self._bus.close()

    async def _manager(self, method: str, signature: str, body: Iterable[object]) -> tuple[Any, ...]:
        return await self._call(
            _NAME, "/org/freedesktop/machine1", f"{_NAME}.Manager", method, signature, tuple(body)
        )

    async def _call(
        self, name: str, path: str, interface: str, method: str, signature: str | None, body: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        address = DBusAddress(path, bus_name=name, interface=interface)
        try:
            reply = await self._bus.send(new_method_call(address, method, signature, body), DEADLINE)
        except TimeoutError:
            raise OperationTimeout(f"{name} did not answer '{method}' within {DEADLINE:g} s") from None
        except Unreachable as error:
            raise DBusService(f"cannot reach {name} by {error}") from error
        if reply.header.message_type is MessageType.error:
            what = reply.header.fields.get(HeaderFields.error_name, "error")
            raise DBusService(f"{what}: {reply.body[0] if reply.body else ''}")
        return tuple(reply.body)
