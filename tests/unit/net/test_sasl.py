"""SASL by libsasl2, both sides in one process: words, layers, and whatever else may come."""

import contextlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvirt.errors import AuthFailed
from qvirt.net.layer import LayerError
from qvirt.net.sasl import (
    BUFFER,
    ClientExchange,
    Prompt,
    Properties,
    SaslLayer,
    ServerExchange,
    from_wire,
    to_wire,
)
from tests.support.sasl import PASSWORD, add_user, write_conf

pytestmark = pytest.mark.skipif(shutil.which("saslpasswd2") is None, reason="sasl2-bin is not installed")

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sasl")
    add_user(folder / "passwd.db", "fred", socket.gethostname())
    write_conf(folder, "digest-md5 scram-sha-256 plain", folder / "passwd.db")
    return folder


def answer(prompt: Prompt) -> str | None:
    return {"authname": "fred", "password": PASSWORD}.get(prompt.name)


def ends(
    config: Path, properties: Properties, answers: Callable[[Prompt], str | None] = answer
) -> tuple[ServerExchange, ClientExchange]:
    server = ServerExchange(properties, local="", remote="", config=config)
    client = ClientExchange("localhost", properties, answers, local="", remote="", external_ssf=0)
    return server, client


def talk(server: ServerExchange, client: ClientExchange, mechanism: str) -> None:
    name, _, first = client.start(mechanism)
    complete, word = server.start(name, first)
    for _ in range(10):
        done, reply = client.step(word)
        if complete and done:
            return
        complete, word = server.step(reply)
    raise AssertionError("no end")


def layers(config: Path) -> tuple[SaslLayer, SaslLayer]:
    server, client = ends(config, Properties.bare(56))
    talk(server, client, "DIGEST-MD5")
    assert (server.username, server.ssf, client.ssf) == ("fred", 128, 128)
    return server.layer(), client.layer()


@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "SCRAM-SHA-256"])
def test_without_a_layer(config: Path, mechanism: str) -> None:
    server, client = ends(config, Properties.secured())
    assert mechanism in server.mechanisms().split(",")
    talk(server, client, mechanism)
    assert (server.username, server.ssf) == ("fred", 0)


def test_what_is_offered_where_anybody_listens(config: Path) -> None:
    server, _ = ends(config, Properties.bare(56))
    assert server.mechanisms() == "DIGEST-MD5"
    server, _ = ends(config, Properties.bare(256))
    assert server.mechanisms() == ""


def test_a_wrong_password(config: Path) -> None:
    server, client = ends(config, Properties.secured(), lambda prompt: "wrong" if prompt.secret else "fred")
    with pytest.raises(AuthFailed, match="SASL negotiation failed"):
        talk(server, client, "SCRAM-SHA-256")


def test_nobody_knows(config: Path) -> None:
    _, client = ends(config, Properties.secured(), lambda _: None)
    with pytest.raises(AuthFailed, match="nobody knows the"):
        client.start("PLAIN")


@FUZZ
@given(st.lists(st.integers(1, 3 * BUFFER), min_size=1, max_size=4), st.integers(1, 70000))
def test_what_goes_in_comes_out(config: Path, sizes: list[int], step: int) -> None:
    server, client = layers(config)
    sent = [bytes([number & 255]) * size for number, size in enumerate(sizes)]
    stream = b"".join(client.wrap(data) for data in sent)
    got = b"".join(server.unwrap(stream[at : at + step]) for at in range(0, len(stream), step))
    assert got == b"".join(sent)
    assert client.unwrap(server.wrap(b"back")) == b"back"


@FUZZ
@given(st.binary(min_size=1, max_size=2000))
def test_garbage_is_never_taken_for_data(config: Path, garbage: bytes) -> None:
    server, _ = layers(config)
    plain = b""
    with contextlib.suppress(LayerError):
        plain = server.unwrap(garbage)
    assert plain == b""


@FUZZ
@given(
    st.sampled_from(["DIGEST-MD5", "SCRAM-SHA-256", "PLAIN"]),
    st.binary(max_size=2000),
    st.binary(max_size=2000),
)
def test_words_that_make_no_sense(config: Path, mechanism: str, first: bytes, second: bytes) -> None:
    server = ServerExchange(Properties.secured(), local="", remote="", config=config)
    complete = False
    with contextlib.suppress(AuthFailed):
        complete, _ = server.start(mechanism, first)
        complete, _ = server.step(second)
    assert not complete


@pytest.mark.parametrize("mechanism", ["", "\udcff", "PLAIN\udc80", "NO-SUCH", "x" * 5000])
def test_mechanisms_that_are_none(config: Path, mechanism: str) -> None:
    server = ServerExchange(Properties.secured(), local="", remote="", config=config)
    with pytest.raises(AuthFailed):
        server.start(mechanism, None)


def test_words_on_the_wire() -> None:
    for word in (None, b"", b"\xff\0"):
        assert from_wire(*to_wire(word)) == word
