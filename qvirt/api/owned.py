"""Calls about what is beside the domains: their errors come from the part of libvirt that is in charge."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from qvirt.api.registry import Function, remote_of
from qvirt.constants.error import ErrorDomain
from qvirt.errors import QvirtError

F = TypeVar("F", bound=Function)

_NOT_OURS: Final = (ErrorDomain.QEMU, ErrorDomain.DOMAIN)


@contextmanager
def _as(domain: int) -> Iterator[None]:
    """Let errors that name no part of libvirt, or the hypervisor, come from another."""
    try:
        yield
    except QvirtError as error:
        if error.domain in _NOT_OURS:
            error.domain = domain
        raise


def calls_of(driver: str, domain: int) -> Callable[[F], F]:
    """Register calls that the hypervisor and a sub-driver have. domain: whose errors theirs are."""

    def register(function: F) -> F:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def waiting(*args: Any, **kwargs: Any) -> Any:
                with _as(domain):
                    return await function(*args, **kwargs)

            return remote_of(driver)(cast(F, waiting))

        @functools.wraps(function)
        def direct(*args: Any, **kwargs: Any) -> Any:
            with _as(domain):
                return function(*args, **kwargs)

        return remote_of(driver)(cast(F, direct))

    return register
