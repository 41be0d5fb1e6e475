"""Firmware descriptors (QEMU's docs/interop/firmware.json) and the choice among them; reads no file.

`parse` turns one descriptor's text into a `Firmware`; `select` answers which one a domain gets. A list of
firmwares is in order of preference, as `host.firmware.read_firmwares` gives it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from qvirt.errors import OperationFailed, OperationInvalid
from qvirt.record import Record

INTERFACES: Mapping[str, str] = {"efi": "uefi", "bios": "bios"}
"""QEMU's names of libvirt's <os firmware='...'>."""

TARGET_ARCH: Mapping[str, str] = {"i686": "i386", "armv7l": "arm", "armv6l": "arm"}
"""The architectures that descriptors call by other names than libvirt does."""

DEFAULT_NVRAM: tuple[tuple[str, str], ...] = (
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/AAVMF/AAVMF32_CODE.fd", "/usr/share/AAVMF/AAVMF32_VARS.fd"),
)
"""Loader and template of its variables: what `nvram` in qemu.conf means when it is not set."""


class Target(Record):
    """An architecture (QEMU's name) and patterns of machine types a firmware is made for."""

    arch: str
    machines: tuple[str, ...]


class Firmware(Record):
    """One firmware. path: its descriptor; interfaces: "uefi", "bios", "openfirmware", "uboot".

    device: "flash", "memory" (loaded as a ROM) or "kernel" (loaded as the kernel).
    mode, of flash: "split" (code and variables apart), "combined" or "stateless" (no variables).
    """

    path: str
    interfaces: frozenset[str]
    device: str
    executable: str
    targets: tuple[Target, ...]
    features: frozenset[str]
    format: str = "raw"
    mode: str = "split"
    nvram_template: str | None = None
    nvram_format: str = "raw"

    @property
    def has_secure_boot(self) -> bool:
        """Tell whether it can refuse unsigned boot loaders."""
        return "secure-boot" in self.features

    @property
    def has_enrolled_keys(self) -> bool:
        """Tell whether the variables template holds keys, so that Secure Boot is on."""
        return "enrolled-keys" in self.features

    @property
    def requires_smm(self) -> bool:
        """Tell whether the guest must have SMM, with the flash writable from there alone."""
        return "requires-smm" in self.features

    def runs_on(self, arch: str, machine: str) -> bool:
        """Tell whether it is made for libvirt's architecture and a canonical machine type."""
        arch = TARGET_ARCH.get(arch, arch)
        return any(
            target.arch == arch and any(fnmatchcase(machine, pattern) for pattern in target.machines)
            for target in self.targets
        )


class Wanted(Record):
    """What a domain says about its firmware.

    interface: <os firmware='efi|bios'>; None when <loader> names an image. machine: canonical.
    secure_boot, enrolled_keys: <firmware><feature>; None when not said. loader_secure: <loader secure='yes'>.
    stateless: <loader stateless>. smm: <smm state>. sev: the domain has launch security "sev"; sev_es: with a
    policy that wants its registers encrypted, too.
    """

    arch: str
    machine: str
    interface: str | None = None
    loader: str | None = None
    nvram_template: str | None = None
    secure_boot: bool | None = None
    enrolled_keys: bool | None = None
    loader_secure: bool = False
    stateless: bool | None = None
    smm: bool | None = None
    s3: bool = False
    s4: bool = False
    sev: bool = False
    sev_es: bool = False


def parse(text: bytes | str, path: str) -> Firmware:
    """Read one descriptor; raises ValueError that names the file and what is wrong with it."""
    try:
        value = json.loads(text)
        return _read(value, path)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        reason = f"missing {e}" if isinstance(e, KeyError) else str(e)
        raise ValueError(f"firmware descriptor '{path}' cannot be used: {reason}") from e


def _read(value: Mapping[str, Any], path: str) -> Firmware:
    mapping = value["mapping"]
    device = mapping["device"]
    image: Mapping[str, Any]
    mode, template = "split", None
    match device:
        case "flash":
            image = mapping["executable"]
            mode = mapping.get("mode", "split")
            if mode not in ("split", "combined", "stateless"):
                raise ValueError(f"unknown flash mode '{mode}'")
            if mode == "split":
                template = mapping["nvram-template"]
        case "memory" | "kernel":
            image = mapping
        case _:
            raise ValueError(f"unknown mapping device '{device}'")
    return Firmware(
        path=path,
        interfaces=frozenset(value["interface-types"]),
        device=device,
        executable=str(image["filename"]),
        targets=tuple(Target(t["architecture"], tuple(t["machines"])) for t in value["targets"]),
        features=frozenset(value.get("features", ())),
        format=image.get("format", "raw"),
        mode=mode,
        nvram_template=template["filename"] if template else None,
        nvram_format=template.get("format", "raw") if template else "raw",
    )


def select(firmwares: Iterable[Firmware], wanted: Wanted) -> Firmware | None:
    """Return the firmware a domain gets.

    With an interface wanted there must be one: raises OperationFailed when none fits, OperationInvalid when
    the one that fits needs what the domain turns off. Without, the loader's own descriptor, or None.
    """
    found = next((firmware for firmware in firmwares if matches(firmware, wanted)), None)
    if wanted.interface is None:
        return found
    if found is None:
        raise OperationFailed(
            f"Unable to find any firmware to satisfy '{wanted.interface}'{_reasons(wanted)}"
        )
    if found.requires_smm and wanted.smm is False:
        raise OperationInvalid("domain has SMM turned off but chosen firmware requires it")
    return found


def matches(firmware: Firmware, wanted: Wanted) -> bool:
    """Tell whether a firmware gives all that is wanted."""
    if wanted.interface is not None:
        if INTERFACES[wanted.interface] not in firmware.interfaces:
            return False
    elif firmware.executable != wanted.loader or (
        wanted.nvram_template is not None and wanted.nvram_template != firmware.nvram_template
    ):
        return False
    if not firmware.runs_on(wanted.arch, wanted.machine):
        return False
    # libvirt 9.0 hands out raw images only, and combined ones to nobody.
    mode = "stateless" if wanted.stateless else "split"
    if firmware.device == "flash" and (firmware.format != "raw" or firmware.mode != mode):
        return False
    return (
        wanted.secure_boot in (None, firmware.has_secure_boot)
        and wanted.enrolled_keys in (None, firmware.has_enrolled_keys)
        and (firmware.requires_smm or not wanted.loader_secure)
        and ("acpi-s3" in firmware.features or not wanted.s3)
        and ("acpi-s4" in firmware.features or not wanted.s4)
        and ("amd-sev" in firmware.features or not wanted.sev)
        and ("amd-sev-es" in firmware.features or not wanted.sev_es)
    )


def nvram_template(
    firmwares: Iterable[Firmware], wanted: Wanted, configured: Sequence[tuple[str, str]] = DEFAULT_NVRAM
) -> str | None:
    """Return the template of the variables that belong to a loader the user named, or None.

    configured: pairs of `nvram` in qemu.conf, which count only where no descriptor knows the loader.
    """
    found = select(firmwares, wanted)
    if found is not None:
        return found.nvram_template
    return next((template for loader, template in configured if loader == wanted.loader), None)


class Supported(Record):
    """What the firmwares offer one machine type: images, <os firmware> values, and Secure Boot with SMM."""

    images: tuple[str, ...]
    interfaces: tuple[str, ...]
    secure: bool


def supported(firmwares: Iterable[Firmware], arch: str, machine: str) -> Supported:
    """Collect what the firmwares offer a machine type, for its domain capabilities."""
    fitting = [firmware for firmware in firmwares if firmware.runs_on(arch, machine)]
    offered = frozenset[str]().union(*(firmware.interfaces for firmware in fitting))
    return Supported(
        images=tuple(dict.fromkeys(f.executable for f in fitting if f.device != "kernel")),
        interfaces=tuple(name for name in ("bios", "efi") if INTERFACES[name] in offered),
        secure=any(firmware.requires_smm and firmware.has_secure_boot for firmware in fitting),
    )


def _reasons(wanted: Wanted) -> str:
    """Say what beyond the interface was asked for, as there is usually one thing too many."""
    asked = [
        text
        for text, said in (
            ("secure-boot", wanted.secure_boot),
            ("no secure-boot", wanted.secure_boot is False),
            ("enrolled-keys", wanted.enrolled_keys),
            ("no enrolled-keys", wanted.enrolled_keys is False),
            ("stateless", wanted.stateless),
            ("suspend to memory", wanted.s3),
            ("suspend to disk", wanted.s4),
            ("SEV", wanted.sev),
            ("SEV-ES", wanted.sev_es),
        )
        if said
    ]
    return f" with {', '.join(asked)} for {wanted.arch} {wanted.machine}" if asked else ""
