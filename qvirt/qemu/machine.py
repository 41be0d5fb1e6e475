"""The machine: architecture, emulator and machine type when left out, ``-machine`` and ``-accel``."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_arm, is_arm_virt, is_pseries, is_s390, is_x86
from qvirt.qemu.switches import KeyValue, Option, Switch

# fmt: off
ARCHITECTURES = frozenset((
    "alpha", "armv6l", "armv7l", "armv7b", "aarch64", "cris", "i686", "ia64", "itanium", "lm32",
    "loongarch64", "m68k", "microblaze", "microblazeel", "mips", "mipsel", "mips64", "mips64el", "or32",
    "parisc", "parisc64", "ppc", "ppcle", "ppc64", "ppc64le", "ppcemb", "riscv32", "riscv64", "s390", "s390x",
    "sh4", "sh4eb", "sparc", "sparc64", "unicore32", "x86_64", "xtensa", "xtensaeb",
))
# fmt: on
"""libvirt's names of architectures."""

EMULATOR_TARGETS = {"i686": "i386", "armv6l": "arm", "armv7l": "arm", "or32": "or1k", "parisc": "hppa"}
"""QEMU's names of architectures, in its binaries, where they differ from libvirt's."""

PREFERRED_MACHINES = {
    "alpha": "clipper", "cris": "axis-dev88", "i686": "pc", "lm32": "lm32-evr", "m68k": "mcf5208evb",
    "microblaze": "petalogix-s3adsp1800", "microblazeel": "petalogix-s3adsp1800", "mips": "malta",
    "mipsel": "malta", "mips64": "malta", "mips64el": "malta", "or32": "or1k-sim", "ppc": "g3beige",
    "ppc64": "pseries", "ppc64le": "pseries", "ppcemb": "bamboo", "riscv32": "spike", "riscv64": "spike",
    "s390x": "s390-ccw-virtio", "sh4": "shix", "sh4eb": "shix", "sparc": "SS-5", "sparc64": "sun4u",
    "unicore32": "puv3", "x86_64": "pc", "xtensa": "sim", "xtensaeb": "sim",
}  # fmt: skip
"""The machine type a domain gets that names none; what QEMU itself prefers counts where it has another."""

_RUNS_ALSO = {
    "x86_64": frozenset({"i686"}),
    "aarch64": frozenset({"armv6l", "armv7l"}),
    "armv7l": frozenset({"armv6l"}),
    "ppc64": frozenset({"ppc64le"}),
}


def emulator_names(arch: str) -> tuple[str, ...]:
    """Return the file names an emulator of the architecture may have, best first."""
    names = [f"qemu-system-{EMULATOR_TARGETS.get(arch, arch)}"]
    if arch == "ppc64le":
        names.append("qemu-system-ppc64")
    if arch == "i686":
        names.append("qemu-system-x86_64")
    if arch in ("i686", "x86_64"):
        names.extend(("qemu-kvm", "kvm"))
    return tuple(names)


def runs_arch(emulator_arch: str, arch: str) -> bool:
    """Tell whether an emulator runs guests of an architecture (both in libvirt's words)."""
    return emulator_arch == arch or arch in _RUNS_ALSO.get(emulator_arch, ())


def resolve_machine(ctx: Context) -> None:
    """Fill in architecture, emulator and machine type; an alias becomes the machine it stands for."""
    os = ctx.domain.os.type
    if not os.value:
        raise XmlError("an os <type> must be specified")
    if os.arch is None:
        os.arch = ctx.host.arch
    elif os.arch not in ARCHITECTURES:
        raise ConfigUnsupported(f"Unknown architecture {os.arch}")
    devices = ctx.domain.devices
    if devices.emulator is None:
        devices.emulator = ctx.caps.emulator
    if os.machine is None:
        preferred = PREFERRED_MACHINES.get(os.arch)
        machine = ctx.caps.machine(preferred) if preferred else None
        machine = machine or ctx.caps.default_machine
        if machine is None:
            raise ConfigUnsupported(
                f"could not get preferred machine for {devices.emulator} type={ctx.domain.type}"
            )
        os.machine = machine.name
    else:
        known = ctx.caps.machine(os.machine)
        if known is not None:
            os.machine = known.name


