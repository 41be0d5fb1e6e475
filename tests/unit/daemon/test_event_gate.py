"""Events of a client that somebody decides about: in their order, and only what is still wanted."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from qvirt.api.events import EventHub, Message, Subscriptions
from qvirt.api.session import Identity
from qvirt.constants.domain_event import DomainEventID
from qvirt.daemon import guard as guard_module
from qvirt.daemon.guard import Guard
from qvirt.daemon.policy import Question
from qvirt.runtime.events import DomainRef, EventBus, Lifecycle, MonitorEvent

ONE = DomainRef("one", "11111111-1111-1111-1111-111111111111", 1)
TWO = DomainRef("two", "22222222-2222-2222-2222-222222222222", 2)


class SlowPolicy:
    """Answers when the test says; refuses what is about the second domain."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []

    def answer(self, who: Identity, question: Question) -> bool | None:
        return None

    async def allows(self, who: Identity, question: Question) -> bool:
        self.asked.append(question.attributes["domain_name"])
        await self.go.wait()
        return question.attributes["domain_name"] != "two"

    def reload(self) -> None:
        raise AssertionError("nobody asked for that")


class Listener:
    """What stands for a client: it keeps what it is sent."""

    def __init__(self, policy: SlowPolicy) -> None:
        self.bus = EventBus()
        self.hub = EventHub(self.bus)
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self.reason = ""
        self.sent: list[tuple[Any, int | None]] = []
        self.guard = Guard([policy], lambda _: None)
        self.subscriptions = Subscriptions(self.hub, self.guard.sink(cast(Any, self)))
        self.session = SimpleNamespace(
            identity=Identity(1, 2, 3), driver="QEMU", subscriptions=self.subscriptions, instance=None
        )

    def send_event(self, message: Message, callback_id: int | None) -> None:
        self.sent.append((message.values[0][0], callback_id))

    def close(self, reason: str) -> None:
        self.closed, self.reason = True, reason


def run(work: Callable[[SlowPolicy, Listener], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        policy = SlowPolicy()
        async with asyncio.timeout(10):
            listener = Listener(policy)
            await work(policy, listener)
            listener.guard.close()

    asyncio.run(main())


async def until(happened: Callable[[], object]) -> None:
    while not happened():  # noqa: ASYNC110 - the loop's other tasks make it happen
        await asyncio.sleep(0)


def test_events_keep_their_order_and_leave_out_what_is_refused() -> None:
    async def work(policy: SlowPolicy, client: Listener) -> None:
        number = client.subscriptions.register(DomainEventID.LIFECYCLE, None)
        own = client.subscriptions.register(DomainEventID.LIFECYCLE, ONE.uuid)
        for domain in (ONE, TWO, ONE):
            client.bus.publish(Lifecycle(domain, 2, 0))
        assert not client.sent
        policy.go.set()
        await until(lambda: len(client.sent) == 4)
        assert client.sent == [("one", number), ("one", own)] * 2
        # one question for each event, however many registrations it goes to
        assert policy.asked == ["one", "two", "one"]

    run(work)


def test_what_is_deregistered_while_it_is_decided_is_not_sent() -> None:
    async def work(policy: SlowPolicy, client: Listener) -> None:
        number = client.subscriptions.register(DomainEventID.LIFECYCLE, None)
        raw = client.subscriptions.register_raw(None, None, 0)
        client.bus.publish(Lifecycle(ONE, 2, 0))
        client.bus.publish(MonitorEvent(ONE, "STOP", 0, 0, None))
        await until(lambda: policy.asked)
        client.subscriptions.deregister(number)
        policy.go.set()
        await until(lambda: client.sent)
        assert client.sent == [("one", raw)]

    run(work)


def test_a_client_whose_events_are_not_decided_is_dropped() -> None:
    async def work(policy: SlowPolicy, client: Listener) -> None:
        client.subscriptions.register(DomainEventID.LIFECYCLE, None)
        for _ in range(guard_module.EVENTS_WAITING + 1):
            client.bus.publish(Lifecycle(ONE, 2, 0))
        await until(lambda: client.closed)
        assert client.reason == "its events are decided too slowly"
        policy.go.set()
        await asyncio.sleep(0)
        assert not client.sent

    run(work)


def test_nothing_waits_when_the_daemon_ends() -> None:
    async def work(policy: SlowPolicy, client: Listener) -> None:
        client.subscriptions.register(DomainEventID.LIFECYCLE, None)
        client.bus.publish(Lifecycle(ONE, 2, 0))
        await until(lambda: policy.asked)
        client.guard.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(work)
