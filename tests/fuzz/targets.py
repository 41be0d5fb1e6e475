"""One function for each thing that reads a stranger's bytes. It takes any bytes and raises nothing.

An exception that gets out, or an assertion, is what a fuzzer looks for. `tests/unit/rpc/test_fuzz.py` and
`tests/unit/net/test_fuzz.py` drive the same functions with what was found, and with some bytes of hypothesis.
"""

import asyncio
import atexit
import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from qvirt.client.session import Session
from qvirt.errors import AuthFailed, QvirtError, RpcError
from qvirt.net.layer import LayerError
from qvirt.net.sasl import (
    ClientExchange,
    Prompt,
    Properties,
    SaslLayer,
    ServerExchange,
    from_wire,
    to_wire,
)
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Framer, Packet
from qvirt.rpc.xdr import XdrStruct
from tests.support.sasl import PASSWORD, add_user, write_conf

Target = Callable[[bytes], None]

MECHANISMS: Final = ("DIGEST-MD5", "SCRAM-SHA-256", "PLAIN")
_LIMIT: Final = 4096
"""Bytes of a packet here, so that short inputs reach the limit's edges."""

_SOON: Final = 10.0
"""Seconds within which all ends that has no reason to wait."""


def packets(data: bytes) -> None:
    """The packet reader: in pieces or in one, the same packets come out; no more is held than is allowed."""
    how, data = (data[0], data[1:]) if data else (0, b"")
    step = (how >> 1) + 1
    whole, whole_error = _read(Framer(_LIMIT, carriers=bool(how & 1)), [data])
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    cut, cut_error = _read(Framer(_LIMIT, carriers=bool(how & 1)), pieces)
    # A reader that meets a bad length keeps to itself what came in the same bytes before it.
    assert whole == cut[: len(whole)]
    assert whole_error == cut_error
    assert whole_error or whole == cut
    for one in cut:
        for decode in (packet.decode_error, packet.decode_hole):
            with contextlib.suppress(RpcError):
                decode(one.payload)


def _read(framer: Framer, pieces: Sequence[bytes]) -> tuple[list[Packet], str]:
    found: list[Packet] = []
    try:
        for piece in pieces:
            found += framer.feed(piece)
            assert framer.pending < _LIMIT + packet.FDS_MAX + len(piece)
            assert framer.wanted > 0
    except RpcError as error:
        return found, str(error)
    return found, ""


def structures(data: bytes) -> None:
    """The XDR decoder: what it takes for a structure is one, which comes out of the encoder as it was."""
    structs = _structs()
    sample = structs[int.from_bytes(data[:2], "big") % len(structs)]
    try:
        value = sample.decode(data[2:])
    except RpcError:
        return
    again = sample.encode(value)
    assert sample.decode(again) == value
    assert len(again) <= len(data) - 2


@cache
def _structs() -> list[XdrStruct]:
    found: dict[int, XdrStruct] = {}
    for number in (protocol.REMOTE, protocol.QEMU, protocol.LXC, protocol.ADMIN):
        for procedure in protocol.program(number).by_number.values():
            for one in (procedure.args, procedure.ret, procedure.msg):
                if one is not None:
                    found[id(one)] = one
    return list(found.values())


