"""A guest's share of caches and memory bandwidth, on a tree that stands in for the kernel's."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainStatsTypes
from qvirt.errors import ConfigUnsupported
from qvirt.runtime.domain import Domain
from qvirt.runtime.life import resctrl
from tests.functional.runtime.instance import Instance, document, instance, run, until
from tests.support.resctrl import FakeResctrl

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="libvirt divides caches for KVM alone"),
]

TUNES = """<vcpu>4</vcpu><cputune>
  <cachetune vcpus='0-1'>
    <cache id='0' level='3' type='both' size='4' unit='MiB'/>
    <monitor level='3' vcpus='0-1'/>
    <monitor level='3' vcpus='0'/>
  </cachetune>
  <cachetune vcpus='3'><monitor level='3' vcpus='3'/></cachetune>
  <memorytune vcpus='2'><node id='0' bandwidth='60'/><monitor vcpus='2'/></memorytune>
</cputune>"""


def guest(tunes: str = TUNES) -> str:
    return document("tuned", extra=tunes).replace("type='qemu'", "type='kvm'").replace("<vcpu>1</vcpu>", "")


@contextlib.contextmanager
def roots_instance() -> Iterator[Instance]:
    """Give an instance whose guests may use KVM wherever root may."""
    with instance() as it:
        if os.geteuid() == 0:
            it.paths.conf.parent.mkdir(parents=True)
            it.paths.conf.write_text('user = "root"\ngroup = "root"\n')
        yield it


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeResctrl:
    monkeypatch.setattr(resctrl, "ROOT", tmp_path)
    return FakeResctrl(tmp_path, monkeypatch)


def names(domain: Domain, *shares: str) -> list[str]:
    running = domain.need_running()
    machine = domain.hypervisor.cgroups.name_of(running.definition, running.id)
    return [share.format(machine) for share in shares]


def test_a_guest_has_its_share_and_gives_it_back(host: FakeResctrl) -> None:
    async def scenario() -> None:
        with roots_instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(guest(), paused=True)
                running = domain.need_running()
                both, first, third, fourth = names(
                    domain,
                    "{0}-vcpus_0-1",
                    "{0}-vcpus_0-1/mon_groups/{0}-vcpus_0",
                    "{0}-vcpus_2",
                    "mon_groups/{0}-vcpus_3",
                )
                assert host.groups() == sorted((both, first, third, fourth))
                threads = [str(thread) for thread in running.vcpu_threads]
                assert sorted(host.written) == sorted(
                    [
                        (f"{both}/schemata", "L3:0=0300\nMB:0=100\n"),
                        (f"{third}/schemata", "L3:0=00ff\nMB:0=60\n"),
                        (f"{both}/tasks", threads[0]),
                        (f"{both}/tasks", threads[1]),
                        (f"{first}/tasks", threads[0]),
                        (f"{third}/tasks", threads[2]),
                        (f"{fourth}/tasks", threads[3]),
                    ]
                )
                assert "<cachetune vcpus='0-1' id='vcpus_0-1'>" in await domain.xml_desc()
                assert "<cachetune vcpus='0-1'>" in domain.text

                groups = DomainStatsTypes.CPU_TOTAL | DomainStatsTypes.MEMORY
                (stats,) = await hv.bulk_stats([domain], groups)
                said = {param.name: param.value for param in stats.params}
                assert said["cpu.cache.monitor.count"] == 3
                assert [said[f"cpu.cache.monitor.{i}.name"] for i in range(3)] == [
                    "vcpus_0-1", "vcpus_0", "vcpus_3",
                ]  # fmt: skip
                assert said["cpu.cache.monitor.2.vcpus"] == "3"
                assert said["cpu.cache.monitor.0.bank.0.bytes"] == 405504
                assert said["memory.bandwidth.monitor.count"] == 1
                assert said["memory.bandwidth.monitor.0.node.0.bytes.total"] == 7000
                assert said["memory.bandwidth.monitor.0.node.0.bytes.local"] == 5000
                await domain.destroy()
                assert host.groups() == []

    run(scenario())


def test_they_outlive_a_daemon_and_not_their_guest(host: FakeResctrl) -> None:
    async def scenario() -> None:
        with roots_instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(guest())
                await domain.start(paused=True)
                pid = domain.need_running().pid
                there = host.groups()
                assert len(there) == 4
            async with it.serve() as hv:
                assert host.groups() == there
                domain = hv.domains.by_name("tuned")
                assert "id='vcpus_0-1'" in await domain.xml_desc()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not Path(f"/proc/{pid}/exe").exists(), "QEMU is gone")
            async with it.serve() as hv:
                assert not hv.domains.by_name("tuned").active
                assert host.groups() == []

    run(scenario())


@pytest.mark.parametrize(
    ("tunes", "said"),
    [
        (TUNES.replace("size='4'", "size='20'"), "Not enough room for allocation of 20971520 bytes"),
        (TUNES.replace("size='4'", "size='3'"), "not divisible by granularity"),
        (TUNES.replace("bandwidth='60'", "bandwidth='65'"), "Memory Bandwidth allocation of size 65"),
    ],
)
def test_what_the_host_cannot_give_is_refused_before_qemu_starts(
    host: FakeResctrl, tunes: str, said: str
) -> None:
    async def scenario() -> None:
        with roots_instance() as it:
            async with it.serve() as hv:
                with pytest.raises(ConfigUnsupported, match=said):
                    await hv.create(guest(tunes))
                assert host.groups() == []
                assert host.written == []
                assert it.traces() == []

    run(scenario())


def test_a_host_without_it_or_without_watching(
    host: FakeResctrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with roots_instance() as it:
            async with it.serve() as hv:
                (host.folder / "info/L3_MON/mon_features").unlink()
                with pytest.raises(ConfigUnsupported, match="cannot watch"):
                    await hv.create(guest())
                monkeypatch.setattr(resctrl, "ROOT", tmp_path / "elsewhere")
                with pytest.raises(ConfigUnsupported, match="Resource control is not supported on this host"):
                    await hv.create(guest())
                assert it.traces() == []

    run(scenario())
