from pathlib import Path

import pytest

from qvirt.host.memory import ksm_parameters, memory_stats, page_size, set_ksm_parameter
from qvirt.host.numa import free_pages, huge_page_sizes, node_ids, node_memory, read_cells
from tests.unit.host.machine import make, write


def test_totals(tmp_path: Path) -> None:
    assert memory_stats(make(tmp_path)) == [
        ("total", 33554432),
        ("free", 16777216),
        ("buffers", 10),
        ("cached", 20),
    ]


def test_nodes(tmp_path: Path) -> None:
    root = make(tmp_path)
    assert node_ids(root) == [0, 1]
    assert node_memory(1, root) == (16777216, 8388608)
    first, second = read_cells(root)
    assert (first.id, first.memory, first.distances) == (0, 16777216, {0: 10, 1: 21})
    huge = 100 * 2048 + 2 * 1048576
    assert first.pages == {page_size(): (16777216 - huge) // page_size(), 2048: 100, 1048576: 2}
    assert list(second.cpus) == [2, 3, 6, 7]
    assert huge_page_sizes(root) == [2048, 1048576]
    assert free_pages(2048, 0, root) == 40
    assert free_pages(page_size(), 0, root) == 8388608 // page_size()
    assert free_pages(8, 0, root) is None


def test_a_machine_without_nodes(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 1000 kB\nMemFree: 400 kB")
    write(tmp_path / "sys/devices/system/cpu/online", "0-1")
    (cell,) = read_cells(tmp_path)
    assert (cell.id, cell.memory, list(cell.cpus), cell.distances) == (0, 1000, [0, 1], {})
    assert node_memory(0, tmp_path) == (1000, 400)


def test_same_page_merging(tmp_path: Path) -> None:
    assert ksm_parameters(tmp_path) == []
    write(tmp_path / "sys/kernel/mm/ksm/pages_to_scan", 100)
    write(tmp_path / "sys/kernel/mm/ksm/full_scans", 7)
    assert ksm_parameters(tmp_path) == [("shm_pages_to_scan", 100), ("shm_full_scans", 7)]
    set_ksm_parameter("shm_pages_to_scan", 50, tmp_path)
    assert ksm_parameters(tmp_path)[0] == ("shm_pages_to_scan", 50)
    with pytest.raises(KeyError):
        set_ksm_parameter("pages_to_scan", 1, tmp_path)
