"""A guest plugged into networks, through its whole life; see `plugging`."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import make_root
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.root]
PROJECT = Path(__file__).parents[3]


def plugging(net: Namespace, root: Path, *words: str, check: bool = True) -> Any:
    """Let the hypervisor do something in a namespace; returns what it says."""
    done = net.run(
        *("env", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "tests.functional.network.plugging"),
        *(str(root), *words),
        patience=120,
        check=check,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Any]]:
    root = make_root()
    try:
        with namespace() as net:
            yield plugging(net, root, "work")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_daemon_killed_at_any_step_leaves_nothing() -> None:
    root = make_root()
    try:
        with namespace() as net:
            net.ip("link", "add", "br0", "type", "bridge")
            net.ip("link", "add", "low0", "type", "veth", "peer", "name", "low1")
            before = sorted(net.links())
            own = json.loads(net.ip("-j", "link", "show", "low0"))[0]["address"]
            # the first run is not killed; then each at a later step, until one gets through
            step = -1
            while True:
                steps = plugging(net, root, "die", str(step), check=False)
                found = plugging(net, root, "look")
                assert found["ports in the end"] == [], f"step {step}"
                assert found["files in the end"] == 0, f"step {step}"
                assert found["links"] == before, f"step {step}"
                assert found["low"] == own, f"step {step}"
                assert len(found["ports"]) == (2 if found["active"] else 0), f"step {step}"
                if step >= 0 and steps is not None:
                    break
                if steps is not None:
                    assert steps.count("interface plugged") == 2
                    assert found["active"]
                step += 1
            assert step > 10
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_the_live_document_says_what_was_given(seen: dict[str, Any]) -> None:
    assert "<interface type='network'>" in seen["live"]
    assert " bridge='br0'/>" in seen["live"]
    assert "<interface type='direct'>" in seen["live"]
    assert " dev='low0' mode='passthrough'/>" in seen["live"]
    assert "<source network='bridged'/>" in seen["inactive"]
    assert "<source network='pool'/>" in seen["inactive"]
    assert "portid" not in seen["inactive"]
    assert "vnet" not in seen["inactive"]


def test_the_guests_leases_are_found_by_its_mac(seen: dict[str, Any]) -> None:
    assert seen["leases"] == [["vnet0", [[0, "198.18.0.5", 24], [1, "2001:db8::5", 64]]]]


def test_ports_are_in_the_book(seen: dict[str, Any]) -> None:
    assert seen["ports"] == [["bridged", "network"], ["pool", "direct"]]
    assert seen["files"] == 2
    assert seen["ports after refusals"] == 2


def test_the_devices_are_as_the_document_says(seen: dict[str, Any]) -> None:
    assert seen["tap"]["master"] == "br0"
    assert seen["tap"]["mtu"] == 1400
    assert seen["tap"]["address"].startswith("fe:54:00")
    assert seen["isolated"] == "1"
    assert seen["macvtap"] == "passthru"
    assert seen["low with guest"] == "52:54:00:00:00:77"


def test_what_cannot_be_plugged_in_says_why(seen: dict[str, Any]) -> None:
    assert "network 'pool' requires exclusive access to interfaces" in seen["second"]
    assert seen["missing"] == "Network not found: no network with matching name 'nowhere'"
    assert seen["idle"] == "Requested operation is not valid: network 'idle' is not active"
    assert "vlan tag not supported for this connection type" in seen["vlan"]
    assert "no Open vSwitch" in seen["ovs"]


def test_one_more_comes_and_goes(seen: dict[str, Any]) -> None:
    assert seen["extra"] == [["net9"], "vnet1", True]
    assert seen["ports with extra"] == 3
    assert seen["extra gone"] == [2, False]


def test_one_moves_to_another_network(seen: dict[str, Any]) -> None:
    places = [["bridged", "network"], ["pool", "direct"], ["second", "network"]]
    assert seen["moved"] == ["br2", False, places]
    assert "requires exclusive access" in seen["impossible"]
    assert seen["still"] == ["br2", places]


def test_a_daemon_that_comes_back_knows_all(seen: dict[str, Any]) -> None:
    assert seen["same live"]
    assert seen["ports again"] == seen["ports"]
    assert seen["files again"] == [False, True]
    assert seen["ports once more"] == seen["ports"]
    assert seen["plugged again"] == ["br0", "1"]


def test_nothing_stays(seen: dict[str, Any]) -> None:
    assert seen["ports in the end"] == seen["files in the end"] == 0
    assert seen["links in the end"] == []
    assert seen["low in the end"] == seen["low"]
