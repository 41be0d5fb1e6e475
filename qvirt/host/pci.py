"""PCI functions of this machine: what sysfs says of them, and their way to vfio-pci and back.

The kernel gives a guest whole IOMMU groups: what one function of a group can reach, all can. So whoever is in
a function's group must be at VFIO, too, or without a driver. Everything here blocks, if only for what a
driver needs to let go of its device; the caller runs it off the loop, but for `Bus.group_of` and
`Bus.is_conventional`, which ask sysfs once.
"""

import contextlib
import errno
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, OperationInvalid, SystemError_
from qvirt.host.sysfs import read_text
from qvirt.record import Record

#: the driver that gives a function to a process
VFIO = "vfio-pci"

_DEVICES = "sys/bus/pci/devices"
_GROUPS = "sys/kernel/iommu_groups"
#: drivers that leave memory alone, so that the kernel lets them stay in a guest's group
_HARMLESS = frozenset({"", "pci-stub", "pcieport"})
#: where a function's configuration space says what kind of header it has; all but 0 are bridges
_HEADER_TYPE = 0x0E
_MULTIFUNCTION = 0x80
#: the configuration space of a conventional function, bytes
_CONVENTIONAL_SPACE = 256
_NAME = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_MODPROBE_DEADLINE = 30.0


class Function(Record):
    """One function. driver: '' for none. override: the driver it is kept for, '' for none.

    group: number of its IOMMU group, None without one. at_vfio: it can be given to a process. is_bridge: it
    has other devices behind it.
    """

    name: str
    driver: str
    override: str
    group: str | None
    at_vfio: bool
    is_bridge: bool


