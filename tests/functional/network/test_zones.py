"""firewalld beside us: its command is a script that writes down what it is told, its table is made by nft."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.network.test_networks import create, document
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.root, pytest.mark.virsh]

#: it does not answer the first two times after it was started
COMMAND = """#!/bin/sh
echo "$*" >> {said}
case "$*" in
*--state) echo x >> {asked}; [ $(wc -l < {asked}) -gt 2 ];;
*=work*|*=libvirt*) ;;
*) echo INVALID_ZONE >&2; exit 112;;
esac
"""
#: a run folder of the daemon's own, in which firewalld's process is noted: any that lives
RUN = 'mount -t tmpfs t /run; echo $$ > /run/firewalld.pid; PATH="$0:$PATH" exec "$@"'


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture
def daemon(host: Namespace, tmp_path: Path) -> Iterator[Daemon]:
    command = tmp_path / "firewall-cmd"
    command.write_text(COMMAND.format(said=tmp_path / "said", asked=tmp_path / "asked"))
    command.chmod(0o755)
    with running_daemon(prefix=(*host.prefix, "sh", "-ec", RUN, str(tmp_path))) as it:
        yield it


def test_a_firewalld_that_begins_anew(daemon: Daemon, host: Namespace, tmp_path: Path) -> None:
    def orders() -> list[str]:
        return [
            line.removeprefix("-q ")
            for line in (tmp_path / "said").read_text().splitlines()
            if "zone" in line
        ]

    create(daemon, document("asks", 51).replace("'vb51'", "'vb51' zone='work'"))
    create(daemon, document("plain", 52, ""))
    entered = ["--zone=work --change-interface=vb51", "--zone=libvirt --change-interface=vb52"]
    assert orders() == entered
    said = create(daemon, document("lost", 53).replace("'vb53'", "'vb53' zone='nowhere'"), check=False)
    assert "INVALID_ZONE" in said
    assert "vb53" not in host.links()
    (tmp_path / "said").write_text("")
    host.run("nft", "add table inet firewalld; add chain inet firewalld filter_INPUT")
    wait_until(lambda: sorted(orders()) == sorted(entered), "both bridges are in their zones again")
    daemon.virsh("net-destroy", "asks")
    (tmp_path / "said").write_text("")
    host.run("nft", "delete table inet firewalld; add table inet firewalld")
    wait_until(lambda: orders() == entered[1:], "only what is there is put into its zone")
    daemon.virsh("net-destroy", "plain")
    assert host.links() == {"lo"}
