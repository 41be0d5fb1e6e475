"""Calls by name: the procedure a name means, and its arguments in the table's order."""

from collections.abc import Sequence
from typing import Any, Final

from qvirt.errors import InvalidArg
from qvirt.rpc import protocol
from qvirt.rpc.protocol import Procedure

_PROGRAMS: Final = {
    "remote": protocol.REMOTE,
    "qemu": protocol.QEMU,
    "lxc": protocol.LXC,
    "admin": protocol.ADMIN,
}


def find_procedure(program: str, name: str) -> Procedure:
    """Find a procedure by program and name; raises InvalidArg."""
    if program not in _PROGRAMS:
        raise InvalidArg(f"unknown program '{program}', expected one of {', '.join(_PROGRAMS)}")
    procedure = protocol.program(_PROGRAMS[program]).by_name.get(name)
    if procedure is None or procedure.event:
        raise InvalidArg(f"program '{program}' has no procedure '{name}'")
    return procedure


def arrange(procedure: Procedure, arguments: dict[str, Any]) -> Sequence[Any]:
    """Put keyword arguments into the table's order; raises InvalidArg for one too many or too few."""
    fields = procedure.args.fields if procedure.args else ()
    if len(arguments) == len(fields) and all(map(arguments.__contains__, fields)):
        return [arguments[name] for name in fields]
    if "flags" in fields:
        arguments.setdefault("flags", 0)
    unknown = [name for name in arguments if name not in fields]
    missing = [name for name in fields if name not in arguments]
    if unknown or missing:
        wrong = f"has no argument {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise InvalidArg(f"{procedure.name} {wrong}; its arguments are: {', '.join(fields) or 'none'}")
    return [arguments[name] for name in fields]
