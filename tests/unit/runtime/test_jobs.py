"""Jobs: who waits for whom, and what is said to whoever waits too long."""

import asyncio

import pytest

from qvirt.errors import OperationTimeout
from qvirt.runtime.jobs import Job, JobQueue


def queue() -> JobQueue:
    return JobQueue(asyncio.get_running_loop().time)


def test_queries_share_and_a_change_is_alone() -> None:
    async def scenario() -> None:
        jobs = queue()
        order: list[str] = []
        go = asyncio.Event()

        async def work(kind: Job, name: str) -> None:
            async with jobs.hold(kind, name):
                order.append(f"+{name}")
                await go.wait()
                order.append(f"-{name}")

        async with asyncio.TaskGroup() as group:
            group.create_task(work(Job.QUERY, "a"))
            group.create_task(work(Job.QUERY, "b"))
            await asyncio.sleep(0)
            assert not jobs.busy
            group.create_task(work(Job.MODIFY, "m"))
            group.create_task(work(Job.QUERY, "late"))
            await asyncio.sleep(0)
            assert order == ["+a", "+b"]
            assert jobs.busy
            go.set()
        assert order == ["+a", "+b", "-a", "-b", "+m", "-m", "+late", "-late"]
        assert jobs.holder is None

    asyncio.run(scenario())


def test_whoever_waits_too_long_is_told_who_holds_it() -> None:
    async def scenario() -> None:
        jobs = queue()
        async with jobs.hold(Job.MODIFY, "suspend"):
            with pytest.raises(OperationTimeout) as caught:
                async with jobs.hold(Job.QUERY, "stats", wait=0.01):
                    raise AssertionError("not reached")
            assert caught.value.message.startswith(
                "Timed out during operation: cannot acquire state change lock (held by monitor=suspend)"
            )
        async with jobs.hold(Job.MODIFY, "after"):
            pass

    asyncio.run(scenario())


def test_a_waiter_that_gives_up_blocks_nobody() -> None:
    async def scenario() -> None:
        jobs = queue()

        async def wait(kind: Job) -> None:
            async with jobs.hold(kind, "waiter"):
                pass

        async with jobs.hold(Job.QUERY, "first"):
            change = asyncio.ensure_future(wait(Job.MODIFY))
            await asyncio.sleep(0)
            query = asyncio.ensure_future(wait(Job.QUERY))
            await asyncio.sleep(0)
            assert not query.done()
            change.cancel()
            await asyncio.wait_for(query, 1)
        assert jobs.holder is None

    asyncio.run(scenario())


def test_a_turn_that_comes_with_the_cancellation_is_given_back() -> None:
    async def scenario() -> None:
        jobs = queue()

        async def wait() -> None:
            async with jobs.hold(Job.MODIFY, "waiter"):
                await asyncio.sleep(10)

        async with jobs.hold(Job.MODIFY, "first"):
            waiter = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        async with jobs.hold(Job.MODIFY, "next", wait=1):
            pass

    asyncio.run(scenario())
