"""What a command line names and this emulator does not have: the nearest it has, or None.

Old scripts name machine types, CPUs and devices that went, scripts for a newer QEMU such as are yet to come.
"""

import re
from collections.abc import Mapping

from qvirt.qemu.caps import EmulatorCaps, Machine

#: machine types that were given another name, or whose place another took
_RENAMED: Mapping[str, str] = {
    "B160L": "hppa", "C3700": "hppa", "raspi2": "raspi2b", "raspi3": "raspi3b", "raspi4b": "raspi3b",
    "prep": "40p",
    "xenfv": "pc", "xenpv": "pc", "xenner": "pc", "fsl-imx25-pdk": "imx25-pdk", "mips": "malta",
    "s390": "s390-ccw-virtio", "s390-virtio": "s390-ccw-virtio", "s390-ccw": "s390-ccw-virtio",
    "pc-q35": "q35", "pc-i440fx": "pc", "pc_piix": "pc", "spike_v1.9.1": "spike", "spike_v1.10": "spike",
    "SS-2": "SS-5", "SS-1000": "SS-10", "SS-2000": "SS-10",
}  # fmt: skip
#: names of versions, and what each family of them is called today
_FAMILIES = (
    ("pc-q35-", "pc-q35-", "q35"),
    ("pc-i440fx-", "pc-i440fx-", "pc"),
    ("xenfv-", "pc-i440fx-", "pc"),
    ("rhel", "pc-i440fx-", "pc"),
    ("pc-", "pc-i440fx-", "pc"),
    ("virt-", "virt-", "virt"),
    ("pseries-", "pseries-", "pseries"),
    ("s390-ccw-virtio-", "s390-ccw-virtio-", "s390-ccw-virtio"),
)
#: Android's own boards, which are those one wants for a guest of the architecture
_ANDROIDS = frozenset({"ranchu", "goldfish", "android_arm", "android_x86"})
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")


def nearest_machine(caps: EmulatorCaps, name: str) -> Machine | None:
    """Return the machine type closest to one that the emulator does not have.

    Of a family's versions that is the oldest that is not older, else the newest; a vendor's own version is
    the family's newest.
    """
    renamed = _RENAMED.get(name)
    if name in _ANDROIDS:
        return caps.machine("virt") or caps.default_machine
    if renamed is not None:
        return caps.machine(renamed)
    for begin, stem, alias in _FAMILIES:
        if name.startswith(begin):
            asked = _VERSION.fullmatch(name.removeprefix(begin))
            return _by_version(caps, stem, asked) or caps.machine(alias)
    return None


def _by_version(caps: EmulatorCaps, stem: str, asked: "re.Match[str] | None") -> Machine | None:
    if asked is None:
        return None
    wanted = (int(asked[1]), int(asked[2]))
    newer: list[tuple[tuple[int, int], Machine]] = []
    for machine in caps.machines:
        version = _VERSION.fullmatch(machine.name.removeprefix(stem))
        if machine.name.startswith(stem) and version is not None:
            newer.append(((int(version[1]), int(version[2])), machine))
    newer = sorted((pair for pair in newer if pair[0] >= wanted), key=lambda pair: pair[0])
    return newer[0][1] if newer else None


def nearest_cpu(caps: EmulatorCaps, name: str, virt_type: str) -> str | None:
    """Return the CPU to take for a model the emulator does not know; None where it knows it or lists none."""
    known = {cpu.name for cpu in caps.accel(virt_type).cpus}
    if not known or name in known or "max" not in known:
        return None
    return "max"


#: second names of device types, which no list of QEMU's types has
_SECOND_NAMES = frozenset(
    {
        "ac97", "e1000-82540em", "es1370", "ahci", "lsi", "virtio-9p", "virtio-balloon", "virtio-blk",
        "virtio-crypto", "virtio-gpu", "virtio-gpu-gl", "virtio-input-host", "virtio-iommu",
        "virtio-keyboard", "virtio-mouse", "virtio-net", "virtio-rng", "virtio-scsi", "virtio-serial",
        "virtio-tablet", "virtio-vsock", "vhost-vsock", "vhost-user-fs", "vhost-user-gpu",
    }
)  # fmt: skip


def is_gone(caps: EmulatorCaps, driver: str) -> bool:
    """Tell whether the emulator has no such type of device; False where its types are not known."""
    return bool(caps.types) and not caps.has_device(driver) and driver not in _SECOND_NAMES


#: the screen for RISC-V's board where it has no DMA for ramfb to be drawn by
INSTEAD_OF_RAMFB = "virtio-vga"
