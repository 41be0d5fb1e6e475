"""What libvirtd 9.0 was seen to answer, word for word."""

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from qvirt.constants.error import ErrorDomain, ErrorNumber
from qvirt.errors import QvirtError
from qvirt.rpc import packet, protocol
from tests.unit.daemon.fakes import RawClient, running

LOOKUP = protocol.remote().by_name["DOMAIN_LOOKUP_BY_NAME"]
NOTHING = bytes(16)


def refusal(client: RawClient, reply: packet.Packet) -> tuple[int, int, str]:
    with pytest.raises(QvirtError) as caught:
        client.result(reply)
    return caught.value.code, caught.value.domain, caught.value.message


async def refused(client: RawClient, name: str, *arguments: Any, **options: Any) -> tuple[int, int, str]:
    await client.start(name, *arguments, **options)
    return refusal(client, await client.get())


def test_before_authentication_and_before_open(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect(ready=False) as client:
            answer = await refused(client, "CONNECT_OPEN", None, 0)
            assert answer == (39, 7, "authentication required")
            await client.call("AUTH_LIST")
            answer = await refused(client, "CONNECT_GET_LIB_VERSION")
            assert answer == (1, 7, "internal error: hypervisor connection not open")
            assert await client.call("CONNECT_SUPPORTS_FEATURE", 10) == (1,)
            await client.call("CONNECT_OPEN", None, 6)
            assert await client.call("CONNECT_GET_URI") == ("qemu:///system",)
            answer = await refused(client, "CONNECT_OPEN", None, 0)
            assert answer == (1, 7, "internal error: connection already open")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("xen:///", 5, "no connection driver available for xen:///"),
        ("qemu:///foo", 1, "internal error: unexpected qemu URI path '/foo', try qemu:///system"),
        (
            "secret:///session",
            1,
            "internal error: unexpected secret URI path '/session', try secret:///system",
        ),
    ],
)
def test_uris_nobody_takes(tmp_path: Path, uri: str, code: int, message: str) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect(ready=False) as client:
            await client.call("AUTH_LIST")
            assert await refused(client, "CONNECT_OPEN", uri, 0) == (code, 0, message)
            # The connection is still there to be opened.
            await client.call("CONNECT_OPEN", "qemu:///session?x=1", 0)
            assert await client.call("CONNECT_GET_URI") == ("qemu:///session?x=1",)

    asyncio.run(run())


