"""``<features>``: what libvirt refuses, and ``-global`` and devices that a feature becomes by itself.

What a feature does to the machine is in machine.py, what it does to the CPU in cpu.py.
"""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported
from qvirt.model.domain import Domain
from qvirt.model.features import Gic
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.machines import is_arm_virt, is_pseries, is_q35, is_x86
from qvirt.qemu.switches import Device, Option, Switch

MIB = 1 << 20


def default_features(ctx: Context) -> None:
    """Name the interrupt controller of ARM's virt machine, which depends on the host under KVM."""
    features = ctx.domain.features
    if not is_arm_virt(ctx.domain) or (features.gic is not None and features.gic.version is not None):
        return
    version = 2
    if ctx.domain.type == "kvm":
        version = max((x for x, _, kernel in ctx.caps.accel("kvm").gic if kernel), default=2)
    features.gic = Gic(version=str(version))


def check_features(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for features this machine cannot have."""
    features = domain.features
    arch = domain.os.type.arch
    machine = domain.os.type.machine
    pseries_only = (
        ("hpt", features.hpt),
        ("htm", features.htm),
        ("nested-hv", features.nested_hv),
        ("ccf-assist", features.ccf_assist),
        ("cfpc", features.cfpc),
        ("sbbc", features.sbbc),
        ("ibs", features.ibs),
    )
    for name, said in pseries_only:
        if said is not None and not is_pseries(domain):
            raise ConfigUnsupported(_unsupported(name, arch, machine))
    if features.gic is not None and not is_arm_virt(domain):
        raise ConfigUnsupported(_unsupported("gic", arch, machine))
    if features.smm is not None and features.smm.state and not _takes_smm(domain, ctx):
        raise ConfigUnsupported(_unsupported("smm", arch, machine))
    if features.vmport is not None and not ctx.caps.machine_has(machine or "", "vmport"):
        raise ConfigUnsupported(f"vmport is not available with this QEMU binary for machine type '{machine}'")
    wants_vmcoreinfo = features.vmcoreinfo is not None and features.vmcoreinfo.state
    if wants_vmcoreinfo and not ctx.caps.has_device("vmcoreinfo"):
        raise ConfigUnsupported("vmcoreinfo is not available with this QEMU binary")
    _check_hypervisor_features(domain)
    _check_tseg(domain)


def _check_hypervisor_features(domain: Domain) -> None:
    features = domain.features
    arch = domain.os.type.arch
    if features.pvspinlock is not None and not is_x86(domain):
        raise ConfigUnsupported(_unsupported("pvspinlock", arch, domain.os.type.machine))
    if features.hyperv is not None and not is_x86(domain) and arch != "aarch64":
        raise ConfigUnsupported(
            f"Hyper-V features are not supported for architecture '{arch}' or machine type "
            f"'{domain.os.type.machine}'"
        )
    if features.tcg is not None and domain.type != "qemu":
        raise ConfigUnsupported(f"TCG features are incompatible with domain type '{domain.type}'")
    if features.tcg is not None and features.tcg.tb_cache is not None and features.tcg.tb_cache.value % 1024:
        raise ConfigUnsupported("tb-cache size must be an integer multiple of MiB")


def _check_tseg(domain: Domain) -> None:
    smm = domain.features.smm
    if smm is None or smm.tseg is None or not smm.state:
        return
    if not is_q35(domain):
        raise ConfigUnsupported("SMM TSEG is only supported with q35 machine type")
    if smm.tseg.size % MIB:
        raise ConfigUnsupported(f"SMM TSEG size must be divisible by 1 MiB, {smm.tseg.size} bytes is not")


def _takes_smm(domain: Domain, ctx: Context) -> bool:
    return is_x86(domain) and ctx.caps.machine_has(domain.os.type.machine or "", "smm")


def _unsupported(name: str, arch: str | None, machine: str | None) -> str:
    return f"The '{name}' feature is not supported for architecture '{arch}' or machine type '{machine}'"


def tseg_switches(domain: Domain) -> Iterator[Switch]:
    """Yield the size of the memory SMM has at the top."""
    smm = domain.features.smm
    if smm is not None and smm.state and smm.tseg is not None:
        yield Option("global", f"mch.extended-tseg-mbytes={smm.tseg.size // MIB}", origin=smm.tseg)


def secure_loader_switches(domain: Domain) -> Iterator[Switch]:
    """Yield the switch that lets only SMM write the flash of a secure firmware."""
    loader = domain.os.loader
    if loader is not None and loader.secure:
        yield Option("global", "driver=cfi.pflash01,property=secure,value=on", origin=loader)


def vmcoreinfo_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the device through which the guest tells where its crash notes are."""
    feature = domain.features.vmcoreinfo
    if feature is not None and feature.state:
        yield Device({"driver": "vmcoreinfo"}, origin=feature)