class _Channel:
    """A transport whose other end nobody has."""

    is_local = is_secure = True
    passes_fds = False
    addresses = ("", "")
    cipher_bits = 0

    def start(self, received: object, lost: object) -> None: ...

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None: ...

    def close(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def put_on(self, layer: object) -> None: ...

    async def drain(self) -> None: ...

    async def wait_closed(self) -> None: ...


def session(data: bytes) -> None:
    """The client's session: whatever a daemon sends, calls are answered or fail, and nothing else happens."""
    step, data = (data[0] + 1, data[1:]) if data else (1, b"")

    async def main() -> None:
        link = Session(_Channel(), lambda message: None)
        remote = protocol.remote().by_name
        call = asyncio.ensure_future(link.call(remote["CONNECT_GET_HOSTNAME"]))
        await asyncio.sleep(0)
        handle = ("vm", bytes(16), 1)
        opening = asyncio.ensure_future(link.open_stream(remote["DOMAIN_OPEN_CONSOLE"], (handle, None, 0)))
        await asyncio.sleep(0)
        for at in range(0, len(data), step):
            if link.is_alive:
                link._received(data[at : at + step], [])
        link.close()
        for failing in (call, opening):
            async with asyncio.timeout(_SOON):
                with contextlib.suppress(QvirtError):
                    await failing

    asyncio.run(main())


@cache
def _passwords() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-sasl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    add_user(folder / "passwd.db", "fred", socket.gethostname())
    write_conf(folder, " ".join(MECHANISMS).lower(), folder / "passwd.db")
    return folder


def words(data: bytes) -> None:
    """SASL's words as a client may send them: nobody gets in by them."""
    how, data = (data[0], data[1:]) if data else (0, b"")
    server = ServerExchange(Properties.secured(), local="", remote="", config=_passwords())
    pieces = data.split(b"|||") if data else [b""]
    with contextlib.suppress(AuthFailed):
        complete, _ = server.start(MECHANISMS[how % len(MECHANISMS)], from_wire(how >> 7, pieces[0]))
        for piece in pieces[1:]:
            if complete:
                break
            complete, _ = server.step(from_wire(*to_wire(piece)))
        # The one way in is the password, which only PLAIN sends.
        assert not complete or PASSWORD.encode() in data


def layer(data: bytes) -> None:
    """SASL's layer: bytes that the peer's layer has not made never come out, in however many pieces."""
    step, data = (data[0] + 1, data[1:]) if data else (1, b"")
    ours = negotiated()[0]
    with contextlib.suppress(LayerError):
        for at in range(0, len(data), step):
            assert ours.unwrap(data[at : at + step]) == b""


def negotiated() -> tuple[SaslLayer, SaslLayer]:
    """Give the layers of two ends that have just come to terms, the server's first."""
    answers = {"authname": "fred", "password": PASSWORD}

    def answer(prompt: Prompt) -> str | None:
        return answers.get(prompt.name)

    server = ServerExchange(Properties.bare(56), local="", remote="", config=_passwords())
    client = ClientExchange("localhost", Properties.bare(56), answer, local="", remote="", external_ssf=0)
    name, done, first = client.start("DIGEST-MD5")
    complete, word = server.start(name, first)
    while not (complete and done):
        done, reply = client.step(word)
        if complete and done:
            break
        complete, word = server.step(reply)
    return server.layer(), client.layer()


def _call() -> bytes:
    remote = protocol.remote().by_name
    name = remote["DOMAIN_LOOKUP_BY_NAME"]
    return packet.pack_call(name, 0, name.encode_args(("vm",))) + packet.PING


def _replies() -> bytes:
    """Give what answers the two calls of `session`, with an event and data of the stream behind."""
    remote = protocol.remote().by_name
    hostname, console = remote["CONNECT_GET_HOSTNAME"], remote["DOMAIN_OPEN_CONSOLE"]
    first = Packet(hostname.program, 1, hostname.number, packet.CALL, 0, packet.OK, b"")
    second = Packet(console.program, 1, console.number, packet.CALL, 1, packet.OK, b"")
    return (
        packet.PING
        + packet.pack_reply(first, hostname.encode_ret(("host",)))
        + packet.pack_reply(second)
        + packet.pack_stream(second, packet.CONTINUE, b"data")
        + packet.pack_error_reply(second, RpcError("no"))
        + packet.pack_stream_error(second, RpcError("no"))
    )


def seeds(name: str) -> list[bytes]:
    """Give bytes that make sense to a target, to begin from."""
    if name == "packets":
        return [b"\x0f" + _call(), b"\xff" + _replies()]
    if name == "session":
        return [b"\xff" + _replies(), b"\x03" + _replies()]
    if name == "structures":
        structs = _structs()
        wanted = protocol.remote().by_name["DOMAIN_LOOKUP_BY_NAME"]
        assert wanted.args and wanted.ret  # noqa: PT018 - the table says so
        return [
            structs.index(wanted.args).to_bytes(2, "big") + wanted.encode_args(("vm",)),
            structs.index(wanted.ret).to_bytes(2, "big") + wanted.encode_ret((("vm", bytes(16), 1),)),
        ]
    if name == "layer":
        return [b"\xff" + negotiated()[1].wrap(b"hello")]
    return [b"\0|||username=x", b"\1n,,n=fred,r=abc|||c=biws,r=abc,p=AAAA", b"\2\0fred\0wrong"]


TARGETS: Final[dict[str, Target]] = {
    "packets": packets,
    "structures": structures,
    "session": session,
    "words": words,
    "layer": layer,
}
