"""A PCI bus in a folder, with a kernel that binds and probes as Linux does when sysfs is written to."""

import errno
import os
from pathlib import Path

from qvirt.host.pci import VFIO, Bus

_DEVICES = "sys/bus/pci/devices"


class FakeBus(Bus):
    """Drivers are bound by a table of who takes what; what was written is in ``written``.

    stubborn: functions that vfio-pci does not take. modules: what modprobe finds.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[tuple[str, str]] = []
        self.stubborn: set[str] = set()
        self.modules: set[str] = {VFIO}
        self._natural: dict[str, str] = {}
        (root / _DEVICES).mkdir(parents=True)
        (root / "sys/kernel/iommu_groups").mkdir(parents=True)
        self.add_driver("pcieport")

    def add_driver(self, name: str) -> None:
        """Load a driver."""
        (self.root / "sys/bus/pci/drivers" / name).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, driver: str = "", group: str | None = None, *, bridge: bool = False) -> None:
        """Plug a function in, bound to the driver that takes it."""
        folder = self.root / _DEVICES / name
        folder.mkdir()
        (folder / "config").write_bytes(bytes(14) + (b"\x81" if bridge else b"\0") + bytes(4081))
        (folder / "driver_override").write_text("(null)\n")
        if group is not None:
            members = self.root / "sys/kernel/iommu_groups" / group / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / name).symlink_to(folder)
            (folder / "iommu_group").symlink_to(members.parent)
        self._natural[name] = driver
        if driver:
            self._bind(name, driver)

    def add_vf(self, pf: str, number: int, name: str, driver: str = "", group: str | None = None) -> None:
        """Make a function one of the virtual ones of another."""
        self.add(name, driver, group)
        (self.root / _DEVICES / pf / f"virtfn{number}").symlink_to(self.root / _DEVICES / name)
        (self.root / _DEVICES / name / "physfn").symlink_to(self.root / _DEVICES / pf)

    def add_netdev(self, name: str, device: str) -> None:
        """Give a function a network device."""
        (self.root / _DEVICES / name / "net" / device).mkdir(parents=True)

    def _modprobe(self, module: str) -> str:
        if module in self.modules:
            self.add_driver(module)
            return ""
        return f"modprobe: FATAL: Module {module} not found"

    def _bind(self, name: str, driver: str) -> None:
        self.add_driver(driver)
        (self.root / _DEVICES / name / "driver").symlink_to(self.root / "sys/bus/pci/drivers" / driver)

    def _write(self, path: Path, text: str) -> None:
        self.written.append((str(path.relative_to(self.root)), text.strip()))
        word = text.strip()
        match path.name:
            case "driver_override":
                path.write_text(f"{word or '(null)'}\n")
            case "unbind":
                (self.root / _DEVICES / word / "driver").unlink()
            case "drivers_probe":
                said = (self.root / _DEVICES / word / "driver_override").read_text().strip()
                driver = self._natural[word] if said == "(null)" else said
                if driver == VFIO and word in self.stubborn:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                if driver and (self.root / "sys/bus/pci/drivers" / driver).is_dir():
                    self._bind(word, driver)
            case "bind":
                if not path.parent.is_dir():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                self._bind(word, path.parent.name)
