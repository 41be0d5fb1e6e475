"""SASL by the system's libsasl2: exchanges of both sides, and the layer some mechanisms put around the bytes.

Calls that may wait (a realm's servers, names, password files) must not be made on an event loop: `start` and
`step` of either side are for threads. What the layer does is computing alone.
"""

import ctypes
import ctypes.util
import threading
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_ulong, c_void_p
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

from qvirt.errors import AuthFailed
from qvirt.net.layer import LayerError
from qvirt.record import Record

LIBRARY: Final = "libsasl2.so.2"
SERVICE: Final = b"libvirt"
BUFFER: Final = 65536
"""Bytes of plain data in one packet of a layer at most; also the largest that is taken."""
STRONGEST: Final = 100000
"""No layer is that strong: any will do."""
CLIENT_MIN_SSF: Final = 56

OK: Final = 0
CONTINUE: Final = 1
INTERACT: Final = 2

_SUCCESS_DATA: Final = 4
_NOPLAINTEXT: Final = 1
_NOANONYMOUS: Final = 16
_USERNAME, _SSF, _MAXOUTBUF = 0, 1, 2
_SSF_EXTERNAL, _SEC_PROPS = 100, 101
_PATH_CONFIG: Final = 1

CB_USER, CB_AUTHNAME, CB_ECHO, CB_PASS, CB_NOECHO, CB_REALM = 0x4001, 0x4002, 0x4003, 0x4004, 0x4005, 0x4008
_PROMPTS: Final = (CB_USER, CB_AUTHNAME, CB_ECHO, CB_PASS, CB_NOECHO, CB_REALM)

NAMES: Final = {
    CB_USER: "username",
    CB_AUTHNAME: "authname",
    CB_PASS: "password",
    CB_REALM: "realm",
    CB_ECHO: "echoprompt",
    CB_NOECHO: "noechoprompt",
}
"""What is asked for -> what it is called in auth.conf."""


class Properties(Record):
    """What a connection asks of a mechanism. Strengths in bits; 0 and 0 means no layer."""

    min_ssf: int
    max_ssf: int
    plaintext: bool

    @classmethod
    def secured(cls) -> "Properties":
        """Give those of a connection that needs no layer: TLS, or a local socket."""
        return cls(0, 0, True)

    @classmethod
    def bare(cls, min_ssf: int) -> "Properties":
        """Give those of a connection anybody can listen to."""
        return cls(min_ssf, STRONGEST, False)


class Prompt(Record):
    """Something a mechanism wants to know. name: as in auth.conf; secret: not to be shown."""

    name: str
    text: str
    default: str
    secret: bool


Answer = Callable[[Prompt], str | None]
"""Answers a prompt, None for not knowing."""


class _Callback(ctypes.Structure):
    _fields_ = (("id", c_ulong), ("proc", c_void_p), ("context", c_void_p))


class _Interact(ctypes.Structure):
    _fields_ = (
        ("id", c_ulong),
        ("challenge", c_char_p),
        ("prompt", c_char_p),
        ("defresult", c_char_p),
        ("result", c_void_p),
        ("len", c_uint),
    )


class _SecurityProperties(ctypes.Structure):
    _fields_ = (
        ("min_ssf", c_uint),
        ("max_ssf", c_uint),
        ("maxbufsize", c_uint),
        ("security_flags", c_uint),
        ("property_names", c_void_p),
        ("property_values", c_void_p),
    )


