"""What stands between a socket and the packets: plain bytes on one side, what travels on the other."""

from typing import Protocol

from qvirt.errors import RpcError


class LayerEnd(Exception):
    """The peer has ended its side in the layer's own way; nothing is wrong."""


class LayerError(RpcError):
    """What came is not what the layer's protocol allows; the connection is of no further use."""


class Layer(Protocol):
    """Wraps what is sent and unwraps what comes. Knows no socket."""

    def unwrap(self, data: bytes) -> bytes:
        """Take what came and give the plain bytes it holds, maybe none yet; raises LayerEnd, LayerError."""
        ...

    def wrap(self, data: bytes) -> bytes:
        """Give what to send for plain bytes; raises LayerError."""
        ...

    def pending(self) -> bytes:
        """Give what the layer's own protocol wants sent; to be asked after `unwrap`, even a failed one."""
        ...

    def farewell(self) -> bytes:
        """Give what says that no more comes from here, nothing where the layer has no word for it."""
        ...
