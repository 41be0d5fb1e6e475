"""The table of calls: one function per procedure, registered by a decorator under the procedure's name.

A function is named as its procedure in lower case and takes the session, then the procedure's arguments in
wire order under the table's names. It returns the procedure's only result, a tuple of its results in wire
order, or None when there is none. Keyword-only parameters ask for what travels beside the arguments:

    fds        list of received descriptors; take out those to be kept, the rest is closed
    reply_fds  list to put descriptors into that travel with the reply; they are closed once sent
    stream     the stream that the call opens

A plain function answers at once. A coroutine function may wait; it runs as a task of its own.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from qvirt.record import Record

ProgramName = Literal["remote", "qemu", "admin"]
Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

SUB_DRIVERS: Final = ("network", "storage", "nodedev", "secret", "nwfilter", "interface")
"""Drivers that have URIs of their own beside qemu. A connection to one has its objects and no others."""


class Call(Record):
    """A registered function.

    parameters: names of the wire arguments. extras: keyword-only parameters it asks for.
    before_open: may be called before the connection is opened.
    drivers: the sub-drivers (``network:///system``) whose connections have it, too.
    """

    program: ProgramName
    name: str
    function: Function
    parameters: tuple[str, ...]
    extras: frozenset[str]
    before_open: bool
    drivers: tuple[str, ...]


CALLS: Final[dict[tuple[ProgramName, str], Call]] = {}


def _register(program: ProgramName, function: F, *, before_open: bool, drivers: tuple[str, ...]) -> F:
    name = function.__name__.upper()
    parameters = list(inspect.signature(function).parameters.values())[1:]
    call = Call(
        program,
        name,
        function,
        tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY),
        frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
        before_open,
        drivers,
    )
    if CALLS.setdefault((program, name), call) is not call:
        raise ValueError(f"procedure {name} of program {program} is registered twice")
    return function


def remote(function: F) -> F:
    """Register a call of the main program, for connections to the hypervisor."""
    return _register("remote", function, before_open=False, drivers=())


def remote_of(driver: str) -> Callable[[F], F]:
    """Register calls of the main program that connections to the hypervisor and to one sub-driver have."""
    return lambda function: _register("remote", function, before_open=False, drivers=(driver,))


def remote_any(function: F) -> F:
    """Register a call of the main program that every open connection has, to a sub-driver too."""
    return _register("remote", function, before_open=False, drivers=SUB_DRIVERS)


def remote_early(function: F) -> F:
    """Register a call of the main program that works before the connection is opened."""
    return _register("remote", function, before_open=True, drivers=SUB_DRIVERS)


def qemu(function: F) -> F:
    """Register a call of the QEMU-specific program."""
    return _register("qemu", function, before_open=False, drivers=())


def admin(function: F) -> F:
    """Register a call of the administration program, which has a socket of its own."""
    return _register("admin", function, before_open=False, drivers=("admin",))


def admin_early(function: F) -> F:
    """Register a call of the administration program that works before the connection is opened."""
    return _register("admin", function, before_open=True, drivers=("admin",))