class _Mutexes:
    """Locks for the library, which is used by several threads."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}
        self._numbers = count(1)
        one, none = ctypes.CFUNCTYPE(c_int, c_void_p), ctypes.CFUNCTYPE(None, c_void_p)
        self.functions = (
            ctypes.CFUNCTYPE(c_void_p)(self._new),
            one(self._lock),
            one(self._unlock),
            none(self._free),
        )

    def _new(self) -> int:
        number = next(self._numbers)
        self._locks[number] = threading.Lock()
        return number

    def _lock(self, number: int) -> int:
        self._locks[number].acquire()
        return 0

    def _unlock(self, number: int) -> int:
        self._locks[number].release()
        return 0

    def _free(self, number: int) -> None:
        self._locks.pop(number, None)


class Library:
    """libsasl2, loaded once."""

    def __init__(self) -> None:
        try:
            self.lib = lib = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise AuthFailed(
                f"SASL needs the system's {LIBRARY} (Debian's package libsasl2-2): {error}"
            ) from error
        out = (POINTER(c_void_p), POINTER(c_uint))
        for name, *types in (
            ("sasl_server_new", *(c_char_p,) * 5, c_void_p, c_uint, POINTER(c_void_p)),
            ("sasl_client_new", *(c_char_p,) * 4, c_void_p, c_uint, POINTER(c_void_p)),
            ("sasl_setprop", c_void_p, c_int, c_void_p),
            ("sasl_getprop", c_void_p, c_int, POINTER(c_void_p)),
            ("sasl_listmech", c_void_p, *(c_char_p,) * 4, POINTER(c_char_p), c_void_p, c_void_p),
            ("sasl_server_start", c_void_p, c_char_p, c_char_p, c_uint, *out),
            ("sasl_server_step", c_void_p, c_char_p, c_uint, *out),
            ("sasl_client_start", c_void_p, c_char_p, POINTER(c_void_p), *out, POINTER(c_char_p)),
            ("sasl_client_step", c_void_p, c_char_p, c_uint, POINTER(c_void_p), *out),
            ("sasl_encode", c_void_p, c_char_p, c_uint, *out),
            ("sasl_decode", c_void_p, c_char_p, c_uint, *out),
            ("sasl_server_init", c_void_p, c_char_p),
            ("sasl_client_init", c_void_p),
            ("sasl_set_path", c_int, c_char_p),
        ):
            function = getattr(lib, str(name))
            function.argtypes, function.restype = types, c_int
        lib.sasl_errdetail.argtypes, lib.sasl_errdetail.restype = (c_void_p,), c_char_p
        lib.sasl_dispose.argtypes, lib.sasl_dispose.restype = (POINTER(c_void_p),), None
        self._mutexes = _Mutexes()
        lib.sasl_set_mutex(*self._mutexes.functions)
        self._lock = threading.Lock()
        self._ready: set[str] = set()
        self.callbacks = (_Callback * (len(_PROMPTS) + 1))(
            *(_Callback(number, None, None) for number in _PROMPTS)
        )

    def init(self, side: str, config: Path | None = None) -> None:
        """Make one side ready, once; config: the folder of libvirt.conf instead of the system's."""
        with self._lock:
            if side in self._ready:
                return
            if config is not None:
                self.lib.sasl_set_path(_PATH_CONFIG, str(config).encode())
            if side == "server":
                code = self.lib.sasl_server_init(None, SERVICE)
            else:
                code = self.lib.sasl_client_init(self.callbacks)
            if code != OK:
                raise AuthFailed(f"failed to initialize SASL library: {code}")
            self._ready.add(side)


@cache
def library() -> Library:
    """Give the library; raises AuthFailed where there is none."""
    return Library()


