"""Daemon and QEMU are killed at every step; this machine's own confinement leaves nothing behind."""

import pytest

from tests.functional.runtime.instance import instance
from tests.support.walk import VICTIMS, Walk, learn, node_in_dev

pytestmark = [pytest.mark.qemu, pytest.mark.root]


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_at_every_step_leaves_what_was_before_or_after(victim: str) -> None:
    with instance() as it, node_in_dev(it):
        walk = Walk(it)
        learn(walk)
        walk.go(victim)
