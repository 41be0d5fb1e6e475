"""libvirt-common.h: what all areas share: typed parameters, and why a connection ends."""

from typing import Final


class ConnectCloseReason:
    ERROR: Final = 0
    EOF: Final = 1
    KEEPALIVE: Final = 2
    CLIENT: Final = 3


class TypedParameterFlags:
    OKAY: Final = 4


class TypedParameterType:
    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6
    STRING: Final = 7
