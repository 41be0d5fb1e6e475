"""The host's caches and memory bandwidth: what can be divided, which parts are free, what is refused."""

from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, OperationTimeout
from qvirt.host import resctrl
from qvirt.host.capabilities import capabilities, read_host
from qvirt.host.cpu import read_caches
from qvirt.host.resctrl import CachePart, Schemata, Wanted
from tests.support.resctrl import FakeResctrl
from tests.unit.host.machine import make, write

MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeResctrl:
    return FakeResctrl(tmp_path, monkeypatch)


def chosen(host: FakeResctrl, wanted: Wanted, *others: Schemata) -> str:
    controls = resctrl.read_controls(host.root)
    assert controls is not None
    default, there = resctrl.read_groups(host.folder)
    banks = read_caches(host.root)
    return resctrl.choose(wanted, controls, banks, default, [*there, *others]).text(controls)


def cache(size: int, *, level: int = 3, id: int = 0, scope: str = "both") -> Wanted:
    return Wanted((CachePart(level, id, scope, size),))


@pytest.mark.parametrize(
    ("size", "others", "mask"),
    [
        (4 * MIB, [], "0300"),
        (14 * MIB, [], "7f00"),
        (16 * MIB, [], "ff00"),
        # the shortest stretch that is long enough, from its low end
        (4 * MIB, [0x0800], "0300"),
        (4 * MIB, [0x0C00], "0300"),
        (4 * MIB, [0x1800], "0300"),
        (6 * MIB, [0x1000], "e000"),
    ],
)
def test_which_bits_are_taken(host: FakeResctrl, size: int, others: list[int], mask: str) -> None:
    used = [Schemata({("L3", 0): bits}) for bits in others]
    assert chosen(host, cache(size), *used) == f"L3:0={mask}\nMB:0=100\n"


def test_what_is_not_said_is_shared(host: FakeResctrl) -> None:
    assert chosen(host, Wanted((), {0: (60, "")})) == "L3:0=00ff\nMB:0=60\n"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            cache(20 * MIB),
            "Not enough room for allocation of 20971520 bytes for level 3 cache 0",
        ),
        (cache(3 * MIB), "Cache allocation of size 3145728 is not divisible by granularity 2097152"),
        (cache(0), "Cache allocation of size 0 is smaller than the minimum allowed allocation 2097152"),
        (cache(2 * MIB, scope="code"), "Cache level 3 does not support tuning for scope type 'code'"),
        (cache(2 * MIB, level=2), "Cache level 2 does not support tuning"),
        (cache(2 * MIB, id=1), "Cache with id 1 does not exists for level 3"),
        (
            Wanted((), {0: (15, "")}),
            "Memory Bandwidth allocation of size 15 is not divisible by",
        ),
        (
            Wanted((), {0: (0, "")}),
            "Memory Bandwidth allocation of size 0 is smaller than the",
        ),
        (Wanted((), {1: (50, "")}), "bandwidth controller id 1 does not exist, max controller id 0"),
    ],
)
def test_what_the_host_cannot_do(host: FakeResctrl, wanted: Wanted, said: str) -> None:
    with pytest.raises(ConfigUnsupported, match=said):
        chosen(host, wanted)


def test_code_and_data_apart(host: FakeResctrl) -> None:
    (host.folder / "info/L3").rename(host.folder / "info/L3CODE")
    for name in ("cbm_mask", "min_cbm_bits", "num_closids"):
        write(host.folder / "info/L3DATA" / name, (host.folder / "info/L3CODE" / name).read_text().strip())
    write(host.folder / "schemata", "L3CODE:0=000f\nL3DATA:0=00ff\nMB:0=100")
    assert chosen(host, cache(2 * MIB, scope="code")) == "L3CODE:0=0010\nL3DATA:0=00ff\nMB:0=100\n"


def test_a_host_without_it(tmp_path: Path) -> None:
    assert resctrl.read_controls(tmp_path) is None


def test_lock_is_waited_for_and_given_back(host: FakeResctrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resctrl, "_LOCK_WAIT", 0.05)
    locked = resctrl.locked(host.folder)
    with locked, pytest.raises(OperationTimeout, match="stays locked"), resctrl.locked(host.folder):
        pass
    with resctrl.locked(host.folder):
        pass


def test_capabilities_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, nodes=1)
    host = FakeResctrl(tmp_path, monkeypatch)
    text = capabilities(read_host(uuid="11111111-2222-3333-4444-555555555555", root=host.root), {})
    assert (
        """      <bank id='0' level='3' type='both' size='32' unit='MiB' cpus='0-1'>
        <control granularity='2' unit='MiB' type='both' maxAllocs='16'/>
      </bank>
      <monitor level='3' reuseThreshold='270336' maxMonitors='176'>
        <feature name='llc_occupancy'/>
      </monitor>
    </cache>
    <memory_bandwidth>
      <node id='0' cpus='0-1'>
        <control granularity='10' min='10' maxAllocs='8'/>
      </node>
      <monitor maxMonitors='176'>
        <feature name='mbm_total_bytes'/>
        <feature name='mbm_local_bytes'/>
      </monitor>
    </memory_bandwidth>
"""
        in text
    )
    write(host.folder / "info/L3/min_cbm_bits", 2)
    write(host.folder / "info/L3/cbm_mask", "7ffff")
    text = capabilities(read_host(uuid="11111111-2222-3333-4444-555555555555", root=host.root), {})
    assert "<control granularity='1766022' min='3532044' unit='B' type='both' maxAllocs='16'/>" in text