class Exchange:
    """One side of an authentication, and what comes of it. Not for two threads at once."""

    def __init__(self, conn: c_void_p, properties: Properties, external_ssf: int) -> None:
        self._lib = library().lib
        self._conn = conn
        flags = 0 if properties.plaintext else _NOPLAINTEXT | _NOANONYMOUS
        props = _SecurityProperties(properties.min_ssf, properties.max_ssf, BUFFER, flags, None, None)
        self._check(self._lib.sasl_setprop(conn, _SEC_PROPS, byref(props)), "cannot set security props")
        if external_ssf:
            strength = c_uint(external_ssf)
            self._check(
                self._lib.sasl_setprop(conn, _SSF_EXTERNAL, byref(strength)), "cannot set external SSF"
            )

    def close(self) -> None:
        """Let go of it; a layer made of it must not be used any more."""
        if self._conn:
            self._lib.sasl_dispose(byref(self._conn))
            self._conn = c_void_p()

    def __del__(self) -> None:
        self.close()

    @property
    def username(self) -> str:
        """Who has authenticated; raises AuthFailed."""
        value = c_void_p()
        self._check(self._lib.sasl_getprop(self._conn, _USERNAME, byref(value)), "cannot query SASL username")
        raw = ctypes.string_at(value.value) if value.value else b""
        return raw.decode("utf-8", "surrogateescape")

    @property
    def ssf(self) -> int:
        """The strength of the layer agreed on, in bits; 0 for none. Raises AuthFailed."""
        return self._number(_SSF)

    def layer(self) -> "SaslLayer":
        """Give the layer agreed on."""
        return SaslLayer(self, self._number(_MAXOUTBUF))

    def encode(self, data: bytes) -> bytes:
        """Wrap; raises LayerError."""
        return self._code(self._lib.sasl_encode, data)

    def decode(self, data: bytes) -> bytes:
        """Unwrap as much as is complete; raises LayerError."""
        return self._code(self._lib.sasl_decode, data)

    def _code(self, function: Any, data: bytes) -> bytes:
        out, size = c_void_p(), c_uint()
        code = function(self._conn, data, len(data), byref(out), byref(size))
        if code != OK:
            raise LayerError(f"SASL: {self.detail(code)}")
        return ctypes.string_at(out.value, size.value) if out.value and size.value else b""

    def _number(self, prop: int) -> int:
        value = c_void_p()
        self._check(self._lib.sasl_getprop(self._conn, prop, byref(value)), "cannot query SASL property")
        return ctypes.cast(value, POINTER(c_uint)).contents.value if value.value else 0

    def detail(self, code: int) -> str:
        """Give the library's words for its last failure."""
        raw: bytes | None = self._lib.sasl_errdetail(self._conn)
        return f"{code} ({(raw or b'').decode(errors='replace')})"

    def _check(self, code: int, what: str) -> None:
        if code != OK:
            raise AuthFailed(f"{what} {self.detail(code)}")

    def _output(self, out: c_void_p, size: c_uint) -> bytes | None:
        # A zero byte that is not counted stands behind it; None and nothing are different answers.
        return ctypes.string_at(out.value, size.value) if out.value else None


class ServerExchange(Exchange):
    """The server's side."""

    def __init__(
        self,
        properties: Properties,
        *,
        local: str,
        remote: str,
        external_ssf: int = 0,
        config: Path | None = None,
    ) -> None:
        """local, remote: addresses as "ADDRESS;PORT", "" for a local socket."""
        made = library()
        made.init("server", config)
        conn = c_void_p()
        code = made.lib.sasl_server_new(
            SERVICE,
            None,
            None,
            local.encode() or None,
            remote.encode() or None,
            None,
            _SUCCESS_DATA,
            byref(conn),
        )
        if code != OK:
            raise AuthFailed(f"cannot create SASL server context {code}")
        super().__init__(conn, properties, external_ssf)

    def mechanisms(self) -> str:
        """Give the names of what can be used on this connection, comma-separated; raises AuthFailed."""
        names = c_char_p()
        code = self._lib.sasl_listmech(self._conn, None, b"", b",", b"", byref(names), None, None)
        self._check(code, "cannot list SASL mechanisms")
        return (names.value or b"").decode()

    def start(self, mechanism: str, data: bytes | None) -> tuple[bool, bytes | None]:
        """Take the client's first word: whether it is done, and the answer; raises AuthFailed."""
        out, size = c_void_p(), c_uint()
        name = mechanism.encode("utf-8", "surrogateescape")
        code = self._lib.sasl_server_start(self._conn, name, data, len(data or b""), byref(out), byref(size))
        return self._progress(code, out, size)

    def step(self, data: bytes | None) -> tuple[bool, bytes | None]:
        """Take the client's next word; as `start`."""
        out, size = c_void_p(), c_uint()
        code = self._lib.sasl_server_step(self._conn, data, len(data or b""), byref(out), byref(size))
        return self._progress(code, out, size)

    def _progress(self, code: int, out: c_void_p, size: c_uint) -> tuple[bool, bytes | None]:
        if code not in (OK, CONTINUE):
            raise AuthFailed(f"SASL negotiation failed: {self.detail(code)}")
        return code == OK, self._output(out, size)


