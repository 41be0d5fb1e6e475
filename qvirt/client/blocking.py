"""The blocking client: the asyncio client on a loop in a thread of its own, method by method.

    with Connection.open("qemu:///system") as connection:
        print(connection.lookup_by_name("vm").state())

Methods that are coroutines there wait here; connections, domains, streams and subscriptions come wrapped.
Any number of threads may use one connection.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Final, TypeVar
from weakref import finalize

from qvirt.client import aio
from qvirt.client.domain import Domain as AioDomain
from qvirt.client.events import Event
from qvirt.client.events import Subscription as AioSubscription
from qvirt.client.stream import Stream as AioStream

T = TypeVar("T")


class LoopThread:
    """An event loop running in a daemon thread, started at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qvirt-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end on the loop; an interrupt here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and wait for its thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class _Face:
    """Wraps an object of the asyncio client: coroutines wait, plain attributes pass through."""

    def __init__(self, inner: Any, thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._waiting(value) if inspect.iscoroutinefunction(value) else _wrap(value, self._thread)

    def _waiting(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            plain = [argument._inner if isinstance(argument, _Face) else argument for argument in args]
            return _wrap(self._thread.run(method(*plain, **kwargs)), self._thread)

        return call

    def __repr__(self) -> str:
        return repr(self._inner)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Face) and bool(self._inner == other._inner)

    def __hash__(self) -> int:
        return hash(self._inner)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._inner.__aexit__(kind, error, trace))


class Connection(_Face):
    """An open connection; see `aio.Connection` for its methods."""

    @classmethod
    def open(cls, address: str | None = None, **options: Any) -> "Connection":
        """Connect, authenticate and open; arguments and errors as `aio.Connection.open`."""
        thread = LoopThread()
        try:
            connection = cls(thread.run(aio.Connection.open(address, **options)), thread)
        except BaseException:
            thread.stop()
            raise
        finalize(connection, thread.stop)
        return connection

    def close(self) -> None:
        """Close the connection and end its thread."""
        if self._thread._thread.is_alive():
            self._thread.run(self._inner.close())
            self._thread.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Domain(_Face):
    """A domain; see `domain.Domain` for its methods."""


class Stream(_Face):
    """A stream; see `stream.Stream` for its methods."""

    def __iter__(self) -> Iterator[bytes]:
        """Give the pieces of data up to the end."""
        while data := self._thread.run(self._inner.read()):
            yield data


class Subscription(_Face):
    """A subscription; iterate it, or take one event at a time with `next(seconds)`."""

    def __iter__(self) -> Iterator[Event]:
        """Give events as they come, until the connection ends."""
        while (event := self._thread.run(self._inner.next())) is not None:
            yield event


_FACES: Final[dict[type[Any], type[_Face]]] = {
    AioDomain: Domain,
    AioStream: Stream,
    AioSubscription: Subscription,
}


def _wrap(value: Any, thread: LoopThread) -> Any:
    face = _FACES.get(type(value))
    if face:
        return face(value, thread)
    if type(value) is list:
        return [_wrap(item, thread) for item in value]
    return value
