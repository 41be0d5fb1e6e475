from pathlib import Path

import pytest

from qvirt.host.cpu import (
    CacheBank,
    Place,
    Topology,
    online_cpus,
    place_of,
    read_caches,
    read_cpu,
    topology_of,
    x86_features,
)
from qvirt.host.numa import node_cpus
from qvirt.qemu.cpumodels import describe_host
from tests.unit.host.machine import make, write


def test_an_intel_host(tmp_path: Path) -> None:
    cpu = read_cpu("x86_64", make(tmp_path))
    assert (cpu.vendor, cpu.signature, cpu.microcode, cpu.address_bits, cpu.mhz) == (
        "Intel",
        (6, 63, 4),
        0x2B,
        46,
        2294,
    )
    description = describe_host(cpu.processor)
    assert description is not None
    # No TSX in the flags, so it cannot be a Haswell; the noTSX one has the signature, too.
    assert description.model == "Haswell-noTSX-IBRS"
    assert set(description.require) == {
        "vme", "ss", "ht", "vmx", "osxsave", "f16c", "rdrand", "hypervisor", "arat", "tsc_adjust", "stibp",
        "ssbd", "xsaveopt", "abm", "invtsc",
    }  # fmt: skip


def test_speculation_flags_depend_on_the_vendor() -> None:
    flags = frozenset({"ibrs", "ibpb", "stibp", "ssbd"})
    assert x86_features(flags, "Intel") == {"spec-ctrl", "stibp", "ssbd"}
    assert x86_features(flags, "AMD") == {"ibrs", "ibpb", "amd-stibp", "amd-ssbd"}


@pytest.mark.parametrize(
    ("flag", "feature"),
    [
        ("pclmulqdq", "pclmuldq"),
        ("sse4_2", "sse4.2"),
        ("avx512_vpopcntdq", "avx512-vpopcntdq"),
        ("sha_ni", "sha-ni"),
        ("lahf_lm", "lahf_lm"),
        ("amx_tile", "amx-tile"),
        ("cqm", "cmt"),
        ("nonstop_tsc", "invtsc"),
        ("pausefilter", "pause-filter"),
    ],
)
def test_flag_names(flag: str, feature: str) -> None:
    assert feature in x86_features(frozenset({flag}), "AMD")


def test_another_architecture(tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "cpu\t\t: POWER9\nclock\t\t: 2166.000000MHz\n")
    cpu = read_cpu("ppc64le", tmp_path)
    assert (cpu.arch, cpu.mhz, cpu.vendor, cpu.features) == ("ppc64le", 2166, None, frozenset())


def test_nothing_to_read(tmp_path: Path) -> None:
    cpu = read_cpu("x86_64", tmp_path)
    assert (cpu.mhz, cpu.signature, cpu.microcode) == (0, None, None)
    assert online_cpus(tmp_path) == []
    assert topology_of(node_cpus(tmp_path), tmp_path) == (1, Topology())


@pytest.mark.parametrize(
    ("nodes", "cores", "threads", "expected"),
    [
        (1, 1, 1, (1, Topology(1, 1, 1, 1))),
        (1, 4, 2, (1, Topology(1, 1, 4, 2))),
        (2, 3, 2, (2, Topology(1, 1, 3, 2))),
    ],
)
def test_topology(
    tmp_path: Path, nodes: int, cores: int, threads: int, expected: tuple[int, Topology]
) -> None:
    root = make(tmp_path, nodes=nodes, cores=cores, threads=threads)
    assert topology_of(node_cpus(root), root) == expected


def test_an_uneven_machine_is_flattened(tmp_path: Path) -> None:
    root = make(tmp_path)
    write(root / "sys/devices/system/cpu/online", "0-6")
    assert topology_of(node_cpus(root), root) == (1, Topology(1, 1, 7, 1))


def test_places_and_caches(tmp_path: Path) -> None:
    root = make(tmp_path)
    assert place_of(5, root) == Place(0, 0, 1, (1, 5))
    assert read_caches(root) == [
        CacheBank(0, 3, "both", 30720, (0, 1, 4, 5)),
        CacheBank(1, 3, "both", 30720, (2, 3, 6, 7)),
    ]
