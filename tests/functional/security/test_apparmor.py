"""AppArmor for real: one boot of a machine that has it, and version 1 of control groups; all cases in it."""

from tests.support.testbed import run_inside


def test_guests_are_confined_by_apparmor() -> None:
    run_inside("apparmor", "tests/inside/apparmor.py", "--cgroup", "v1")
