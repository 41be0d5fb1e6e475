"""A client's socket, where the event loop tells less than there is to know."""

import asyncio
import socket

import pytest
import uvloop

from qvirt.daemon.channel import Channel


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("last", [b"", b"half a packet"])
def test_a_client_that_dies_with_something_unread_is_noticed(factory: object, last: bytes) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        heard: list[bytes] = []
        closed: asyncio.Future[str] = loop.create_future()
        channel = Channel(loop, near, heard.append, closed.set_result, lambda: None)
        channel.write(b"an answer that nobody reads")
        far.send(last)
        far.close()
        channel.resume_reading()  # so that both are told at once
        await asyncio.wait_for(closed, 10)
        assert b"".join(heard) == last
        assert channel.closed

    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(main())


def test_what_leads_to_a_mistake_of_ours_ends_the_connection() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mistakes: list[str] = []
        loop.set_exception_handler(lambda _, context: mistakes.append(repr(context["exception"])))
        near, far = socket.socketpair()
        heard: list[bytes] = []
        closed: asyncio.Future[str] = loop.create_future()

        def take(data: bytes) -> None:
            heard.append(data)
            raise ZeroDivisionError

        channel = Channel(loop, near, take, closed.set_result, lambda: None)
        channel.resume_reading()
        far.send(b"one")
        await asyncio.wait_for(closed, 10)
        assert heard == [b"one"]
        assert mistakes == ["ZeroDivisionError()"]
        assert far.recv(1) == b""
        far.close()

    asyncio.run(main())
