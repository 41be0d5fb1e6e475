"""The protocol tables: programs, procedures, their structures, access rules and event numbers.

The JSON files beside this module hold the tables; each is read when its program is first asked for,
and a structure is compiled when it is first used.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from qvirt.record import Record
from qvirt.rpc.types import Fields, Schema
from qvirt.rpc.xdr import XdrStruct

REMOTE: Final = 0x20008086
QEMU: Final = 0x20008087
LXC: Final = 0x00068000
ADMIN: Final = 0x06900690
KEEPALIVE: Final = 0x6B656570

_TABLES: Final = {REMOTE: "remote", QEMU: "qemu", LXC: "lxc", ADMIN: "admin", KEEPALIVE: "keepalive"}
_BASES: Final = {QEMU: REMOTE, LXC: REMOTE}

EventKind = Literal["domain", "network", "storage_pool", "node_device", "secret"]


class AccessRule(Record):
    """One permission a call needs.

    mask: the rule holds only when one of these flags is set, or when none is where `unset`; 0 = always.
    parameter, value: the rule holds only when the call's argument of that name has that value.
    """

    object: str
    permission: str
    mask: int = 0
    unset: bool = False
    parameter: str | None = None
    value: int = 0

    def applies(self, flags: int, arguments: Mapping[str, Any] | None = None) -> bool:
        """Tell whether a call with these flags and arguments needs the permission."""
        if self.parameter is not None:
            return arguments is not None and arguments.get(self.parameter) == self.value
        return not self.mask or bool(flags & self.mask) is not self.unset


class Procedure(Record):
    """One row of a program's table.

    args, ret: None is void, zero bytes. An event has neither, but may have msg.
    high: may be served while all ordinary workers are blocked.
    stream: direction of the data as the client sees it; sparse: the flag that allows holes in it.
    call_fds, reply_fds: descriptors may travel with the call, with the reply.
    acl: None where the program has no access rules. aclfilter: rules for each item of a returned list.
    """

    program: int
    version: int
    number: int
    name: str
    args: XdrStruct | None
    ret: XdrStruct | None
    msg: XdrStruct | None
    event: bool
    high: bool
    stream: Literal["up", "down", "both"] | None
    sparse: int
    call_fds: bool
    reply_fds: bool
    noauth: bool
    acl: tuple[AccessRule, ...] | None
    aclfilter: tuple[AccessRule, ...]
    since: str | None

    def encode_args(self, values: Any = ()) -> bytes:
        """Encode the call's arguments; raises RpcError."""
        return b"" if self.args is None else self.args.encode(values)

    def decode_args(self, data: bytes) -> tuple[Any, ...]:
        """Decode the call's arguments, () when void; raises RpcError."""
        return () if self.args is None else self.args.decode(data)

    def encode_ret(self, values: Any = ()) -> bytes:
        """Encode the reply's values; raises RpcError."""
        return b"" if self.ret is None else self.ret.encode(values)

    def decode_ret(self, data: bytes) -> tuple[Any, ...]:
        """Decode the reply's values, () when void; raises RpcError."""
        return () if self.ret is None else self.ret.decode(data)


class EventId(Record):
    """A public event number and the messages that carry it.

    legacy: procedure without callback id, None for ids the old registration never had.
    callback: procedure whose message starts with the callback id.
    """

    number: int
    name: str
    legacy: int | None
    callback: int


class Structs(Mapping[str, XdrStruct]):
    """A program's structures by name, made when first asked for; those of its base program included."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._made: dict[str, XdrStruct] = {}

    def __getitem__(self, name: str) -> XdrStruct:
        struct = self._made.get(name)
        if struct is None:
            if name not in self:
                raise KeyError(f"no table defines the structure '{name}'")
            struct = self._made[name] = XdrStruct(name, self._resolve)
        return struct

    def _resolve(self, name: str) -> Fields:
        return self._schema.struct(name)

    def __contains__(self, name: object) -> bool:
        schema: Schema | None = self._schema
        while schema:
            if name in schema.structs:
                return True
            schema = schema.base
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema.structs)

    def __len__(self) -> int:
        return len(self._schema.structs)


class Program:
    """One RPC program: number, version, name, procedures by number and by name, structures."""

    def __init__(self, number: int, name: str, table: dict[str, Any], base: "Program | None") -> None:
        self.number = number
        self.version: int = table["version"]
        self.name = name
        self.schema: Schema = Schema(
            table.get("structs", {}),
            table.get("typedefs"),
            table.get("enums"),
            table.get("unions"),
            base.schema if base else None,
        )
        self.structs = Structs(self.schema)
        self.by_number: dict[int, Procedure] = {}
        self.by_name: dict[str, Procedure] = {}
        for row in table["procedures"]:
            procedure = self._procedure(row)
            self.by_number[procedure.number] = procedure
            self.by_name[procedure.name] = procedure
        self.events: dict[str, dict[int, EventId]] = {
            kind: {row[0]: EventId(*row) for row in rows} for kind, rows in table.get("events", {}).items()
        }
        self.acl_permissions: dict[str, tuple[str, ...]] = {
            object_: tuple(names) for object_, names in table.get("acl_permissions", {}).items()
        }

    def __repr__(self) -> str:
        return f"<Program {self.name} {self.number:#x}>"

    def _struct(self, name: str | None) -> XdrStruct | None:
        return self.structs[name] if name else None

    def _procedure(self, row: dict[str, Any]) -> Procedure:
        fds = row.get("fds", "")
        acl = row.get("acl")
        return Procedure(
            program=self.number,
            version=self.version,
            number=row["n"],
            name=row["name"],
            args=self._struct(row.get("args")),
            ret=self._struct(row.get("ret")),
            msg=self._struct(row.get("msg")),
            event="event" in row,
            high="high" in row,
            stream=row.get("stream"),
            sparse=row.get("sparse", 0),
            call_fds="call" in fds,
            reply_fds="reply" in fds,
            noauth="noauth" in row,
            acl=None if acl is None else tuple(AccessRule(*rule) for rule in acl),
            aclfilter=tuple(AccessRule(*rule) for rule in row.get("aclfilter", ())),
            since=row.get("since"),
        )


@cache
def program(number: int) -> Program:
    """Give the program with this number; raises KeyError for one we have no table of."""
    name = _TABLES[number]
    base = program(_BASES[number]) if number in _BASES else None
    table = json.loads(files(__name__).joinpath(f"{name}.json").read_bytes())
    if table["program"] != number:
        raise ValueError(f"the table {name}.json is of program {table['program']}, not {number}")
    return Program(number, name, table, base)


def is_known(number: int, version: int) -> bool:
    """Tell whether there is a table of this program in this version, without reading it."""
    return number in _TABLES and version == 1


def remote() -> Program:
    """Give the main program."""
    return program(REMOTE)


def qemu() -> Program:
    """Give the QEMU-specific program: monitor and agent commands, monitor events."""
    return program(QEMU)


def admin() -> Program:
    """Give the daemon administration program."""
    return program(ADMIN)


def event_ids(kind: EventKind) -> dict[int, EventId]:
    """Give the event numbers of one kind of object."""
    return remote().events[kind]
