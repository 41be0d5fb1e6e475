"""libvirt-event.h: what a loop watches for."""

from typing import Final


class EventHandleType:
    READABLE: Final = 1
    WRITABLE: Final = 2
    ERROR: Final = 4
    HANGUP: Final = 8
