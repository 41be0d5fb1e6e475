"""``<backend type='passt'>``: a user's guest, its ports forwarded, and no trace of passt afterwards."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.guests.machines import booted, linux_xml, write
from tests.support import users
from tests.support.daemon import Daemon, make_root, wait_until
from tests.support.guest import Guest
from tests.support.netns import Namespace, namespace

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed"),
]

CALL = """
import socket, time
caller = socket.create_connection(("198.18.7.2", 2222), 20)
time.sleep(60)
"""
MAC = "52:54:00:5a:55:7e"


@pytest.fixture
def outside() -> Iterator[Namespace]:
    """A network beyond the host's."""
    with namespace() as it:
        yield it


@pytest.fixture
def net(outside: Namespace) -> Iterator[Namespace]:
    """A network with a way out; passt gives its address to the guest."""
    with namespace() as it:
        it.cable("up0", outside, "up1")
        outside.ip("addr", "add", "198.18.7.1/24", "dev", "up1")
        it.ip("addr", "add", "198.18.7.2/24", "dev", "up0")
        it.ip("route", "add", "default", "via", "198.18.7.1")
        yield it


@pytest.fixture
def users_daemon(net: Namespace) -> Iterator[Daemon]:
    """A daemon that runs as an ordinary user."""
    with users.users_daemon(prefix=net.prefix) as daemon:
        yield daemon.start()


def interface(*inside: str, backend: str = "<backend type='passt'/>") -> str:
    return (
        f"<interface type='user'><mac address='{MAC}'/><model type='virtio'/>{backend}"
        f"{''.join(inside)}</interface>"
    )


def passts(root: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"passt") and str(root).encode() in words:
            found.append(int(folder.name))
    return found


def traces(root: Path) -> list[Path]:
    return [path for path in (root / "run/libvirt/qemu/passt").glob("*")]


def test_a_port_is_forwarded_to_a_users_guest(users_daemon: Daemon, outside: Namespace, linux: Guest) -> None:
    daemon = users_daemon
    forward = "<portForward proto='tcp' address='198.18.7.2'><range start='2222' to='22'/></portForward>"
    with booted(daemon, "mine", linux_xml(linux, "mine", interface(forward))) as guest:
        assert "<backend type='passt'/>" in daemon.virsh("dumpxml", "mine")
        wait_until(lambda: "198.18.7.2" in guest.ask("ip addr show eth0"), "the guest has its address")
        guest.ask("(nc -l -p 22 < /dev/ttyS1) &")
        wait_until(lambda: ":22 " in guest.ask("netstat -tln"), "the guest listens")
        with outside.start(sys.executable, "-c", CALL):
            wait_until(
                lambda: re.search(r"198.18.7.2:22 +\S*198.18.7.1:\d+", guest.ask("netstat -tn")),
                "the guest sees a connection to the forwarded port",
            )
        assert len(passts(daemon.root)) == 1
        daemon.kill()
        daemon.start()
        assert "mine" in daemon.virsh("list", "--name")
        assert len(passts(daemon.root)) == 1
    wait_until(lambda: not passts(daemon.root), "passt ends with its guest")
    assert not traces(daemon.root)


def test_what_goes_wrong_with_passt_leaves_nothing(users_daemon: Daemon, linux: Guest) -> None:
    daemon = users_daemon
    for text, message in (
        (linux_xml(linux, "w", interface("<source dev='no-such-dev'/>")), "Could not start 'passt'"),
        (
            linux_xml(linux, "w", interface()).replace(
                "<devices>",
                "<devices><disk type='file'>"
                "<source file='/no-such-image'/><target dev='vda' bus='virtio'/></disk>",
            ),
            "/no-such-image",
        ),
        (
            linux_xml(linux, "w", interface()).replace(
                "</domain>",
                "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
                "<qemu:arg value='-no-such-switch'/></qemu:commandline></domain>",
            ),
            "no-such-switch",
        ),
    ):
        refused = daemon.virsh_run("create", write(daemon, "w", text))
        assert message in refused.stderr
        wait_until(lambda: not passts(daemon.root), "no passt stays")
        assert not traces(daemon.root)
    assert (
        "can only be used with"
        in daemon.virsh_run(
            "define",
            write(daemon, "w", linux_xml(linux, "w", interface("<portForward proto='tcp'/>", backend=""))),
        ).stderr
    )


def test_a_user_has_no_networks_and_is_told_what_there_is(users_daemon: Daemon, linux: Guest) -> None:
    daemon = users_daemon
    plugged = "<interface type='network'><source network='default'/></interface>"
    refused = daemon.virsh_run("create", write(daemon, "w", linux_xml(linux, "w", plugged)))
    assert "Network not found: no network with matching name 'default'" in refused.stderr
    assert "<interface type='user'>" in refused.stderr
    text = (
        "<network><name>users</name><bridge name='qvtusers'/><ip address='10.79.1.1' prefix='24'/></network>"
    )
    daemon.virsh("net-define", write(daemon, "users", text))
    refused = daemon.virsh_run("net-start", "users")
    assert "only a privileged daemon can make" in refused.stderr
    daemon.virsh("net-undefine", "users")


def test_root_has_passt_too(net: Namespace, linux: Guest) -> None:
    daemon = Daemon(make_root(), prefix=net.prefix)
    try:
        daemon.start()
        with booted(daemon, "roots", linux_xml(linux, "roots", interface())) as guest:
            wait_until(lambda: "198.18.7.2" in guest.ask("ip addr show eth0"), "the guest has its address")
            (pid,) = passts(daemon.root)
            assert os.stat(f"/proc/{pid}").st_uid != 0
        wait_until(lambda: not passts(daemon.root), "passt ends with its guest")
        assert not traces(daemon.root)
    finally:
        daemon.clean()
