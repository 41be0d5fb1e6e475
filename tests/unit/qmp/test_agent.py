import asyncio
import json
from collections.abc import Coroutine

import pytest

from qvirt.errors import AgentUnresponsive, OperationTimeout, QvirtError
from qvirt.qmp import agent as agent_module
from qvirt.qmp.agent import GuestAgent
from qvirt.qmp.errors import AgentError, AgentTimeout
from tests.unit.qmp.peer import Peer


def run(main: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


def pair() -> tuple[Peer, GuestAgent]:
    peer = Peer()
    agent = GuestAgent(peer.near)
    return peer, agent


async def sync(peer: Peer) -> None:
    line = await peer.hear_line()
    assert line.startswith(b"\xff{")
    id = json.loads(line[1:])["arguments"]["id"]
    peer.say_bytes(b'\xff{"return": %d}\n' % id)


def test_a_command() -> None:
    async def main() -> None:
        peer, agent = pair()
        call = asyncio.create_task(agent.execute("guest-info", {"a": 1}))
        await sync(peer)
        assert await peer.hear() == {"execute": "guest-info", "arguments": {"a": 1}}
        peer.say({"return": {"version": "8"}})
        assert await call == {"version": "8"}
        agent.close()

    run(main())


def test_garbage_and_old_answers_are_skipped() -> None:
    async def main() -> None:
        peer, agent = pair()
        peer.say_bytes(b'login: {"return": 1}\n\x00\x01\n')
        call = asyncio.create_task(agent.execute("guest-ping"))
        peer.say_bytes(b'{"return": "old"}\n\xff{"return": 1}\nhalf a li')
        await sync(peer)
        await peer.hear()
        peer.say_bytes(b'no json\n{"return": {}}\n')
        assert await call == {}
        agent.close()

    run(main())


def test_silence_is_unresponsive_and_the_next_command_works() -> None:
    async def main() -> None:
        peer, agent = pair()
        agent.sync_deadline = 0.02
        with pytest.raises(
            AgentUnresponsive, match=r"^Guest agent is not responding: .* within 0.02 s"
        ) as caught:
            await agent.execute("guest-ping")
        assert not isinstance(caught.value, AgentTimeout)
        await peer.hear_line()
        agent.sync_deadline = 5
        call = asyncio.create_task(agent.execute("guest-ping"))
        await sync(peer)
        await peer.hear()
        peer.say({"return": {}})
        assert await call == {}
        agent.close()

    run(main())


def test_a_late_answer_does_not_reach_the_next_command() -> None:
    async def main() -> None:
        peer, agent = pair()
        call = asyncio.create_task(agent.execute("guest-fsfreeze-freeze", deadline=0.05))
        await sync(peer)
        await peer.hear()
        with pytest.raises(AgentTimeout, match=r"'guest-fsfreeze-freeze' within 0.05 s"):
            await call
        call = asyncio.create_task(agent.execute("guest-get-time"))
        peer.say({"return": 3})
        await sync(peer)
        await peer.hear()
        peer.say({"return": 7})
        assert await call == 7
        agent.close()

    run(main())


def test_commands_wait_their_turn() -> None:
    async def main() -> None:
        peer, agent = pair()
        calls = [asyncio.create_task(agent.execute(f"c{i}")) for i in range(3)]
        for i in range(3):
            await sync(peer)
            assert await peer.hear() == {"execute": f"c{i}"}
            assert not peer.buffer
            peer.say({"return": i})
        assert await asyncio.gather(*calls) == [0, 1, 2]
        agent.close()

    run(main())


def test_a_command_that_takes_for_ever_holds_up_others_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "TURN_DEADLINE", 0.05)

    async def main() -> None:
        peer, agent = pair()
        endless = asyncio.create_task(agent.execute("guest-wait", deadline=None))
        await sync(peer)
        await peer.hear()
        for work in (agent.execute("guest-ping"), agent.send("guest-shutdown")):
            with pytest.raises(OperationTimeout, match=r"\(held by agent=guest-wait\); waited 0.05 s"):
                await work
        peer.say({"return": 1})
        assert await endless == 1
        call = asyncio.create_task(agent.execute("guest-ping"))
        await sync(peer)
        await peer.hear()
        peer.say({"return": {}})
        assert await call == {}
        agent.close()

    run(main())


def test_refusal() -> None:
    async def main() -> None:
        peer, agent = pair()
        call = asyncio.create_task(agent.execute("guest-x"))
        await sync(peer)
        await peer.hear()
        peer.say({"error": {"class": "CommandNotFound", "desc": "The command guest-x has not been found"}})
        with pytest.raises(AgentError, match="unable to execute QEMU agent command 'guest-x': The command"):
            await call
        agent.close()

    run(main())


def test_end_of_the_channel() -> None:
    async def main() -> None:
        reasons: list[QvirtError] = []
        peer, agent = pair()
        agent.on_closed = reasons.append
        call = asyncio.create_task(agent.execute("guest-ping"))
        await sync(peer)
        await peer.hear()
        peer.close()
        with pytest.raises(AgentUnresponsive, match="disappeared while executing command"):
            await call
        assert len(reasons) == 1
        with pytest.raises(AgentUnresponsive, match="not connected"):
            await agent.execute("guest-ping")

    run(main())


def test_reset_frees_the_waiting_command() -> None:
    async def main() -> None:
        peer, agent = pair()
        call = asyncio.create_task(agent.execute("guest-ping"))
        await sync(peer)
        await peer.hear()
        agent.reset()
        with pytest.raises(AgentUnresponsive, match="disappeared"):
            await call
        assert not agent.is_closed
        agent.close()

    run(main())


def test_send_expects_no_answer() -> None:
    async def main() -> None:
        peer, agent = pair()
        call = asyncio.create_task(agent.send("guest-shutdown", {"mode": "powerdown"}))
        await sync(peer)
        await call
        assert (await peer.hear())["execute"] == "guest-shutdown"
        agent.close()

    run(main())
