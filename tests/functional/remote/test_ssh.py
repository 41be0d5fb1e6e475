"""Connections by ssh: with the helper and with netcat, all on one connection, and what goes wrong."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.client.aio import Connection
from qvirt.errors import InvalidArg, NoSupport, QvirtError, SystemError_
from tests.support import sshd
from tests.support.carried import carry_all
from tests.support.daemon import Daemon, running_daemon, virsh, wait_until
from tests.support.sshd import Sshd, our_helper, running_sshd
from tests.wire.guests import guest_xml

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(sshd.missing() is not None, reason=str(sshd.missing())),
]
netcat = pytest.mark.skipif(shutil.which("nc") is None, reason="netcat-openbsd is not installed")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon("--verbose") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def host(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    sockets = daemon.root / "run/libvirt"
    with running_sshd(tmp_path_factory.mktemp("sshd"), sockets, our_helper()) as host:
        yield host


@pytest.fixture(scope="module")
def bare_host(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd"), daemon.root / "run/libvirt", None) as host:
        yield host


async def ask(uri: str, **options: object) -> str:
    async with asyncio.timeout(60), await Connection.open(uri, **options) as connection:  # type: ignore[arg-type]
        return await connection.type()


WAYS = [
    "",
    "&proxy=native",
    pytest.param("&proxy=netcat", marks=netcat),
    pytest.param("&netcat=nc", marks=netcat),
]


@pytest.mark.parametrize("more", WAYS)
def test_there_and_back(host: Sshd, more: str) -> None:
    done = virsh(host.uri(more=more), "list", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert asyncio.run(ask(host.uri(more=more))) == "QEMU"


@netcat
def test_a_host_without_the_helper(bare_host: Sshd) -> None:
    assert virsh(bare_host.uri(), "uri").returncode == 0
    assert asyncio.run(ask(bare_host.uri())) == "QEMU"
    with pytest.raises(SystemError_, match=r"virt-ssh-helper.*not found.*Connection reset by peer"):
        asyncio.run(ask(bare_host.uri(more="&proxy=native")))


@netcat
def test_a_socket_of_another_name(host: Sshd, daemon: Daemon) -> None:
    more = f"&socket={daemon.socket}"
    assert virsh(host.uri(more=more), "uri").returncode == 0
    assert asyncio.run(ask(host.uri(more=more))) == "QEMU"


@pytest.mark.parametrize("more", ["&proxy=native", pytest.param("&proxy=netcat", marks=netcat)])
def test_reading_only(host: Sshd, more: str) -> None:
    done = subprocess.run(
        ["virsh", "-q", "-r", "-c", host.uri(more=more), "define", "/dev/stdin"],
        input=guest_xml("never"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "read only access prevents virDomainDefineXML" in done.stderr

    async def work() -> None:
        async with await Connection.open(host.uri(more=more), readonly=True) as connection:
            with pytest.raises(QvirtError, match="read only access prevents virDomainDefineXML"):
                await connection.define_xml(guest_xml("never"))

    asyncio.run(work())


@pytest.mark.qemu
def test_one_connection_carries_all(host: Sshd) -> None:
    calls = host.folder / "calls"
    calls.write_text("")
    asyncio.run(carry_all(host.uri()))
    assert len(calls.read_text().splitlines()) == 1


def test_nothing_is_left_behind(host: Sshd, daemon: Daemon) -> None:
    def ours() -> list[str]:
        done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
        return [
            line for line in done.stdout.splitlines() if str(host.folder) in line and "/usr/bin/ssh" in line
        ]

    async def work() -> None:
        connections = [await Connection.open(host.uri()) for _ in range(3)]
        assert len(ours()) == 3
        for connection in connections:
            await connection.close()

    asyncio.run(work())
    wait_until(lambda: not ours(), "ssh has ended")


def test_the_words_of_ssh_are_in_the_error(host: Sshd, tmp_path: Path) -> None:
    keyless = host.uri(more=f"&keyfile={tmp_path}/none", host=f"127.0.0.1:{host.port}")
    words = r"(?s)Cannot recv data: .*Permission denied.*: Connection reset by peer"
    with pytest.raises(SystemError_, match=words):
        asyncio.run(ask(keyless))
    unknown = tmp_path / "ssh"
    unknown.write_text(f'#!/bin/sh\nexec {host.ssh} -o UserKnownHostsFile=/dev/null "$@"\n')
    unknown.chmod(0o700)
    uri = host.uri().replace(str(host.ssh), str(unknown))
    with pytest.raises(SystemError_, match=r"Host key verification failed\."):
        asyncio.run(ask(uri))
    assert "Host key verification failed." in virsh(uri, "uri").stderr
    assert asyncio.run(ask(f"{uri}&no_verify=1")) == "QEMU"
    with pytest.raises(SystemError_, match=r"Cannot run '/no/such/ssh': No such file or directory"):
        asyncio.run(ask("qemu+ssh://here/system?command=/no/such/ssh"))
    with pytest.raises(SystemError_, match=r"Could not resolve hostname"):
        asyncio.run(ask(host.uri(host="no-such-host.invalid")))


def test_a_daemon_that_is_not_there(host: Sshd) -> None:
    for more in ("&proxy=native", "&proxy=netcat"):
        with pytest.raises(SystemError_, match=r"/no/such/socket.*No such file|No such file"):
            asyncio.run(ask(host.uri(more=f"{more}&socket=/no/such/socket")))


def test_parameters_that_make_no_sense(host: Sshd) -> None:
    for more, kind, words in (
        ("&proxy=magic", InvalidArg, "proxy value 'magic'"),
        ("&proxy=native&netcat=nc", InvalidArg, "netcat path not valid with native"),
        ("&no_tty=x", InvalidArg, "no_tty"),
    ):
        with pytest.raises(kind, match=words):
            asyncio.run(ask(host.uri(more=more)))
    with pytest.raises(NoSupport, match="session instance without socket path"):
        asyncio.run(ask(host.uri("/session", "&proxy=netcat")))


def test_libssh_is_ssh_here(host: Sshd) -> None:
    uri = host.uri(more=f"&known_hosts={host.folder}/known&known_hosts_verify=normal&sshauth=agent,privkey")
    for transport in ("libssh", "libssh2"):
        assert asyncio.run(ask(uri.replace("+ssh", f"+{transport}"))) == "QEMU"
    with pytest.raises(InvalidArg, match="Invalid authentication method: 'magic'"):
        asyncio.run(ask(uri.replace("+ssh", "+libssh").replace("privkey", "magic")))
    with pytest.raises(InvalidArg, match="Invalid host key verification method 'maybe'"):
        asyncio.run(ask(uri.replace("+ssh", "+libssh").replace("normal", "maybe")))


def test_a_command_of_ones_own(daemon: Daemon, tmp_path: Path) -> None:
    command = tmp_path / "tunnel"
    command.write_text(f"#!/bin/sh\nexec {our_helper()} 'qemu:///system?socket={daemon.socket}'\n")
    command.chmod(0o700)
    uri = f"qemu+ext:///system?command={command}"
    assert virsh(uri, "uri").returncode == 0
    assert asyncio.run(ask(uri)) == "QEMU"
    with pytest.raises(InvalidArg, match="for 'ext' transport, command is required"):
        asyncio.run(ask("qemu+ext:///system"))
