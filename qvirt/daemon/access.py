"""What a read-only connection may call, worked out from the protocol table's access rules."""

from collections.abc import Callable, Sequence
from typing import Any

from qvirt.api.names import public_function
from qvirt.errors import OperationDenied
from qvirt.rpc.protocol import Procedure

Check = Callable[[Sequence[Any]], None]
"""Raises OperationDenied when the arguments ask for more than reading."""


def only_reads(permission: str) -> bool:
    """Tell whether a permission is one of those for looking."""
    return permission in ("getattr", "read") or permission.startswith("search_")


def read_only_check(procedure: Procedure, program: str) -> Check | None:
    """Give the check a read-only connection's call must pass, None when it may always be made."""
    rules = [rule for rule in procedure.acl or () if not only_reads(rule.permission)]
    if not rules:
        return None
    name = public_function(procedure.name, program)
    sentence = f"read only access prevents {name}"
    if all(rule.permission == "read_secure" and rule.mask for rule in rules):
        sentence = f"{name} with secure flag"
    error = OperationDenied(sentence)
    fields = procedure.args.fields if procedure.args else ()
    if any(not rule.mask and rule.parameter is None for rule in rules):

        def deny(_: Sequence[Any]) -> None:
            raise error.with_traceback(None)

        return deny

    def deny_some(arguments: Sequence[Any]) -> None:
        named = dict(zip(fields, arguments, strict=True))
        flags = named.get("flags", 0)
        if any(rule.applies(flags, named) for rule in rules):
            raise error.with_traceback(None)

    return deny_some