def check_machine(ctx: Context) -> None:
    """Refuse what this emulator does not run. Raises ConfigUnsupported."""
    os = ctx.domain.os.type
    emulator = ctx.domain.devices.emulator
    if os.value != "hvm":
        raise ConfigUnsupported(f"Emulator '{emulator}' does not support os type '{os.value}'")
    if os.arch is not None and not runs_arch(ctx.caps.arch, os.arch):
        raise ConfigUnsupported(f"Emulator '{emulator}' does not support arch '{os.arch}'")
    if not _has_virt_type(ctx):
        raise ConfigUnsupported(f"Emulator '{emulator}' does not support virt type '{ctx.domain.type}'")
    if os.machine is None or ctx.caps.machine(os.machine) is None:
        raise ConfigUnsupported(f"Emulator '{emulator}' does not support machine type '{os.machine}'")


def _has_virt_type(ctx: Context) -> bool:
    if ctx.domain.type == "kvm":
        return ctx.caps.kvm
    return ctx.domain.type == "qemu" and "tcg" in ctx.caps.accels


def ram_backend_id(domain: Domain, ctx: Context) -> str | None:
    """Return the id the main memory's backend must have, None where the machine takes no backend."""
    machine = ctx.caps.machine(domain.os.type.machine or "")
    return machine.default_ram_id if machine is not None else None


