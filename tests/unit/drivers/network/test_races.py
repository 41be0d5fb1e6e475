"""Networks while several change them at once, and while the host does not do what it should."""

import asyncio
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qvirt.drivers.network import dnsmasq, ports, running
from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.network import Network, NetworkFolders, NetworkHost
from qvirt.errors import InternalError, NoNetworkPort, OperationFailed, QvirtError, SystemError_
from qvirt.host.persist import FileWorker
from qvirt.model.netdev import Bandwidth, Traffic
from qvirt.model.network import Network as Document

BRIDGED = "<network><name>n</name><forward mode='bridge'/><bridge name='br0'/></network>"
PORT = """<networkport><owner><name>v</name><uuid>11111111-2222-3333-4444-555555555555</uuid></owner>
<mac address='52:54:00:00:00:01'/></networkport>"""


def _folders(tmp_path: Path) -> NetworkFolders:
    folders = NetworkFolders(tmp_path / "etc", tmp_path / "run", tmp_path / "lib", tmp_path / "dnsmasq")
    for folder in (folders.definitions, folders.run, folders.lib, folders.dnsmasq):
        folder.mkdir()
    return folders


def test_a_port_that_is_deleted_while_somebody_waits_to_change_it(tmp_path: Path) -> None:
    async def main() -> None:
        files = FileWorker()
        host = NetworkHost(_folders(tmp_path), files, privileged=False)
        networks = Networks(host)
        network = await networks.create(BRIDGED)
        port = await networks.create_port(network, PORT, reclaim=False, validated=False)
        limits = Bandwidth(inbound=Traffic(average=5))
        done = await asyncio.gather(
            networks.delete_port(network, port),
            networks.set_port_bandwidth(network, port, limits),
            networks.delete_port(network, port),
            return_exceptions=True,
        )
        assert done[0] is None
        assert all(isinstance(error, NoNetworkPort) for error in done[1:])
        assert not network.ports
        assert not list(host.folders.ports("n").iterdir())
        await networks.destroy(network)
        await files.close()

    asyncio.run(main())


def test_what_cannot_be_swept_away_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise InternalError("dnsmasq does not end")

    async def main() -> None:
        files = FileWorker()
        host = NetworkHost(_folders(tmp_path), files, privileged=True)
        (host.folders.run / "half.begun").write_bytes(b"virbr\xff")
        (host.folders.run / "other.begun").write_bytes(b"virbr1")
        monkeypatch.setattr(running, "_remove", fail)
        networks = await Networks.open(host.folders, files, privileged=True, with_default=False)
        assert [report.split(":")[0] for report in networks.reports[:2]] == [
            f"network '{name}' was half started and cannot be taken away" for name in ("half", "other")
        ]
        await files.close()

    asyncio.run(main())


def test_port_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder")
    folders = NetworkFolders(tmp_path, tmp_path / "run", tmp_path, tmp_path)
    network = cast(Any, SimpleNamespace(name="n", host=SimpleNamespace(folders=folders)))
    with pytest.raises(SystemError_):
        ports.write_port(network, cast(Any, SimpleNamespace(uuid="u")))
    with pytest.raises(QvirtError):
        ports.erase_port(network, "u")


def test_a_number_that_is_another_process_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsmasq, "write_files", lambda *_: None)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        stranger = dnsmasq.Process(other.pid, 0)
        folders = _folders(tmp_path)
        dnsmasq.reload(folders, cast(Any, None), stranger)
        dnsmasq.stop(folders, "n", stranger)

        async def main() -> None:
            network = cast(Any, SimpleNamespace(name="n", live=None, lock=asyncio.Lock()))
            keeper = running.Keeper(network, stranger)
            assert keeper._fd is None
            assert keeper._task is not None
            await keeper._task

        asyncio.run(main())
        assert other.stdin is not None
        other.stdin.close()
        assert other.wait(10) == 0 != -signal.SIGHUP


def test_a_dnsmasq_that_lived_well_is_followed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that dies young makes the next one wait twice as long; one that dies old does not."""
    now = 1000.0
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(running, "_FIRST_PAUSE", 0.001)

    async def serve(*_: object) -> dnsmasq.Process:
        return dnsmasq.Process(2**22 + 1, 0)  # above the kernel's numbers: it is dead at once

    monkeypatch.setattr(running, "_serve", serve)

    async def main() -> None:
        nonlocal now
        network = cast(Any, SimpleNamespace(name="n", live=object(), lock=asyncio.Lock(), keeper=None))
        keeper = network.keeper = running.Keeper(network, await serve())
        for pause in (0.002, 0.004):
            assert keeper._task is not None
            await keeper._task
            assert keeper._pause == pause
        now += 61
        keeper._died()
        assert keeper._pause == 0.001
        keeper.close()

    asyncio.run(main())


def test_a_network_is_defined_anew_while_it_is_undefined_and_defined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for the old one must not bring it back beside the new one."""
    first, second = (f"1111111{n}-2222-3333-4444-555555555555" for n in (1, 2))

    def document(uuid: str) -> str:
        return BRIDGED.replace("</name>", f"</name><uuid>{uuid}</uuid>")

    async def main() -> None:
        files = FileWorker()
        networks = Networks(NetworkHost(_folders(tmp_path), files, privileged=False))
        network = await networks.define(document(first))
        claim, forget, waits = networks._claim, networks._forget, asyncio.Event()

        def claimed(document: Document) -> Network | None:
            waits.set()
            return claim(document)

        async def forgotten(gone: Network) -> None:
            await waits.wait()
            monkeypatch.setattr(networks, "_forget", forget)
            networks._remove(gone)
            await networks.define(document(second))
            await forget(gone)

        monkeypatch.setattr(networks, "_claim", claimed)
        monkeypatch.setattr(networks, "_forget", forgotten)
        done = await asyncio.gather(
            networks.undefine(network), networks.define(document(first)), return_exceptions=True
        )
        assert done[0] is None
        assert isinstance(done[1], OperationFailed)
        assert [each.uuid for each in networks] == [second]
        assert networks.by_name("n").uuid == second
        await files.close()

    asyncio.run(asyncio.wait_for(main(), 30))
