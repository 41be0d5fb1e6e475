"""What of the host's /dev is in a guest's."""

import pytest

from qvirt.security.private_dev import outermost

_LINE = "{} {} 0:5 / {} rw,relatime shared:7 - tmpfs tmpfs rw"


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        (["1 0 /", "2 1 /dev", "3 2 /dev/pts", "4 2 /dev/shm", "5 1 /run"], ["/dev/pts", "/dev/shm"]),
        (["1 0 /", "2 1 /dev", "3 2 /dev/a\\040b", "4 3 /dev/a\\040b/c"], ["/dev/a b"]),
        (["1 0 /", "3 1 /dev/pts", "4 3 /dev/pts/x", "5 1 /devices/x"], ["/dev/pts"]),
        # another /dev over the first one hides what is mounted there
        (["1 0 /", "2 1 /dev", "3 2 /dev/shm", "4 2 /dev", "5 4 /dev/pts"], ["/dev/pts"]),
        (["1 0 /", "4 2 /dev", "5 4 /dev/pts", "2 1 /dev", "3 2 /dev/shm"], ["/dev/pts"]),
        # one over another
        (["1 0 /", "2 1 /dev", "3 2 /dev/shm", "4 3 /dev/shm"], ["/dev/shm"]),
    ],
)
def test_mounts_that_are_seen(mounts: list[str], found: list[str]) -> None:
    assert outermost("\n".join(_LINE.format(*line.split(" ", 2)) for line in mounts)) == found
