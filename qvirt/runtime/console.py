"""Consoles and channels: a connection to a guest's character device, one user at a time."""

from collections.abc import Callable


class ConsoleStream:
    """An open console: a non-blocking descriptor, readable and writable, owned by this object.

    on_closed: set by the user; called once when somebody else takes the console (force) or the domain stops.
    """

    fd: int
    on_closed: Callable[[], None] | None

    def close(self) -> None:
        """Give the console back. Harmless when already closed."""
        raise NotImplementedError