class Bus:
    """The PCI functions below a root that tests move."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return a function's folder."""
        return self.root / _DEVICES / name

    def has(self, name: str) -> bool:
        """Tell whether there is a function of that name, such as ``0000:06:12.5``."""
        return self.path(name).exists()

    def group_of(self, name: str) -> str | None:
        """Return the number of a function's IOMMU group, None when it has none. Never waits."""
        return _target(self.path(name) / "iommu_group") or None

    def driver_of(self, name: str) -> str:
        """Return the driver that has a function, '' for none."""
        return _target(self.path(name) / "driver")

    def is_conventional(self, name: str) -> bool:
        """Tell whether a function is there and not PCI Express, by the size of its configuration space."""
        try:
            return (self.path(name) / "config").stat().st_size <= _CONVENTIONAL_SPACE
        except OSError:
            return False

    def look(self, name: str) -> Function:
        """Return what the kernel says of a function now. Raises SystemError_ where there is none."""
        config = self.path(name) / "config"
        try:
            with config.open("rb") as file:
                head = file.read(_HEADER_TYPE + 1)
        except OSError as error:
            raise SystemError_(
                f"Device {name} not found: could not access {config}", error, domain=ErrorDomain.NONE
            ) from error
        kind = head[_HEADER_TYPE] & ~_MULTIFUNCTION if len(head) > _HEADER_TYPE else 0
        override = read_text(self.path(name) / "driver_override") or ""
        return Function(
            name,
            self.driver_of(name),
            "" if override == "(null)" else override,
            self.group_of(name),
            self._is_at_vfio(self.path(name)),
            bool(kind),
        )

    def _is_at_vfio(self, folder: Path) -> bool:
        # drivers of single makers that do as vfio-pci does have this folder, from Linux 6.2 on
        return _target(folder / "driver") == VFIO or (folder / "vfio-dev").is_dir()

    # ------------------------------------------------------------------ refusals

    def unsupported(self) -> str | None:
        """Say why this machine gives no PCI function to a guest, with the remedy; None when it does."""
        try:
            has_groups = any((self.root / _GROUPS).iterdir())
        except OSError:
            has_groups = False
        if not has_groups:
            return (
                "the kernel has no IOMMU in use; turn it on in the firmware (VT-d, AMD-Vi, SMMU), and on "
                "Intel machines start the kernel with intel_iommu=on"
            )
        return None

    def load_driver(self) -> None:
        """Have the kernel load vfio-pci, where it is not there. Raises InternalError with the reason."""
        driver = self.root / "sys/bus/pci/drivers" / VFIO
        if driver.is_dir():
            return
        said = self._modprobe(VFIO)
        if not driver.is_dir():
            raise InternalError(
                f"Failed to load PCI stub module {VFIO}: {said or 'it is there, and no driver is'}; "
                f"install the kernel's module, or allow it in /etc/modprobe.d",
                domain=ErrorDomain.NONE,
            )

    def _modprobe(self, module: str) -> str:
        """Load a module; returns what is said against it. -b: what an administrator bars stays out."""
        try:
            done = subprocess.run(
                ["modprobe", "-b", "--", module],
                check=False,
                capture_output=True,
                timeout=_MODPROBE_DEADLINE,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        said = done.stderr.decode(errors="replace").strip()
        return said or (f"modprobe ended with {done.returncode}" if done.returncode else "")

    def strangers(self, group: str, mine: Iterable[str]) -> dict[str, str]:
        """Return who keeps a group from being given to a guest: the other functions of it, and their drivers.

        mine: functions that the guest has or is going to have.
        """
        found: dict[str, str] = {}
        own = set(mine)
        try:
            members = sorted((self.root / _GROUPS / group / "devices").iterdir())
        except OSError:
            return found  # the group has just gone, with its devices
        for member in members:
            driver = _target(member / "driver")
            if member.name in own or driver in _HARMLESS or self._is_at_vfio(member):
                continue
            if _NAME.fullmatch(member.name) and self.look(member.name).is_bridge:
                continue
            found[member.name] = driver
        return found

    # ------------------------------------------------------------------ to and fro

    def take(self, name: str) -> None:
        """Bind a function to vfio-pci, whatever has it now. Raises SystemError_; then it is as it was."""
        before = self.look(name)
        if before.at_vfio:
            return
        try:
            self._override(name, VFIO)
            self._unbind(name)
            self._probe(name)
            if self.driver_of(name) != VFIO:
                raise OSError(errno.ENODEV, f"the kernel did not bind it to {VFIO}: its log says why")
        except OSError as error:
            failures = self.give_back(name, before.driver, before.override)
            raise SystemError_(
                "; ".join([f"Failed to bind PCI device '{name}' to {VFIO}", *failures]), error
            ) from error

    def give_back(self, name: str, driver: str, override: str = "") -> list[str]:
        """Give a function back to the driver it had, '' for none; returns what could not be done.

        Harmless for one that was never taken, was given back, or has gone.
        """
        if not self.has(name) or driver == VFIO:
            return []
        try:
            taken = read_text(self.path(name) / "driver_override") == VFIO
            if taken:
                self._override(name, "")
            if self.driver_of(name) == VFIO:
                self._unbind(name)
            if driver and not self.driver_of(name):
                with contextlib.suppress(OSError):  # who has it then is what counts
                    self._probe(name)
                if not self.driver_of(name):
                    self._write(self.root / "sys/bus/pci/drivers" / driver / "bind", name)
            if taken and override:
                self._override(name, override)
        except OSError as error:
            return [f"cannot give PCI device {name} back to {driver or 'nobody'}: {error.strerror or error}"]
        return []

    def _override(self, name: str, driver: str) -> None:
        self._write(self.path(name) / "driver_override", driver or "\n")

    def _unbind(self, name: str) -> None:
        if self.driver_of(name):
            self._write(self.path(name) / "driver/unbind", name)

    def _probe(self, name: str) -> None:
        self._write(self.root / "sys/bus/pci/drivers_probe", name)

    def _write(self, path: Path, text: str) -> None:
        """Write into one of sysfs's files. Raises OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _target(link: Path) -> str:
    """Return the last word of where a link leads, '' for what is none."""
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


#: this machine's
BUS = Bus()


def check(
    bus: Bus,
    wanted: Mapping[str, bool],
    *,
    vfio_named: bool,
    about: Mapping[str, str],
    has: Iterable[str] = (),
) -> dict[str, Function]:
    """Look at the functions a guest is to get, and refuse what cannot be, before anything changes.

    wanted: function -> whether we may take it from its driver. vfio_named: the document names the driver.
    about: where a function stands in the document. has: functions the guest has already. Loads vfio-pci where
    it is needed.
    Raises SystemError_ for what is not there, ConfigUnsupported for bridges and machines without an IOMMU,
    OperationInvalid for one that is not at VFIO and may not be brought there, and for a group that the host
    uses.
    """
    found = {name: bus.look(name) for name in wanted}
    for one in found.values():
        if one.is_bridge:
            raise ConfigUnsupported(
                f"Non-endpoint PCI devices cannot be assigned to guests: {one.name}{about[one.name]} is a "
                "bridge",
                domain=ErrorDomain.NONE,
            )
    why = bus.unsupported()
    groupless = next((one.name for one in found.values() if one.group is None), None)
    if why is None and groupless is not None:
        why = f"PCI device {groupless} is behind no IOMMU"
    if why is not None:
        what = "VFIO PCI passthrough" if vfio_named else "passthrough of host PCI devices"
        raise ConfigUnsupported(f"host doesn't support {what}: {why}")
    for one in found.values():
        if not wanted[one.name] and not one.at_vfio:
            has = f"driver {one.driver} has it" if one.driver else "it has no driver"
            raise OperationInvalid(
                f"Unmanaged PCI device {one.name} must be manually detached from the host: {has}"
                f"{about[one.name]}; bind it to {VFIO}, or say managed='yes'",
                domain=ErrorDomain.NONE,
            )
    for one in found.values():
        strangers = bus.strangers(one.group or "", {*found, *has})
        if strangers:
            listed = ", ".join(f"{name} (driver {driver})" for name, driver in strangers.items())
            raise OperationInvalid(
                f"PCI device {one.name}{about[one.name]}: IOMMU group {one.group} is not viable: the host "
                f"uses {listed}, which the group has, too; give the guest these as well, or bind them to "
                f"{VFIO}",
                domain=ErrorDomain.NONE,
            )
    if not all(one.at_vfio for one in found.values()):
        bus.load_driver()
    return found
