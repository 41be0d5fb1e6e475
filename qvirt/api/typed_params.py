"""Typed parameters: named values of seven types, as they travel, and the rules about strings and counts."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from qvirt.constants.common import TypedParameterType
from qvirt.constants.error import ErrorDomain
from qvirt.errors import ArgumentUnsupported, InvalidArg, RpcError
from qvirt.runtime.records import Param, ParamValue

WireParam: TypeAlias = tuple[str, tuple[int, int | float | str]]

STRING_OKAY = 4
"""virTypedParameterFlags: the caller takes parameters of type string."""


def encode(params: Iterable[Param], flags: int = STRING_OKAY) -> list[WireParam]:
    """Make the wire's form; strings are left out unless ``flags`` has STRING_OKAY."""
    strings = flags & STRING_OKAY
    return [
        (param.name, (param.type, param.value))
        for param in params
        if strings or param.type != TypedParameterType.STRING
    ]


def encode_counted(
    params: Sequence[Param], nparams: int, flags: int, most: int
) -> tuple[list[WireParam], int]:
    """Answer a getter with ``nparams``: 0 asks for the count alone.

    most: the table's limit. Raises RpcError when the caller's or the table's limit is broken.
    """
    wire = encode(params, flags)
    if nparams < 0 or nparams > most:
        raise RpcError("nparams too large")
    if nparams == 0:
        return [], len(wire)
    wire = wire[:nparams]
    return wire, len(wire)


def decode(params: Iterable[WireParam], known: dict[str, int]) -> dict[str, ParamValue]:
    """Read a client's parameters; ``known``: names and types taken.

    Raises ArgumentUnsupported for an unknown name, InvalidArg for a wrong type or one given twice.
    """
    values: dict[str, ParamValue] = {}
    for name, (type_, value) in params:
        if name not in known:
            raise ArgumentUnsupported(f"parameter '{name}' not supported", domain=ErrorDomain.NONE)
        if type_ != known[name]:
            raise InvalidArg(
                f"invalid type '{type_name(type_)}' for parameter '{name}', "
                f"expected '{type_name(known[name])}'"
            )
        if name in values:
            raise InvalidArg(f"parameter '{name}' occurs multiple times")
        values[name] = value
    return values


_TYPE_NAMES = {
    TypedParameterType.INT: "int",
    TypedParameterType.UINT: "uint",
    TypedParameterType.LLONG: "llong",
    TypedParameterType.ULLONG: "ullong",
    TypedParameterType.DOUBLE: "double",
    TypedParameterType.BOOLEAN: "boolean",
    TypedParameterType.STRING: "string",
}


def type_name(type_: int) -> str:
    """Give libvirt's word for a parameter type."""
    return _TYPE_NAMES.get(type_, "unknown")
