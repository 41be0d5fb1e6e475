"""A user's guest in a bridge of the host's, by qemu-bridge-helper: what is allowed, what is said if not."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.guests.machines import write
from tests.functional.runtime.instance import document
from tests.support import users
from tests.support.daemon import Daemon, wait_until
from tests.support.netns import Namespace, namespace

HELPER = Path("/usr/lib/qemu/qemu-bridge-helper")
MAC = "52:54:00:5a:55:7f"

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(not HELPER.exists(), reason="qemu-bridge-helper is not installed"),
]

#: gives the program that follows an /etc with our file in it, which is where the helper looks, and a tun
#: device that is everybody's, as it is on most hosts
WITH_ETC = """
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/up,workdir=$1/work" /etc || exit
mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 || exit
shift
exec "$@"
"""


@pytest.fixture
def net() -> Iterator[Namespace]:
    """A network with two bridges."""
    with namespace() as it:
        for name in ("ours", "theirs"):
            it.ip("link", "add", name, "type", "bridge")
            it.ip("link", "set", name, "up")
        yield it


@pytest.fixture
def users_daemon(net: Namespace) -> Iterator[Daemon]:
    """A daemon of an ordinary user, with a helper that has root's power."""
    with tempfile.TemporaryDirectory(prefix="qvbr") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for made in ("up/qemu", "work"):
            (folder / made).mkdir(parents=True)
        (folder / "up/qemu/bridge.conf").write_text("allow ours\n")
        etc = ("unshare", "-m", "sh", "-c", WITH_ETC, "sh", name)
        if subprocess.run([*etc, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no overlay file system here")
        helper = folder / "qemu-bridge-helper"
        shutil.copy(HELPER, helper)
        helper.chmod(0o4755)
        settings = f'bridge_helper = "{helper}"\n'
        with users.users_daemon(prefix=(*net.prefix, *etc), settings=settings) as daemon:
            yield daemon.start()


def bridged(bridge: str, inside: str = "") -> str:
    return document(
        "bridged",
        f"<interface type='bridge'><mac address='{MAC}'/><source bridge='{bridge}'/>"
        f"<model type='virtio'/>{inside}"
        "</interface>",
    )


def test_a_users_guest_in_a_bridge(users_daemon: Daemon, net: Namespace) -> None:
    daemon = users_daemon
    daemon.virsh("create", write(daemon, "bridged", bridged("ours")))
    live = daemon.virsh("dumpxml", "bridged")
    tap = live.partition("<target dev='")[2].partition("'")[0]
    assert f" {tap}: " in net.ip("link", "show", "master", "ours")
    daemon.virsh("destroy", "bridged")
    wait_until(lambda: tap not in net.ip("link"), "the tap goes with its guest")

    refused = daemon.virsh_run("create", write(daemon, "bridged", bridged("theirs"))).stderr
    assert "failed to communicate with bridge helper: access denied by acl file" in refused
    assert "'allow theirs' in its bridge.conf" in refused
    refused = daemon.virsh_run("create", write(daemon, "b", bridged("ours", "<driver queues='2'/>"))).stderr
    assert "Multiqueue network is not supported with the bridge helper" in refused
    assert net.ip("link", "show", "master", "ours") == ""
    assert daemon.virsh("list", "--all", "--name").split() == []
