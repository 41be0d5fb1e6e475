"""Killed at steps of a guest's life under AppArmor. (`test_selinux` has the same.)

Emulated, each step takes seconds: `QVIRT_WALK=1` walks all of them, in some minutes; else every fourth is.
"""

import os

import pytest

from tests.support import testbed

pytestmark = [pytest.mark.qemu, pytest.mark.root]


def test_nothing_is_left_whatever_is_killed_when() -> None:
    stride = f"QVIRT_WALK={os.environ.get('QVIRT_WALK', '4')}"
    python = f"{testbed.ROOT}/.venv/bin/python"
    done = testbed.boot("apparmor", ["env", stride, python, "-m", "tests.inside.walk"])
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("walked: ") == 2
