"""Each layer alone, all others off, against what whoever has taken a QEMU over would try; and none at all.

The calls are made in QEMUs that run, by `tests.support.inside`; what is tried, and what stops it, is a table
in `tests.support.proof`. AppArmor's and SELinux's columns are tried where there are such (`tests/inside`).
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.host import cgroup
from qvirt.record import replace
from qvirt.runtime.life import cgroups
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import document, instance, run
from tests.support import inside, proof
from tests.support.proof import ABOUT_OTHERS, ROWS, unlike

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root confines"),
    pytest.mark.skipif(inside.refusal() is not None, reason=inside.refusal() or ""),
]

#: those that a kernel without labels has
LAYERS = ("owners", "capabilities", "seccomp", "device list", "own /dev")
#: with the version of control groups that is to be seen, 0 for what there is
CASES = [(layer, version) for layer in LAYERS for version in ((1, 2) if layer == "device list" else (0,))]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """A disk of the host."""
    (tmp_path / "loop.img").write_bytes(b"\0" * (1 << 20))
    words = ["losetup", "--show", "-f", str(tmp_path / "loop.img")]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=False)


def see(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have daemons find what confines devices by one version of control groups."""
    mounts = cgroup.find_mounts()
    if (version == 1 and "devices" not in mounts.v1) or (version == 2 and mounts.v2 is None):
        pytest.skip(f"no device lists of version {version} here")
    if version == 1:
        alone = replace(mounts, v2=None, v2_has=frozenset())
        monkeypatch.setattr(cgroup, "find_mounts", lambda: alone)


def tried(node: str, *layers: str, apart: bool = False) -> tuple[dict[str, str], dict[str, str]]:
    """Return what all attempts of one guest and those of the other against it came to."""

    async def scenario() -> tuple[dict[str, str], dict[str, str]]:
        with instance() as it:
            async with proof.proving(it, proof.options(*layers), node) as proving:
                return await proving.all(apart=apart)

    return run(scenario())


@pytest.mark.parametrize("apart", [True, False])
def test_with_all_layers_off_everything_is_done(node: str, apart: bool) -> None:
    """So what a layer is seen to stop below, it stops, and nothing else does."""
    found, back = tried(node, apart=apart)
    assert unlike(found, ROWS) == {}
    assert unlike(back, ABOUT_OTHERS, *(["owners"] if apart else [])) == {}


@pytest.mark.parametrize(("layer", "version"), CASES)
def test_each_layer_alone_stops_what_the_table_says(
    layer: str, version: int, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(version, monkeypatch)
    apart = layer in proof.TAKES_USERS
    found, back = tried(node, layer, apart=apart)
    assert unlike(found, ROWS, layer) == {}
    assert unlike(back, ABOUT_OTHERS, layer, *(["owners"] if apart else [])) == {}


def test_guests_with_users_of_their_own_cannot_touch_each_other(node: str) -> None:
    """Nor anything else in the table, with all that a kernel without labels has."""
    found, back = tried(node, *LAYERS, apart=True)
    assert {name for name, said in found.items() if said == inside.DONE} == set()
    assert unlike(back, ABOUT_OTHERS, *LAYERS) == {}


def test_guests_of_one_user_reach_each_other_and_nothing_of_the_hosts(node: str) -> None:
    """Without labels; docs/security.md says so, and `proof.within_one_user` what."""
    for found in tried(node, *LAYERS):
        assert {name for name, said in found.items() if said == inside.DONE} == proof.within_one_user()


@pytest.mark.parametrize(("layer", "version"), [("device list", 1), ("device list", 2), ("own /dev", 0)])
def test_a_plugged_disk_of_the_host_is_in_reach_until_it_is_unplugged(
    layer: str, version: int, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(version, monkeypatch)
    block = (
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/>"
        f"<source dev='{node}'/><target dev='sda' bus='scsi'/></disk>"
    )
    live = DomainModificationImpact.LIVE

    async def scenario() -> list[str]:
        with instance() as it:
            async with proof.serving(it, proof.options(layer)) as hv:
                text = document("plugged", "<controller type='scsi' index='0' model='virtio-scsi'/>")
                domain = await hv.create(text, paused=True)
                running = domain.need_running()
                await cgroups.placed(running)
                said = []
                for change in (None, hotplug.attach, hotplug.detach):
                    if change is not None:
                        await change(domain, block, live)
                    found = await inside.tried(running.pid, {"open": proof.opened(node)})
                    said.append(found["open"])
                await domain.destroy()
                return said

    before, while_plugged, after = run(scenario())
    assert while_plugged == inside.DONE
    assert (
        before == after == ("No such file or directory" if layer == "own /dev" else "Operation not permitted")
    )
