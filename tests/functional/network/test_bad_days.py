"""Networks on hosts that lack something, stand in the way, or lose their daemon at any step."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.network.test_networks import create, document
from tests.support.daemon import Daemon, make_root, running_daemon, wait_until
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.root, pytest.mark.virsh]
PROJECT = Path(__file__).parents[3]


def step(net: Namespace, root: Path, what: str, fatal: int = -1) -> Any:
    """Let a daemon of its own do something; None when it was killed on the way."""
    done = net.run(
        *("env", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "tests.functional.network.dying"),
        *(str(root), what, str(fatal)),
        check=False,
    )
    assert done.returncode in (0, -9, 137), done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def left(net: Namespace, root: Path) -> list[str]:
    """Return what there is of a network: devices, rules, processes, files of a run."""
    found = sorted(net.links() - {"lo"})
    found += ["rules"] if "vbdying" in net.run("nft", "list", "ruleset").stdout else []
    found += ["dnsmasq"] if net.run("pgrep", "-f", f"conf-file={root}", check=False).stdout else []
    return found + sorted(path.name for path in (root / "run").iterdir() if path.is_file())


def test_a_daemon_killed_at_any_step_of_a_start_or_stop() -> None:
    root = make_root()
    complete = ["vbdying", "rules", "dnsmasq", "dying.begun", "dying.pid", "dying.xml"]
    try:
        with namespace() as net:
            got_through = {"start": 0, "stop": 0}
            for what in ("start", "stop"):
                for fatal in range(12):
                    steps = step(net, root, what, fatal)
                    active = step(net, root, "look")["active"]
                    assert left(net, root) == (complete if active else []), f"{what}, step {fatal}"
                    if steps is not None:
                        assert active == (what == "start")
                        got_through[what] = len(steps)
                        break
                    if (what == "start" and active) or (what == "stop" and not active):
                        # it was all done but the last word; set the stage for the next step
                        step(net, root, "stop" if active else "start")
            assert got_through == {"start": 4, "stop": 4}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def without(net: Namespace, *programs: str) -> tuple[str, ...]:
    """Return the words that run a command in a namespace whose host has not some programs."""
    hide = "; ".join(
        f"mount --bind /dev/null {path}" for name in programs if (path := shutil.which(name)) is not None
    )
    return (
        *net.prefix,
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        f'{hide}; exec "$@"',
        "-",
    )


@pytest.mark.parametrize(
    ("program", "text", "says"),
    [
        ("dnsmasq", document("bad", 31), "install the package dnsmasq-base"),
        ("nft", document("bad", 31), "the program 'nft' is not installed"),
    ],
)
def test_a_program_is_missing(program: str, text: str, says: str) -> None:
    with namespace() as net, running_daemon(prefix=without(net, program)) as daemon:
        assert says in create(daemon, text, check=False)
        assert net.links() == {"lo"}
        assert "qvirt_network" not in net.run("nft", "list", "ruleset").stdout
        assert not [path for path in daemon.root.rglob("bad*") if path.suffix != ".log"]
        # what needs it not goes on
        if program == "nft":
            create(daemon, document("alone", 32, ""))
            assert "vb32" in net.links()
            daemon.virsh("net-destroy", "alone")
            assert net.links() == {"lo"}


def test_a_daemon_killed_at_any_step_of_an_update() -> None:
    """What dnsmasq was told is what the document says, old or new; and each document is whole."""
    root = make_root()
    before, after = ["10.78.1.10"], ["10.78.1.10", "10.78.1.110"]
    try:
        with namespace() as net:
            for fatal in range(8):
                step(net, root, "start")
                steps = step(net, root, "update", fatal)
                seen = step(net, root, "look")
                definition, live = seen["ranges"]
                assert seen["active"]
                assert definition in (before, after), f"step {fatal}"
                assert live in (before, after), f"step {fatal}"
                told = (root / "dnsmasq/dying.conf").read_text()
                assert ("dhcp-range=10.78.1.110" in told) == (live == after), f"step {fatal}"
                pid = int((root / "run/dying.pid").read_text())
                assert _answers(pid, root), f"step {fatal}"
                step(net, root, "stop")
                assert left(net, root) == [], f"step {fatal}"
                if steps is not None:
                    assert definition == live == after
                    assert len(steps) == 4
                    break
                assert fatal < 4, "it never gets through"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _answers(pid: int, root: Path) -> bool:
    return str(root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


#: hosts whose own rules let nothing through and nothing in
DROPPING = {
    "nft": (
        "nft add table ip filter",
        "nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        "nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'",
    ),
    "iptables-nft": (
        "iptables-nft -P FORWARD DROP; iptables-nft -P INPUT DROP",
        "iptables-nft -N USER; iptables-nft -A FORWARD -j USER; iptables-nft -A USER -i eth9 -j ACCEPT",
    ),
    "iptables-legacy": (
        "iptables-legacy -P FORWARD DROP; iptables-legacy -P INPUT DROP",
        "iptables-legacy -A INPUT -i lo -j ACCEPT",
    ),
}


@pytest.mark.parametrize("kind", DROPPING)
def test_a_firewall_in_the_way_is_named_at_start(kind: str) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"there is no {kind}")
    with namespace() as net, running_daemon(prefix=net.prefix) as daemon:
        for command in DROPPING[kind]:
            net.run("sh", "-ec", command)

        def named(name: str) -> list[tuple[str, str]]:
            line = rf"network '{name}': the host's own chain '(.*)' drops .*; to let it .*?: (.*)"
            return [(found[1], found[2]) for found in re.finditer(line, log())]

        def log() -> str:
            return daemon.log.read_text()

        create(daemon, document("dropped", 33))
        wait_until(lambda: len(named("dropped")) == 2, "both chains and rules are in the log")
        assert all("INPUT" in where or "FORWARD" in where for where, _ in named("dropped"))
        if kind == "nft":
            assert "no lease" in doctor(net, daemon, "dropped")
        for _, remedy in named("dropped"):
            net.run("sh", "-ec", remedy)
        assert "lease of 10.77.33." in doctor(net, daemon, "dropped")
        # whoever has no obstacles is not told of any; the next one's are told after
        create(daemon, document("dropped-too", 34))
        daemon.virsh("net-destroy", "dropped")
        create(daemon, document("dropped", 33))
        create(daemon, document("last", 35))
        wait_until(lambda: len(named("last")) == 2, "the last one's obstacles are in the log")
        assert len(named("dropped")) == 2
        for name in ("dropped", "dropped-too", "last"):
            daemon.virsh("net-destroy", name)


def doctor(net: Namespace, daemon: Daemon, network: str) -> str:
    words = (sys.executable, "-m", "qvirt.cli.main", "-c", daemon.uri, "net", "doctor", network)
    return net.run(*words, check=False).stdout


def test_many_at_once() -> None:
    with namespace() as net, running_daemon(prefix=net.prefix) as daemon:
        names = [f"many{number}" for number in range(40, 46)]
        for number, name in enumerate(names, 40):
            path = daemon.root / f"{name}.xml"
            # two of them want one address range, and none says its bridge
            text = document(name, min(number, 44)).replace(f"<bridge name='vb{min(number, 44)}'/>", "")
            path.write_text(text)
            daemon.virsh("net-define", str(path))
        _all(daemon, "net-start", names)
        active = set(daemon.virsh("net-list", "--name").split())
        assert len(active) == 5
        assert set(names[:4]) < active
        bridges = {link for link in net.links() if link.startswith("virbr")}
        assert len(bridges) == 5
        rules = net.run("nft", "list", "table", "inet", "qvirt_network").stdout
        assert all(f'"{bridge}"' in rules for bridge in bridges)
        _all(daemon, "net-destroy", sorted(active))
        assert net.links() == {"lo"}
        assert "qvirt_network" not in net.run("nft", "list", "ruleset").stdout


def _all(daemon: Daemon, command: str, names: list[str]) -> None:
    """Do something to all networks at the same time."""
    running = [
        subprocess.Popen(["virsh", "-q", "-c", daemon.uri, command, name], stderr=subprocess.DEVNULL)
        for name in names
    ]
    for process in running:
        process.wait(60)


def test_the_daemon_dies_and_so_does_dnsmasq() -> None:
    with namespace() as net, running_daemon(prefix=net.prefix) as daemon:
        create(daemon, document("both", 34))
        daemon.kill()
        (path,) = daemon.root.rglob("network/both.pid")
        net.run("kill", "-9", path.read_text().strip())
        daemon.start()
        assert "both" in daemon.virsh("net-list", "--name")
        (path,) = daemon.root.rglob("network/both.pid")
        assert Path(f"/proc/{path.read_text().strip()}").exists()
        daemon.virsh("net-destroy", "both")
        assert net.links() == {"lo"}
