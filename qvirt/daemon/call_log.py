"""What each call was, for whom, about which domain, how long it took and how it ended.

Logged at debug, under this module's name: ``1:qvirt.daemon.call_log`` as a filter turns it on by itself.
Where it is off calls are not wrapped, so it costs nothing.
"""

import logging
from collections.abc import Coroutine
from time import perf_counter
from types import CoroutineType
from typing import Any

from qvirt.api.registry import Call
from qvirt.api.session import Session
from qvirt.daemon.log_outputs import fields
from qvirt.errors import QvirtError
from qvirt.record import replace
from qvirt.rpc.protocol import Procedure

log = logging.getLogger(__name__)


def traced(procedure: Procedure, call: Call) -> Call:
    """Give the call with a line in the log when it is over."""
    function = call.function
    name = procedure.name

    def start(session: Session, *arguments: Any, **extras: Any) -> Any:
        began = perf_counter()
        try:
            result = function(session, *arguments, **extras)
        except Exception as error:
            _report(name, session, arguments, began, error)
            raise
        if type(result) is CoroutineType:
            return finish(session, arguments, began, result)
        _report(name, session, arguments, began, None)
        return result

    async def finish(
        session: Session, arguments: tuple[Any, ...], began: float, waiting: Coroutine[Any, Any, Any]
    ) -> Any:
        try:
            result = await waiting
        except BaseException as error:
            _report(name, session, arguments, began, error)
            raise
        _report(name, session, arguments, began, None)
        return result

    return replace(call, function=start)


def _report(
    name: str, session: Session, arguments: tuple[Any, ...], began: float, error: BaseException | None
) -> None:
    who = session.identity
    code = error.code if isinstance(error, QvirtError) else None
    log.debug(
        "call",
        extra=fields(
            call=name,
            client=session.number,
            uid=who.uid,
            user=who.sasl_user or who.x509_dn,
            domain=_domain(arguments),
            milliseconds=round((perf_counter() - began) * 1000, 3),
            result="ok" if error is None else type(error).__name__,
            code=code,
        ),
    )


def _domain(arguments: tuple[Any, ...]) -> str | None:
    """Give the name of the first object that a call is about."""
    first = arguments[0] if arguments else None
    name = getattr(first, "name", None) or getattr(getattr(first, "dom", None), "name", None)
    return name if isinstance(name, str) else None