class ClientExchange(Exchange):
    """The client's side. answer: gives what a mechanism asks for."""

    def __init__(
        self,
        hostname: str,
        properties: Properties,
        answer: Answer,
        *,
        local: str,
        remote: str,
        external_ssf: int,
    ) -> None:
        made = library()
        made.init("client")
        self._answer = answer
        self._kept: list[bytes] = []
        conn = c_void_p()
        code = made.lib.sasl_client_new(
            SERVICE,
            hostname.encode(),
            local.encode() or None,
            remote.encode() or None,
            made.callbacks,
            _SUCCESS_DATA,
            byref(conn),
        )
        if code != OK:
            raise AuthFailed(f"Failed to create SASL client context: {code}")
        super().__init__(conn, properties, external_ssf)

    def start(self, mechanisms: str) -> tuple[str, bool, bytes | None]:
        """Choose a mechanism: its name, whether we are done, the first word; raises AuthFailed."""
        asked, out, size, name = c_void_p(), c_void_p(), c_uint(), c_char_p()
        while True:
            code = self._lib.sasl_client_start(
                self._conn, mechanisms.encode(), byref(asked), byref(out), byref(size), byref(name)
            )
            if code != INTERACT:
                break
            self._interact(asked)
        if code not in (OK, CONTINUE):
            raise AuthFailed(f"Failed to start SASL negotiation: {self.detail(code)}")
        return (name.value or b"").decode(), code == OK, self._output(out, size)

    def step(self, data: bytes | None) -> tuple[bool, bytes | None]:
        """Take the server's word: whether we are done, and the next one; raises AuthFailed."""
        asked, out, size = c_void_p(), c_void_p(), c_uint()
        while True:
            code = self._lib.sasl_client_step(
                self._conn, data, len(data or b""), byref(asked), byref(out), byref(size)
            )
            if code != INTERACT:
                break
            self._interact(asked)
        if code not in (OK, CONTINUE):
            raise AuthFailed(f"Failed SASL step: {self.detail(code)}")
        return code == OK, self._output(out, size)

    def _interact(self, asked: c_void_p) -> None:
        """Answer what the mechanism wants to know; raises AuthFailed for what nobody knows."""
        at = ctypes.cast(asked, POINTER(_Interact))
        number = 0
        while (item := at[number]).id:
            number += 1
            default = (item.defresult or b"").decode(errors="replace")
            prompt = Prompt(
                NAMES.get(item.id, str(item.id)),
                (item.prompt or b"").decode(errors="replace"),
                default,
                item.id in (CB_PASS, CB_NOECHO),
            )
            value = self._answer(prompt)
            if value is None and item.id in (CB_USER, CB_REALM):
                # The same as who authenticates; the server's own realm.
                value = default
            if value is None:
                raise AuthFailed(f"Failed to make auth credentials: nobody knows the {prompt.name}")
            raw = value.encode("utf-8", "surrogateescape")
            self._kept.append(raw)
            item.result = ctypes.cast(c_char_p(raw), c_void_p)
            item.len = len(raw)


class SaslLayer:
    """What a mechanism puts around the bytes."""

    __slots__ = ("_exchange", "_size")

    def __init__(self, exchange: Exchange, size: int) -> None:
        self._exchange = exchange
        self._size = min(size, BUFFER) or BUFFER

    def wrap(self, data: bytes) -> bytes:
        """Give the packets for plain bytes."""
        size, encode = self._size, self._exchange.encode
        if len(data) <= size:
            return encode(data)
        return b"".join(encode(data[at : at + size]) for at in range(0, len(data), size))

    def unwrap(self, data: bytes) -> bytes:
        """Give the plain bytes of all packets that are complete; raises LayerError."""
        return self._exchange.decode(data)

    def pending(self) -> bytes:
        """Give nothing: the layer has no words of its own."""
        return b""

    def farewell(self) -> bytes:
        """Give nothing: the layer has no words of its own."""
        return b""


def to_wire(data: bytes | None) -> tuple[int, bytes]:
    """Give a word as the protocol carries it: whether it is none, and its bytes."""
    return (1, b"") if data is None else (0, data)


def from_wire(nil: int, data: bytes) -> bytes | None:
    """Read a word of the protocol."""
    return None if nil else data
