"""Floors where ``tc`` fails half way: a stand-in keeps the classes it hears of, and fails when asked to."""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.network import Network, NetworkFolders, NetworkHost
from qvirt.errors import InternalError
from qvirt.host.persist import FileWorker
from qvirt.model.netdev import Bandwidth, Traffic
from qvirt.model.network import parse_network

NETWORK = """<network><name>n</name><uuid>11111111-2222-3333-4444-555555555556</uuid><bridge name='b'/>
<bandwidth><inbound average='1000'/></bandwidth></network>"""
PORT = """<networkport><uuid>11111111-2222-3333-4444-5555555555{0:02x}</uuid>
<owner><name>x</name><uuid>fc2c7b23-9eca-4323-af09-62ad94b06edb</uuid></owner>
<mac address='52:54:00:f2:00:{0:02x}'/><bandwidth><inbound floor='{1}'/></bandwidth></networkport>"""

#: a call that is to fail does its first line all the same, as tc would
TC = r"""#!/bin/sh
cd "$(dirname "$0")"
forced=; [ "$1" = -force ] && forced=yes
left=$(cat failures)
while read -r line; do
    echo "$line" >>log
    set -- $line
    case "$1 $2" in
    "class replace" | "class change") echo "${11}" >"classes/${8#1:}" ;;
    "class del") rm -f "classes/${6#1:}" ;;
    esac
    if [ -z "$forced" ] && [ "$left" -gt 0 ]; then
        echo $((left - 1)) >failures
        echo "out of memory" >&2
        exit 1
    fi
done
"""


class Host:
    """A network with floors, on a host whose ``tc`` is the stand-in. book, folder: where it notes things."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "classes").mkdir(parents=True)
        (folder / "tc").write_text(TC)
        (folder / "tc").chmod(0o755)
        (folder / "log").touch()
        (folder / "classes/2").write_text("1024000bps\n")
        self.fail(0)
        folders = NetworkFolders(*(folder / name for name in ("etc", "run", "lib", "dnsmasq")))
        for path in (folders.definitions, folders.run, folders.lib, folders.dnsmasq):
            path.mkdir()
        self.networks = Networks(NetworkHost(folders, FileWorker(), privileged=True))
        self.network = Network(self.networks.host, "n", "11111111-2222-3333-4444-555555555556")
        self.network.live = parse_network(NETWORK)

    def fail(self, times: int) -> None:
        """Let so many of the next calls fail, but for those of which every line may fail."""
        (self.folder / "failures").write_text(f"{times}\n")

    def classes(self) -> dict[int, int]:
        """Return what is guaranteed to each class, KiB a second."""
        return {
            int(path.name, 16): int(path.read_text().removesuffix("bps\n")) // 1024
            for path in (self.folder / "classes").iterdir()
        }

    def on_disk(self) -> list[str]:
        """Return the floors in the files of ports."""
        files = sorted(self.networks.host.folders.ports("n").glob("*.xml"))
        return [found for path in files for found in re.findall(r"floor='(\d+)'", path.read_text())]

    async def add(self, number: int, floor: int) -> None:
        await self.networks.create_port(
            self.network, PORT.format(number, floor), reclaim=False, validated=False
        )

    async def change(self, number: int, floor: int) -> None:
        port = self.networks.port(self.network, f"11111111-2222-3333-4444-5555555555{number:02x}")
        await self.networks.set_port_bandwidth(self.network, port, Bandwidth(inbound=Traffic(floor=floor)))

    async def remove(self, number: int) -> None:
        port = self.networks.port(self.network, f"11111111-2222-3333-4444-5555555555{number:02x}")
        await self.networks.delete_port(self.network, port)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "host")
    monkeypatch.setenv("PATH", f"{host.folder}:{os.environ['PATH']}")
    return host


def run(host: Host, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await host.add(1, 300)
        await host.add(2, 200)
        assert host.classes() == {2: 500, 3: 300, 4: 200}
        (host.folder / "log").write_text("")
        await work()
        await host.networks.host.files.close()

    asyncio.run(main())


CHANGES: list[Callable[[Host], Awaitable[None]]] = [
    lambda host: host.change(1, 400),
    lambda host: host.add(3, 100),
]


@pytest.mark.parametrize("attempt", CHANGES, ids=["change", "add"])
def test_what_fails_is_undone_at_once(host: Host, attempt: Callable[[Host], Awaitable[None]]) -> None:
    async def work() -> None:
        host.fail(1)
        with pytest.raises(InternalError, match="out of memory"):
            await attempt(host)
        assert host.classes() == {2: 500, 3: 300, 4: 200}
        assert host.on_disk() == ["300", "200"]
        assert [port.floor for port in host.network.ports.values()] == [300, 200]
        assert "1:4" not in (host.folder / "log").read_text().split()  # the other guest noticed nothing

    run(host, work)


@pytest.mark.parametrize("attempt", CHANGES, ids=["change", "add"])
def test_what_cannot_be_undone_is_said_and_done_later(
    host: Host, attempt: Callable[[Host], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        host.fail(2)
        with caplog.at_level(logging.ERROR), pytest.raises(InternalError, match="out of memory"):
            await attempt(host)
        assert "network 'n': bridge 'b' does not guarantee what its ports are promised" in caplog.text
        assert host.on_disk() == ["300", "200"]
        await host.change(2, 100)
        assert host.classes() == {2: 600, 3: 300, 4: 100}
        assert host.on_disk() == ["300", "100"]

    run(host, work)


def test_a_port_that_is_deleted_is_gone_whatever_the_bridge_does(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        host.fail(1)
        with caplog.at_level(logging.ERROR):
            await host.remove(1)
        assert "does not guarantee" in caplog.text
        assert host.on_disk() == ["200"]
        await host.add(4, 50)
        assert host.classes() == {2: 750, 3: 50, 4: 200}

    run(host, work)
