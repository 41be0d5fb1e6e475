"""Domain capabilities against those libvirt 9.0 printed for the same emulators."""

import json
from pathlib import Path

import pytest

from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.domcaps import DomainCapsHost, domcaps
from qvirt.qemu.firmware import DEFAULT_NVRAM, Supported

DATA = Path(__file__).parents[2] / "data" / "caps"

NONE = Supported(tuple(loader for loader, _ in DEFAULT_NVRAM), (), False)
OVMF = tuple(f"/usr/share/OVMF/OVMF_CODE_4M{kind}.fd" for kind in (".ms", ".secboot", ""))
AAVMF = tuple(f"/usr/share/AAVMF/AAVMF_CODE{kind}.fd" for kind in (".ms", ""))

CASES = [
    ("x86_64-pc-kvm", "x86_64", "x86_64", Supported(OVMF[2:], ("efi",), False)),
    ("x86_64-pc-qemu", "x86_64", "x86_64", Supported(OVMF[2:], ("efi",), False)),
    ("x86_64-q35-kvm", "x86_64", "x86_64", Supported(OVMF, ("efi",), True)),
    ("x86_64-q35-qemu", "x86_64", "x86_64", Supported(OVMF, ("efi",), True)),
    ("i386-pc-qemu", "i386", "i686", NONE),
    ("aarch64-virt-qemu", "aarch64", "aarch64", Supported(AAVMF, ("efi",), False)),
    ("ppc64-pseries-qemu", "ppc64", "ppc64", NONE),
    ("riscv64-virt-qemu", "riscv64", "riscv64", NONE),
    ("s390x-s390-ccw-virtio-qemu", "s390x", "s390x", NONE),
]


@pytest.mark.parametrize(("name", "target", "arch", "firmware"), CASES, ids=[c[0] for c in CASES])
def test_like_libvirt(conformance: Path, name: str, target: str, arch: str, firmware: Supported) -> None:
    caps = EmulatorCaps.from_json(json.loads((DATA / f"qemu-7.2-{target}.json").read_bytes()))
    words = name.split("-")
    machine = caps.machine("-".join(words[1:-1]))
    assert machine is not None
    host = DomainCapsHost("x86_64", 1024, tpm_versions=("1.2", "2.0"))
    document = domcaps(caps, machine, words[-1], arch, firmware, host)
    assert document.rstrip() == (conformance / "host" / f"domcaps-{name}.xml").read_text().rstrip()


def test_what_the_host_changes() -> None:
    caps = EmulatorCaps.from_json(json.loads((DATA / "qemu-7.2-x86_64.json").read_bytes()))
    machine = caps.machine("q35")
    assert machine is not None
    bare = domcaps(caps, machine, "kvm", "x86_64", NONE, DomainCapsHost("aarch64", 16))
    assert "<vcpu max='16'/>" in bare
    assert "<mode name='host-passthrough' supported='no'/>" in bare
    assert "<value>emulator</value>" not in bare
    assert "<enum name='pciBackend'/>" in bare
    rich = domcaps(caps, machine, "kvm", "x86_64", NONE, DomainCapsHost("x86_64", 1024, vfio=True))
    assert "<value>vfio</value>" in rich