def machine_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield ``-machine`` and ``-accel``."""
    yield KeyValue("machine", _machine_props(domain, ctx), "type", origin=domain.os.type)
    yield _accel(domain)


def _machine_props(domain: Domain, ctx: BuildContext) -> dict[str, JsonValue]:
    features = domain.features
    props: dict[str, JsonValue] = {"type": domain.os.type.machine, "usb": False}
    if features.vmport is not None:
        props["vmport"] = features.vmport.state
    if features.smm is not None:
        props["smm"] = features.smm.state
    _add_irqchip(domain, ctx, props)
    dump_core = domain.memory.dump_core if domain.memory is not None else None
    props["dump-guest-core"] = ctx.settings.dump_guest_core if dump_core is None else dump_core
    if domain.memory_backing.nosharepages:
        props["mem-merge"] = False
    _add_iommu(domain, props)
    if any(dev.__dict__.get("model") == "nvdimm" for dev in domain.devices.memory):
        props["nvdimm"] = True
    if domain.cpu is not None and domain.cpu.numa is not None and _has_hmat(domain):
        props["hmat"] = True
    _add_pseries(domain, props)
    _add_s390(domain, props)
    if domain.launch_security is not None:
        props["confidential-guest-support"] = "lsec0"
    cells = domain.cpu is not None and domain.cpu.numa is not None and domain.cpu.numa.cells
    if not cells:
        ram_id = ram_backend_id(domain, ctx)
        if ram_id is not None:
            props["memory-backend"] = ram_id
    if domain.os.loader is not None and domain.os.loader.type == "pflash" and domain.os.loader.path:
        props["pflash0"] = "libvirt-pflash0-format"
        if domain.os.nvram is not None:
            props["pflash1"] = "libvirt-pflash1-format"
    if domain.os.bios.useserial and ctx.caps.machine_has(domain.os.type.machine or "", "graphics"):
        props["graphics"] = False
    if _states_acpi(domain, ctx):
        props["acpi"] = features.acpi
    hpet = domain.clock.timer("hpet") if domain.clock is not None else None
    if hpet is not None and hpet.present is not None and states_hpet(domain, ctx):
        props["hpet"] = hpet.present
    return props


def states_hpet(domain: Domain, ctx: Context) -> bool:
    """Tell whether the machine is told of its HPET: QEMU that reports ACPI has no ``-no-hpet`` any more."""
    return _states_acpi(domain, ctx) and ctx.caps.machine_has(domain.os.type.machine or "", "hpet")


def _states_acpi(domain: Domain, ctx: Context) -> bool:
    machine = ctx.caps.machine(domain.os.type.machine or "")
    # QEMU that reports a machine's ACPI has the property; older ones are told with -no-acpi
    return machine is not None and machine.acpi is not None and (is_x86(domain) or is_arm(domain))


def no_acpi(domain: Domain, ctx: Context) -> Iterator[Switch]:
    """Yield ``-no-acpi`` where ACPI is off and the machine cannot be told otherwise."""
    has_switch = is_x86(domain) or (ctx.caps.arch == "aarch64" and is_arm_virt(domain))
    if has_switch and not domain.features.acpi and not _states_acpi(domain, ctx):
        yield Option("no-acpi")


def _has_hmat(domain: Domain) -> bool:
    numa = domain.cpu.numa if domain.cpu is not None else None
    return numa is not None and (
        any(cell.caches for cell in numa.cells)
        or (numa.interconnects is not None and not numa.interconnects.is_empty())
    )


def _add_irqchip(domain: Domain, ctx: Context, props: dict[str, JsonValue]) -> None:
    features = domain.features
    if features.ioapic is not None:
        # the userspace I/O APIC needs the local APICs to stay in the kernel
        props["kernel_irqchip"] = {"qemu": "split", "kvm": "on"}[features.ioapic.driver or "kvm"]
    version = features.gic.version if features.gic is not None else None
    # libvirt asks the 64-bit machine type alone for the property
    takes_version = ctx.caps.target != "arm" and ctx.caps.machine_has(
        domain.os.type.machine or "", "gic-version"
    )
    if version is not None and (version != "2" or takes_version):
        props["gic-version"] = version


def _add_iommu(domain: Domain, props: dict[str, JsonValue]) -> None:
    for iommu in domain.devices.iommus:
        if iommu.__dict__.get("model") == "smmuv3":
            props["iommu"] = "smmuv3"


def _add_pseries(domain: Domain, props: dict[str, JsonValue]) -> None:
    features = domain.features
    cpu = domain.cpu
    if cpu is not None and cpu.mode == "host-model" and cpu.model is not None and is_pseries(domain):
        props["max-cpu-compat"] = cpu.model.name
    if features.hpt is not None:
        props["resize-hpt"] = features.hpt.resizing
        if features.hpt.maxpagesize is not None:
            props["cap-hpt-max-page-size"] = f"{features.hpt.maxpagesize.value}k"
    for name, state in (
        ("cap-htm", features.htm),
        ("cap-nested-hv", features.nested_hv),
        ("cap-ccf-assist", features.ccf_assist),
    ):
        if state is not None:
            props[name] = state.state
    for name, choice in (("cap-cfpc", features.cfpc), ("cap-sbbc", features.sbbc), ("cap-ibs", features.ibs)):
        if choice is not None:
            props[name] = choice.value


def _add_s390(domain: Domain, props: dict[str, JsonValue]) -> None:
    for cipher in domain.keywrap.ciphers if domain.keywrap is not None else ():
        if not is_s390(domain):
            raise ConfigUnsupported(f"{cipher.name}-key-wrap is not available with this QEMU binary")
        props[f"{cipher.name}-key-wrap"] = cipher.state
    for dev in (*domain.devices.disks, *domain.devices.interfaces) if is_s390(domain) else ():
        if dev.boot is not None and dev.boot.loadparm:
            props["loadparm"] = dev.boot.loadparm.upper()
            break


def _accel(domain: Domain) -> Switch:
    if domain.type == "kvm":
        props: dict[str, JsonValue] = {"accel": "kvm"}
        ring = domain.features.kvm.dirty_ring if domain.features.kvm is not None else None
        if ring is not None and ring.state:
            props["dirty-ring-size"] = ring.size
        return KeyValue("accel", props, "accel", origin=domain)
    props = {"accel": "tcg"}
    if domain.features.tcg is not None and domain.features.tcg.tb_cache is not None:
        props["tb-size"] = domain.features.tcg.tb_cache.value >> 10
    return KeyValue("accel", props, "accel", origin=domain)
