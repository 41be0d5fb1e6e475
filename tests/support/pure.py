"""A context for tests that touch no machine: stored emulator facts, made-up randomness, no host."""

import functools
import itertools
import json
from pathlib import Path

from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext, HostFacts
from qvirt.qemu.firmware import Firmware, Target

CAPS = Path(__file__).parent.parent / "data" / "caps"
NOW = 1_700_000_000.0
"""Seconds since the epoch in every test."""

_PC = Target("x86_64", ("pc-i440fx-*", "pc-q35-*"))
FIRMWARES = (
    Firmware(
        path="/firmware/50-secure.json",
        interfaces=frozenset({"uefi"}),
        device="flash",
        executable="/firmware/OVMF_CODE.secure.fd",
        targets=(Target("x86_64", ("pc-q35-*",)),),
        features=frozenset({"acpi-s3", "secure-boot", "enrolled-keys", "requires-smm"}),
        nvram_template="/firmware/OVMF_VARS.secure.fd",
    ),
    Firmware(
        path="/firmware/60-plain.json",
        interfaces=frozenset({"uefi"}),
        device="flash",
        executable="/firmware/OVMF_CODE.fd",
        targets=(_PC,),
        features=frozenset({"acpi-s3"}),
        nvram_template="/firmware/OVMF_VARS.fd",
    ),
    Firmware(
        path="/firmware/70-bios.json",
        interfaces=frozenset({"bios"}),
        device="memory",
        executable="/firmware/bios.bin",
        targets=(_PC,),
        features=frozenset(),
    ),
)
"""Firmwares of an imaginary host."""


@functools.cache
def caps(target: str = "x86_64") -> EmulatorCaps:
    """Return the stored facts of a QEMU 7.2."""
    return EmulatorCaps.from_json(json.loads((CAPS / f"qemu-7.2-{target}.json").read_bytes()))


def caps_for(domain: Domain) -> EmulatorCaps:
    """Return the facts of the emulator a document names, or of the one it would get."""
    emulator = domain.devices.emulator
    arch = domain.os.type.arch or ""
    target = (
        emulator.rpartition("qemu-system-")[2]
        if emulator
        else {"i686": "i386", "armv7l": "arm"}.get(arch, arch)
    )
    return caps(target if (CAPS / f"qemu-7.2-{target}.json").exists() else "x86_64")


def context(domain: Domain, **settings: object) -> BuildContext:
    """Return a context whose generated MACs and UUIDs count up from one."""
    macs, uuids = itertools.count(1), itertools.count(1)
    return BuildContext(
        domain=domain,
        caps=caps_for(domain),
        generate_mac=lambda: f"52:54:00:00:00:{next(macs):02x}",
        generate_uuid=lambda: f"00000000-0000-4000-8000-{next(uuids):012d}",
        host=HostFacts(kvm=True, firmwares=FIRMWARES, hugepage_mounts=((2048, "/dev/hugepages"),)),
        now=NOW,
        **settings,  # type: ignore[arg-type]
    )


def completed(text: str, caps: EmulatorCaps | None = None) -> Domain:
    """Read and complete a document, for another emulator than the one it names if so wished."""
    domain = parse_domain(text)
    ctx = context(domain)
    ctx.caps = caps or ctx.caps
    complete(domain, ctx)
    return domain
