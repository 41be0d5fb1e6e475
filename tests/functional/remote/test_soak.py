"""Clients that came and went leave nothing behind; `bench/soak.py` is the long form."""

import asyncio
from pathlib import Path

import pytest

from bench.soak import WAYS, Held, Watched, come_and_go
from tests.support.daemon import wait_until
from tests.support.remote import Port

FEW = 60
MANY = 240


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(tmp_path: Path, way: str) -> None:
    with Port() as tls, Port() as tcp:
        daemon = Watched(tmp_path, tls.number, tcp.number)
        try:
            daemon.start()
            # What the first ones bring is kept for all.
            asyncio.run(come_and_go(daemon, way, FEW))
            before = daemon.held()
            asyncio.run(come_and_go(daemon, way, MANY))
            # The last of them may be about to go.
            wait_until(lambda: not left(before, daemon.held()), f"nothing is left of those by {way}")
        finally:
            daemon.close()


def left(before: Held, after: Held) -> bool:
    """Tell whether one thing of every second client is there, or a buffer of each."""
    return (
        after.descriptors > before.descriptors
        or after.tasks > before.tasks
        or after.objects - before.objects > MANY / 2
        or after.memory - before.memory > MANY / 20
    )
