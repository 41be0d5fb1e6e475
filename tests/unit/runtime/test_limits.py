"""How much memory a guest's QEMU has to be able to lock, and limits that cannot be given."""

import resource

import pytest

from qvirt.errors import SystemError_
from qvirt.host.config import QemuConfig
from qvirt.model.domain import Domain, parse_domain
from qvirt.record import replace
from qvirt.runtime.life import limits
from qvirt.runtime.life.process import INFINITE, Limits

LOCKED = "<memoryBacking><locked/></memoryBacking>"
HARD = "<memtune><hard_limit unit='MiB'>3</hard_limit></memtune>"
DEVICES = "<devices>{}</devices>"
CARD = "<hostdev mode='subsystem' type='pci'><source><address bus='{}'/></source></hostdev>"
VFIO = DEVICES.format(CARD.format(1))
NVME = (
    "<disk type='nvme'><source type='pci' namespace='1'><address bus='3'/></source>"
    "<target dev='vda' bus='virtio'/></disk>"
)
IOMMU = "<iommu model='intel'/>"
VDPA_CARD = "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>"
VDPA = f"<devices>{VDPA_CARD}{{}}</devices>"


def definition(inside: str) -> Domain:
    return parse_domain(
        f"<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory>{inside}"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
    )


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", None),
        (HARD, None),
        (LOCKED, INFINITE),
        (LOCKED + HARD, 3 << 20),
        (VFIO, (64 << 20) + (1 << 30)),
        (VDPA.format(""), (64 << 20) + (1 << 30)),
        (VDPA.format(VDPA_CARD), (128 << 20) + (1 << 30)),
        # of the host's devices NVMe disks have the memory mapped each for itself, as all have behind an IOMMU
        (DEVICES.format(CARD.format(1) + CARD.format(2)), (64 << 20) + (1 << 30)),
        (DEVICES.format(CARD.format(1) + NVME), (128 << 20) + (1 << 30)),
        (DEVICES.format(CARD.format(1) + CARD.format(2) + IOMMU), (128 << 20) + (1 << 30)),
        (VFIO + HARD, 3 << 20),
        (VFIO + LOCKED, INFINITE),
    ],
)
def test_what_may_be_locked(inside: str, expected: int | None) -> None:
    assert limits.locked_memory(definition(inside)) == expected


def test_limits_that_need_a_capability_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_may_raise", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda number: (10, 10))
    config = QemuConfig()
    assert limits.limits_of(definition(""), config) == Limits(0, 0, 0, None)
    assert limits.limits_of(definition(""), replace(config, max_files=10)).files == 10
    with pytest.raises(
        SystemError_, match=r"number of open files to 11 \('max_files' in qemu.conf\): the daemon"
    ):
        limits.limits_of(definition(""), replace(config, max_files=11))
    with pytest.raises(SystemError_, match="locked memory to unlimited: the daemon itself is limited to 10"):
        limits.limits_of(definition(LOCKED), config)
    monkeypatch.setattr(resource, "getrlimit", lambda number: (10, resource.RLIM_INFINITY))
    assert limits.limits_of(definition(LOCKED), config).memlock == INFINITE
