"""Slots of vCPUs: which of them a count means, and the document after each change."""

from typing import Any

import pytest

from qvirt.errors import ConfigUnsupported, InvalidArg
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu import vcpu_slots
from qvirt.qemu.vcpu_slots import read_slots, slots_for_count, slots_of, take_slots


def answer(paths: list[str | None], count: int = 1) -> list[dict[str, Any]]:
    """Make query-hotpluggable-cpus, the last slot first as QEMU lists them."""
    slots: list[dict[str, Any]] = [
        {"type": "qemu64-x86_64-cpu", "vcpus-count": count, "props": {"socket-id": i, "core-id": 0}}
        | ({"qom-path": path} if path else {})
        for i, path in enumerate(paths)
    ]
    return slots[::-1]


COLD = "/machine/unattached/device[0]"
PATHS: list[str | None] = [COLD, "/machine/peripheral/vcpu1", None, "/machine/peripheral/vcpu3"]
ON = frozenset({0, 1, 3})


def domain(vcpu: str) -> Domain:
    rest = "<os><type>hvm</type></os>"
    return parse_domain(f"<domain type='qemu'><name>a</name><memory>1</memory>{vcpu}{rest}</domain>")


def test_slots_are_numbered_by_their_place() -> None:
    slots = read_slots(answer(PATHS))
    assert [slot.first for slot in slots] == [0, 1, 2, 3]
    assert [slot.alias for slot in slots] == [None, "vcpu1", None, "vcpu3"]
    assert slots[2].device().to_qmp() == (
        "device_add",
        {"driver": "qemu64-x86_64-cpu", "id": "vcpu2", "socket-id": 2, "core-id": 0},
    )


@pytest.mark.parametrize(("count", "chosen"), [(4, [2]), (2, [3]), (1, [3, 1]), (3, [])])
def test_count(count: int, chosen: list[int]) -> None:
    slots = slots_for_count(read_slots(answer(PATHS)), ON, count)
    assert [slot.first for slot in slots] == chosen


def test_counts_that_no_choice_of_slots_gives() -> None:
    with pytest.raises(ConfigUnsupported, match="failed to find appropriate hotpluggable vcpus"):
        slots_for_count(read_slots(answer([COLD, COLD])), frozenset({0, 1}), 1)
    with pytest.raises(ConfigUnsupported, match="failed to find appropriate hotpluggable vcpus"):
        slots_for_count(read_slots(answer([COLD, None], 2)), frozenset({0, 1}), 3)


def test_single_slots() -> None:
    slots = read_slots(answer(PATHS))
    assert [slot.first for slot in slots_of(slots, ON, frozenset({2}), True)] == [2]
    with pytest.raises(InvalidArg, match="vcpu '1' is already in requested state"):
        slots_of(slots, ON, frozenset({1}), True)
    with pytest.raises(InvalidArg, match="vcpu '0' can't be hotunplugged"):
        slots_of(slots, ON, frozenset({0}), False)
    with pytest.raises(InvalidArg, match="vcpu '3' was not selected but it belongs to hotpluggable"):
        slots_of(read_slots(answer([COLD, None], 2)), frozenset({0, 1}), frozenset({2}), True)


def test_the_document_of_a_guest() -> None:
    live = domain("<vcpu current='1'>4</vcpu>")
    cpus = [{"qom-path": COLD}, {"qom-path": str(PATHS[3])}, {"qom-path": str(PATHS[1])}]
    take_slots(live, read_slots(answer(PATHS)), cpus)
    text = live.to_xml()
    assert "current='3'" in text
    assert "<vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>" in text
    assert "<vcpu id='1' enabled='yes' hotpluggable='yes' order='3'/>" in text
    assert "<vcpu id='2' enabled='no' hotpluggable='yes'/>" in text
    assert "<vcpu id='3' enabled='yes' hotpluggable='yes' order='2'/>" in text


def test_counts_of_a_definition() -> None:
    it = domain("<vcpu current='1'>4</vcpu>")
    vcpu_slots.set_config_count(it, 2, hotpluggable=False)
    assert it.vcpus is None
    assert vcpu_slots.online(it) == [0, 1]
    vcpu_slots.set_config_count(it, 4, hotpluggable=True)
    assert vcpu_slots.booted_late(it) == [2, 3]
    vcpu_slots.set_config_vcpus(it, frozenset({2}), False)
    assert vcpu_slots.online(it) == [0, 1, 3]
    vcpu_slots.set_config_maximum(it, 3)
    assert vcpu_slots.online(it) == [0, 1]
    assert it.vcpu is not None
    assert (it.vcpu.value, it.vcpu.current) == (3, 2)
    with pytest.raises(InvalidArg, match="vCPU '0' must be enabled"):
        vcpu_slots.set_config_vcpus(it, frozenset({0}), False)


@pytest.mark.parametrize(("number", "on", "online"), [(1, True, [0, 1]), (1, False, [0]), (2, False, [0, 1])])
def test_single_vcpus_of_a_definition(number: int, on: bool, online: list[int]) -> None:
    """Nothing has to change by it; who is named can be plugged from then on."""
    it = domain("<vcpu current='2'>4</vcpu>")
    vcpu_slots.set_config_vcpus(it, frozenset({number}), on)
    assert vcpu_slots.online(it) == online
    assert it.vcpus is not None
    assert [entry.hotpluggable for entry in it.vcpus.vcpus[:2]] == [False, number == 1]
    assert all(entry.hotpluggable for entry in it.vcpus.vcpus[2:])


def test_the_most_and_the_nodes() -> None:
    """A node keeps its CPUs; the first one gets those that nobody has."""
    it = domain(
        "<vcpu>4</vcpu><cpu><numa><cell id='0' cpus='0-1' memory='1'/><cell id='1' cpus='2-3' memory='1'/>"
        "</numa></cpu>"
    )
    with pytest.raises(InvalidArg, match="Number of CPUs in <numa> exceeds the desired maximum vcpu count"):
        vcpu_slots.set_config_maximum(it, 3)
    assert vcpu_slots.most(it) == 4
    vcpu_slots.set_config_maximum(it, 6)
    assert it.cpu is not None
    assert it.cpu.numa is not None
    assert [sorted(cell.cpus or ()) for cell in it.cpu.numa.cells] == [[0, 1, 4, 5], [2, 3]]
