"""libvirt-stream.h: streams."""

from typing import Final


class StreamEventType:
    READABLE: Final = 1
    WRITABLE: Final = 2
    ERROR: Final = 4
    HANGUP: Final = 8


class StreamFlags:
    NONBLOCK: Final = 1


class StreamRecvFlags:
    STOP_AT_HOLE: Final = 1
