"""PCI devices of the host for real: one boot of a machine that has an IOMMU and AppArmor, all cases in it."""

import subprocess
from pathlib import Path

from tests.support.testbed import run_inside


def words(folder: Path) -> list[str]:
    """Return the testbed's words for the devices that `tests/inside/pci.py` looks for."""
    store = folder / "nvme.raw"
    subprocess.run(["truncate", "-s", "16M", store], check=True)
    queues = "msix_qsize=9,max_ioqpairs=8,sriov_vq_flexible=4,sriov_vi_flexible=2"
    devices = [
        ("-device", "intel-iommu,intremap=on"),
        ("-device", "e1000e,addr=10"),
        ("-drive", f"file={store},format=raw,if=none,id=store"),
        ("-device", "pcie-root-port,id=rp1,slot=1,addr=11"),
        ("-device", "nvme-subsys,id=sub"),
        ("-device", f"nvme,id=nv,serial=store,bus=rp1,subsys=sub,sriov_max_vfs=2,{queues}"),
        ("-device", "nvme-ns,drive=store,bus=nv,nsid=1"),
        ("-device", "virtio-net-pci,addr=13.0,multifunction=on,mac=52:54:00:00:13:00"),
        ("-device", "virtio-net-pci,addr=13.1,mac=52:54:00:00:13:01"),
    ]
    found = ["--append", "intel_iommu=on"]
    for pair in devices:
        for word in pair:
            found.append(f"--qemu={word}")
    return found


def test_devices_go_to_guests_and_come_back(tmp_path: Path) -> None:
    run_inside("apparmor", "tests/inside/pci.py", *words(tmp_path))