def test_what_is_not_known(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            await client.send(packet.pack(0x12345678, 1, 1, packet.CALL, 7, packet.OK))
            reply = await client.get()
            assert (reply.program, reply.serial) == (0x12345678, 7)
            assert refusal(client, reply) == (39, 7, "Cannot find program 305419896 version 1")
            await client.send(packet.pack(protocol.REMOTE, 2, 1, packet.CALL, 8, packet.OK))
            assert refusal(client, await client.get()) == (39, 7, "Cannot find program 536903814 version 2")
            # A number of an event is no call, and a call nobody wrote is not there either: on the client's
            # side this exact sentence becomes "not supported".
            for number in (107, 9999, -1, protocol.remote().by_name["CONNECT_LIST_ALL_STORAGE_POOLS"].number):
                await client.send(packet.pack(protocol.REMOTE, 1, number, packet.CALL, 9, packet.OK))
                reply = await client.get()
                assert packet._ERROR.decode(reply.payload)[:3] == (39, 7, f"unknown procedure: {number}")
            await client.send(
                packet.pack(protocol.REMOTE, 1, LOOKUP.number, packet.CALL, 9, packet.OK, b"\0\0")
            )
            assert refusal(client, await client.get()) == (39, 7, "Unable to decode message payload")
            await client.send(packet.pack(protocol.REMOTE, 1, 157, packet.CALL, 9, packet.ERROR))
            assert refusal(client, await client.get())[:2] == (39, 7)
            await client.send(packet.pack(protocol.REMOTE, 1, 157, packet.REPLY, 9, packet.OK))
            assert refusal(client, await client.get())[:2] == (39, 7)
            # Trailing bytes are ignored, as libvirtd does.
            payload = LOOKUP.encode_args(("nobody",)) + b"rest"
            await client.send(
                packet.pack(protocol.REMOTE, 1, LOOKUP.number, packet.CALL, 9, packet.OK, payload)
            )
            sentence = "Domain not found: no domain with matching name 'nobody'"
            assert refusal(client, await client.get()) == (42, 10, sentence)

    asyncio.run(run())


def test_a_surprise_becomes_an_internal_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            domain = it.hypervisor.domains.add("one")
            dom = (await client.call("DOMAIN_LOOKUP_BY_NAME", "one"))[0]
            assert (dom.name, dom.id, dom.uuid.hex()) == ("one", -1, domain.uuid.replace("-", ""))
            answer = await refused(client, "DOMAIN_GET_OS_TYPE", dom)
            assert answer[:2] == (ErrorNumber.INTERNAL_ERROR, ErrorDomain.QEMU)
            assert "ZeroDivisionError" in answer[2]
            answer = await refused(client, "DOMAIN_IS_ACTIVE", ("one", NOTHING, -1))
            assert answer[0] == ErrorNumber.NO_DOMAIN
            assert answer[2].endswith("matching uuid '00000000-0000-0000-0000-000000000000' (one)")

    asyncio.run(run())
    assert "a mistake in the daemon" in caplog.text


def test_read_only_connections_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it:
            it.hypervisor.domains.add("one").gate.set()
            async with it.connect(readonly=True) as client:
                await checks(client)
            async with it.connect(ready=False) as client:
                await client.call("AUTH_LIST")
                await client.call("CONNECT_OPEN", "qemu:///system", 1)
                await checks(client)

    async def checks(client: RawClient) -> None:
        dom = (await client.call("DOMAIN_LOOKUP_BY_NAME", "one"))[0]
        assert await client.call("DOMAIN_IS_ACTIVE", dom) == (0,)
        await client.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 0, None)
        await client.call("DOMAIN_GET_XML_DESC", dom, 0)
        for name, arguments, sentence in (
            ("DOMAIN_DEFINE_XML_FLAGS", ("", 0), "read only access prevents virDomainDefineXMLFlags"),
            ("DOMAIN_GET_XML_DESC", (dom, 1), "virDomainGetXMLDesc with secure flag"),
            (
                "DOMAIN_INTERFACE_ADDRESSES",
                (dom, 1, 0),
                "read only access prevents virDomainInterfaceAddresses",
            ),
            ("DOMAIN_OPEN_CONSOLE", (dom, None, 0), "read only access prevents virDomainOpenConsole"),
            ("DOMAIN_GET_VCPUS_FLAGS", (dom, 8), "read only access prevents virDomainGetVcpusFlags"),
        ):
            assert await refused(client, name, *arguments) == (29, 20, f"operation forbidden: {sentence}")
        answer = await refused(client, "DOMAIN_MONITOR_COMMAND", dom, "x", 0, program=protocol.QEMU)
        assert answer == (
            29,
            20,
            "operation forbidden: read only access prevents virDomainQemuMonitorCommand",
        )

    asyncio.run(run())


def test_a_sub_drivers_connection_has_no_domains(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect(ready=False) as client:
            await client.call("AUTH_LIST")
            await client.call("CONNECT_OPEN", "network:///system", 0)
            assert await client.call("CONNECT_GET_TYPE") == ("network",)
            assert await client.call("CONNECT_IS_SECURE") == (1,)
            answer = await refused(client, "CONNECT_LIST_ALL_DOMAINS", 1, 0)
            sentence = "this function is not supported by the connection driver: virConnectListAllDomains"
            assert answer == (3, 20, sentence)

    asyncio.run(run())


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 3),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 33554437),
        struct.pack(">I", 1 << 20),
    ],
    ids=["4 GiB", "shorter than itself", "http", "over the limit", "too long for a stranger"],
)
def test_garbage_ends_the_connection_and_nothing_else(tmp_path: Path, garbage: bytes) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as other:
            async with it.connect(ready=False) as client:
                await client.send(garbage + bytes(24))
                assert await client.eof()
            assert await other.call("CONNECT_GET_LIB_VERSION") == (9000000,)

    asyncio.run(run())
