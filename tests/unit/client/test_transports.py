"""Connecting, and starting the user's daemon."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from qvirt.client import transports
from qvirt.client.sockets import SocketChoice
from qvirt.client.transports import open_socket
from qvirt.errors import InternalError, SystemError_

DAEMON = """#!{python}
import os, socket, sys
assert sys.argv[1:] == ["--timeout=120"], sys.argv
with open("{directory}/starts", "a") as starts:
    starts.write(f"{{os.getpid()}}\\n")
listener = socket.socket(socket.AF_UNIX)
listener.bind("{directory}/sock")
listener.listen(100)
listener.settimeout(60)
kept = []
try:
    while True:
        kept.append(listener.accept())
except TimeoutError:
    pass
"""


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(
        SystemError_, match=r"Failed to connect socket to '.*/sock': No such file or directory"
    ) as caught:
        asyncio.run(open_socket(SocketChoice(str(tmp_path / "sock"))))
    assert (caught.value.errno, caught.value.domain) == (2, 7)


def test_nobody_listening(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
    with pytest.raises(SystemError_, match="Connection refused"):
        asyncio.run(open_socket(SocketChoice(str(tmp_path / "sock"))))


def test_no_daemon_to_start(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="VIRTD_PATH"):
        asyncio.run(open_socket(SocketChoice(str(tmp_path / "sock"), None, str(tmp_path / "lock"))))


def test_many_clients_start_one_daemon(tmp_path: Path) -> None:
    program = tmp_path / "daemon"
    program.write_text(DAEMON.format(python=sys.executable, directory=tmp_path))
    program.chmod(0o700)
    choice = SocketChoice(str(tmp_path / "sock"), str(program), str(tmp_path / "run/daemon.lock"))

    async def work() -> None:
        for sock in await asyncio.gather(*(open_socket(choice) for _ in range(5))):
            sock.close()

    try:
        asyncio.run(work())
        (started,) = (tmp_path / "starts").read_text().split()
    finally:
        if (tmp_path / "starts").exists():
            for pid in (tmp_path / "starts").read_text().split():
                os.kill(int(pid), signal.SIGTERM)
    assert started


def test_a_daemon_that_never_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "START_TIMEOUT", 0.2)
    choice = SocketChoice(str(tmp_path / "sock"), "/bin/true", str(tmp_path / "daemon.lock"))
    with pytest.raises(SystemError_, match="No such file or directory"):
        asyncio.run(open_socket(choice))
