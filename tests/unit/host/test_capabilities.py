import json
from pathlib import Path

import pytest
from lxml import etree

from qvirt.host.capabilities import SecurityModel, capabilities, read_host, sleep_states
from qvirt.host.identity import host_uuid, usable
from qvirt.qemu.caps import EmulatorCaps
from tests.unit.host.machine import make, write

DATA = Path(__file__).parents[2] / "data" / "caps"
TARGETS = {"i686": "i386", "x86_64": "x86_64", "aarch64": "aarch64", "s390x": "s390x", "riscv64": "riscv64"}


@pytest.fixture(scope="module")
def emulators() -> dict[str, EmulatorCaps]:
    return {
        arch: EmulatorCaps.from_json(json.loads((DATA / f"qemu-7.2-{target}.json").read_bytes()))
        for arch, target in TARGETS.items()
    }


def test_guests_like_libvirt(tmp_path: Path, conformance: Path, emulators: dict[str, EmulatorCaps]) -> None:
    ours = etree.fromstring(capabilities(read_host(root=make(tmp_path)), emulators))
    theirs = etree.fromstring((conformance / "host" / "capabilities.xml").read_bytes())
    by_arch = {g.find("arch").get("name"): g for g in theirs.findall("guest")}  # type: ignore[union-attr]
    order = [g.find("arch").get("name") for g in ours.findall("guest")]  # type: ignore[union-attr]
    assert order == [arch for arch in by_arch if arch in TARGETS]
    for guest in ours.findall("guest"):
        arch = guest.find("arch").get("name")  # type: ignore[union-attr]
        assert etree.tostring(guest).strip() == etree.tostring(by_arch[arch]).strip()


def test_the_host(tmp_path: Path) -> None:
    root = make(tmp_path)
    write(root / "sys/kernel/iommu_groups/0/type", "DMA")
    models = [SecurityModel("selinux", "0", (("kvm", "a:b:c"),)), SecurityModel("dac")]
    host = etree.fromstring(capabilities(read_host(root=root), {}, models)).find("host")
    assert host is not None
    assert host.findtext("uuid") == "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"
    if host.findtext("cpu/arch") == "x86_64":
        assert host.findtext("cpu/model") == "Haswell-noTSX-IBRS"
    assert [(p.get("unit"), p.get("size")) for p in host.findall("cpu/pages")][1:] == [
        ("KiB", "2048"),
        ("KiB", "1048576"),
    ]
    assert [dict(e.attrib) for e in host.findall("iommu")] == [{"support": "yes"}]
    cells = host.findall("topology/cells/cell")
    assert [c.get("id") for c in cells] == ["0", "1"]
    place = cells[1].findall("cpus/cpu")[0]
    names = ("id", "socket_id", "die_id", "core_id", "siblings")
    assert [place.get(name) for name in names] == ["2", "1", "0", "0", "2,6"]
    assert [dict(s.attrib) for s in cells[0].findall("distances/sibling")] == [
        {"id": "0", "value": "10"},
        {"id": "1", "value": "21"},
    ]
    bank = host.find("cache/bank")
    assert bank is not None
    assert (bank.get("size"), bank.get("unit"), bank.get("cpus")) == ("30", "MiB", "0-1,4-5")
    assert [m.findtext("model") for m in host.findall("secmodel")] == ["selinux", "dac"]
    assert host.findtext("secmodel/baselabel") == "a:b:c"


def test_sleep(tmp_path: Path) -> None:
    write(tmp_path / "sys/power/state", "freeze mem disk")
    write(tmp_path / "sys/power/disk", "[platform] shutdown reboot suspend")
    assert sleep_states(tmp_path) == ()  # nobody there to do it
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert sleep_states(tmp_path) == ("suspend_mem", "suspend_disk", "suspend_hybrid")
    write(tmp_path / "sys/power/disk", "[disabled]")
    assert sleep_states(tmp_path) == ("suspend_mem",)


def test_uuid(tmp_path: Path) -> None:
    assert len(host_uuid(root=tmp_path)) == 36
    write(tmp_path / "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4")
    assert host_uuid(root=tmp_path) == "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"
    write(tmp_path / "sys/class/dmi/id/product_uuid", "F" * 8 + "-FFFF-FFFF-FFFF-" + "F" * 12)
    assert host_uuid(root=tmp_path) == "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"
    write(tmp_path / "sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8052-B9C04F4D3532")
    assert host_uuid(root=tmp_path) == "4c4c4544-0042-3510-8052-b9c04f4d3532"
    assert host_uuid("machine-id", tmp_path) == "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"
    assert usable("not a uuid") is None
