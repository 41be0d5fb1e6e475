"""TLS in memory: two ends back to back, whatever the pieces their bytes come in."""

import contextlib
import ssl
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvirt.net.authority import Authority, write_pair
from qvirt.net.layer import LayerEnd, LayerError
from qvirt.net.tls import WELCOME, TlsLayer

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder: Path = tmp_path_factory.mktemp("pki")
    authority = Authority.create(folder, "An authority")
    write_pair(folder / "cert.pem", folder / "key.pem", *authority.issue("server", "localhost"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.num_tickets = 0
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(folder / "cacert.pem")
    return server, client


def pair(contexts: Contexts, name: str = "localhost") -> tuple[TlsLayer, TlsLayer]:
    server = TlsLayer(contexts[0], lambda _: WELCOME, server_side=True)
    return server, TlsLayer(contexts[1], lambda _: b"", server_side=False, hostname=name)


def shake_hands(server: TlsLayer, client: TlsLayer, size: int = 1 << 20) -> bytes:
    """Carry bytes in pieces of this size until the welcome is there; gives it."""
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            data = one.pending()
            for at in range(0, len(data), size):
                plain = other.unwrap(data[at : at + size])
                if plain:
                    return plain
    raise AssertionError("no welcome")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_the_welcome_is_the_first_data(contexts: Contexts, size: int) -> None:
    server, client = pair(contexts)
    assert shake_hands(server, client, size) == WELCOME
    assert server.established
    assert client.established


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 70000), max_size=6), st.integers(1, 40000))
def test_what_goes_in_comes_out(contexts: Contexts, sizes: list[int], step: int) -> None:
    server, client = pair(contexts)
    shake_hands(server, client)
    sent = [bytes([number & 255]) * size for number, size in enumerate(sizes)]
    stream = b"".join(client.wrap(data) for data in sent if data)
    got = b"".join(server.unwrap(stream[at : at + step]) for at in range(0, len(stream), step))
    assert got == b"".join(sent)


def test_a_farewell_is_no_error_and_loses_nothing(contexts: Contexts) -> None:
    server, client = pair(contexts)
    shake_hands(server, client)
    assert server.unwrap(client.wrap(b"last words") + client.farewell()) == b"last words"
    with pytest.raises(LayerEnd):
        server.unwrap(b"")


def test_a_client_that_trusts_nobody_is_told_by_the_end(contexts: Contexts) -> None:
    server, client = pair(contexts, "another")
    client_hello = client.pending()
    server.unwrap(client_hello)
    with pytest.raises(LayerError, match=r"certificate verification failed: Hostname mismatch"):
        client.unwrap(server.pending())
    assert client.pending() == b""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=3000))
def test_garbage_before_the_handshake(contexts: Contexts, garbage: bytes) -> None:
    server, _ = pair(contexts)
    plain = b""
    with contextlib.suppress(LayerError):
        plain = server.unwrap(garbage)
    assert plain == b""
    assert not server.established


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=3000))
def test_garbage_behind_the_handshake(contexts: Contexts, garbage: bytes) -> None:
    server, client = pair(contexts)
    shake_hands(server, client)
    plain = b""
    with contextlib.suppress(LayerError, LayerEnd):
        plain = server.unwrap(garbage)
    assert plain == b"", "it is never taken for data"


def test_a_mistake_while_somebody_is_let_in_lets_nobody_in(contexts: Contexts) -> None:
    def mistake(_: ssl.SSLObject) -> bytes:
        raise ZeroDivisionError

    server = TlsLayer(contexts[0], mistake, server_side=True)
    client = TlsLayer(contexts[1], lambda _: b"", server_side=False, hostname="localhost")
    with pytest.raises(ZeroDivisionError):
        shake_hands(server, client)
    assert not server.established
    with pytest.raises(ZeroDivisionError):
        server.unwrap(client.wrap(b"a call"))
