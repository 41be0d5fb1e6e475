"""``<cpu>``: the default model, and ``-cpu``."""

from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, CpuIncompatible, InternalError
from qvirt.model.cpu import Cpu, CpuFeature, CpuModel, Vendor
from qvirt.model.domain import Domain
from qvirt.qemu.caps import ModelExpansion
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.cpu_documents import CpuDocument, compare_document
from qvirt.qemu.cpumodels import (
    PPC64_MODELS,
    Compared,
    Processor,
    describe_guest,
    host_model,
    ordered,
    processor_of,
    to_qemu,
    usable_models,
)
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_pseries, is_s390, is_x86
from qvirt.qemu.switches import KeyValue, Option, Switch
from qvirt.qemu.x86_models import FEATURES, MODEL_BY_NAME, features_of
from qvirt.record import replace

UNSPEAKABLE = frozenset({"cmt", "mbm_total", "mbm_local", "osxsave", "ospke"})
"""Features of a host CPU that QEMU has no property for; never passed on."""

#: architectures whose default CPU model, as QEMU tells it, also holds under KVM
_DEFAULT_MODEL_UNDER_KVM = frozenset({"i686", "x86_64", "s390", "s390x", "ppc64", "ppc64le"})
_DEFAULT_MODEL_ARCHES = _DEFAULT_MODEL_UNDER_KVM | {
    "armv6l",
    "armv7l",
    "aarch64",
    "riscv32",
    "riscv64",
}

_CACHE: dict[str, dict[str, JsonValue]] = {
    "emulate": {"l3-cache": True, "host-cache-info": False},
    "passthrough": {"host-cache-info": True, "l3-cache": False},
    "disable": {"host-cache-info": False, "l3-cache": False},
}


def default_cpu(ctx: Context) -> None:
    """Name the CPU model the machine type has by itself, and fill in how strictly a model is checked."""
    domain = ctx.domain
    if domain.cpu is None or ((domain.cpu.mode or "custom") == "custom" and _model(domain.cpu) is None):
        _name_default_model(domain, ctx)
    cpu = domain.cpu
    if cpu is None:
        return
    has_model = _model(cpu) is not None
    if cpu.mode is None and has_model:
        cpu.mode = "custom"
    if cpu.mode in ("host-passthrough", "maximum"):
        cpu.model = None
    if cpu.model is not None:
        cpu.model.fallback = (cpu.model.fallback or "allow") if has_model else None
        if cpu.model.is_empty():
            cpu.model = None
    if cpu.mode == "custom" and has_model:
        cpu.match = cpu.match or "exact"
    else:
        cpu.match = None
    _check_cache(domain, cpu)
    for feature in cpu.features:
        feature.policy = feature.policy or "require"
    _check_sve(cpu)
    if cpu.mode is not None and cpu.check_level is None:
        cpu.check_level = _check_level(domain, cpu)
    if cpu.mode == "host-passthrough" and cpu.migratable is None and is_x86(domain):
        cpu.migratable = _takes_migratable(ctx)


def _check_sve(cpu: Cpu) -> None:
    policies = {feature.name: feature.policy for feature in cpu.features if feature.name.startswith("sve")}
    if policies.pop("sve", None) == "disable" and "require" in policies.values():
        raise ConfigUnsupported("SVE disabled, but SVE vector lengths provided")


def _takes_migratable(ctx: Context) -> bool:
    # libvirt asks the 64-bit CPU type alone for the property
    return ctx.caps.target == "x86_64"


def _model(cpu: Cpu) -> str | None:
    return cpu.model.name if cpu.model is not None else None


def _name_default_model(domain: Domain, ctx: Context) -> None:
    arch = domain.os.type.arch
    if arch not in _DEFAULT_MODEL_ARCHES or (domain.type != "qemu" and arch not in _DEFAULT_MODEL_UNDER_KVM):
        return
    machine = ctx.caps.machine(domain.os.type.machine or "")
    kind = machine.default_cpu_type if machine is not None else None
    if kind is None:
        return
    # several names may stand for one QOM type; libvirt writes POWER models in capitals
    names = [cpu.name for cpu in ctx.caps.accel(domain.type).cpus if cpu.type == kind]
    known = (name.upper() for name in names if name.upper() in PPC64_MODELS)
    model = next(known, names[0] if names else None)
    if model is None:
        return
    if model == "host" and domain.type != "kvm":
        raise ConfigUnsupported(
            f'QEMU reports invalid default CPU model "host" for non-kvm domain virt type: {domain.type}'
        )
    cpu = domain.cpu = domain.cpu or Cpu()
    if model == "host":
        cpu.mode = "host-model" if is_s390(domain) else "host-passthrough"
        return
    # the default may not run on every host: QEMU drops what the host lacks, so nothing is checked
    cpu.mode, cpu.match, cpu.check_level = "custom", "exact", "none"
    cpu.model = CpuModel(fallback="forbid", name=model)


def _check_level(domain: Domain, cpu: Cpu) -> str:
    if cpu.mode in ("host-passthrough", "maximum"):
        return "none"
    return "none" if cpu.mode == "custom" and domain.type == "qemu" else "partial"


def _check_cache(domain: Domain, cpu: Cpu) -> None:
    cache = cpu.cache
    if cache is None:
        return
    if not is_x86(domain):
        raise ConfigUnsupported(
            f"CPU cache specification is not supported for '{domain.os.type.arch}' architecture"
        )
    if cache.mode == "emulate":
        if cache.level != 3:
            raise ConfigUnsupported("CPU cache mode 'emulate' can only be used with level='3'")
        return
    if cache.mode == "passthrough" and cpu.mode not in ("host-passthrough", "maximum"):
        raise ConfigUnsupported(
            "CPU cache mode 'passthrough' can only be used with 'host-passthrough' / 'maximum' CPUs"
        )
    if cache.level is not None:
        raise ConfigUnsupported(f"unsupported CPU cache level for mode '{cache.mode}'")


def check_cpu(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for a CPU the emulator cannot make."""
    cpu = domain.cpu
    if cpu is None:
        return
    addr = cpu.maxphysaddr
    if addr is not None:
        if addr.mode == "emulate" and addr.bits is None:
            raise ConfigUnsupported(
                "if using CPU maximum physical address mode='emulate', bits= must be specified too"
            )
        if addr.mode == "passthrough" and addr.bits is not None:
            raise ConfigUnsupported(
                "CPU maximum physical address bits number specification cannot be used with "
                "mode='passthrough'"
            )


def cpu_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield ``-cpu``."""
    props: dict[str, JsonValue] = {}
    cpu = domain.cpu
    if cpu is not None and cpu.mode is not None:
        _add_model(domain, cpu, ctx, props)
    _add_timers(domain, props)
    _add_paravirtual(domain, props)
    if cpu is not None:
        if cpu.cache is not None:
            props.update(_CACHE[cpu.cache.mode])
            if cpu.mode not in ("host-passthrough", "maximum"):
                del props["host-cache-info"]  # other models never show the host's caches
        if cpu.maxphysaddr is not None:
            if cpu.maxphysaddr.mode == "passthrough":
                props["host-phys-bits"] = True
            else:
                props["phys-bits"] = cpu.maxphysaddr.bits
    if not props:
        return
    if "model" not in props:
        base = "qemu32" if domain.os.type.arch == "i686" else "qemu64"
        props = {"model": base, **props}
    bare = "hv-crash" if props.pop("hv-crash", None) else None
    switch = KeyValue("cpu", props, "model", origin=cpu)
    if bare is not None:
        # the one enlightenment libvirt names without a value
        yield Option("cpu", f"{switch.to_argv()[1]},{bare}", origin=cpu)
        return
    yield switch


def _add_model(domain: Domain, cpu: Cpu, ctx: BuildContext, props: dict[str, JsonValue]) -> None:
    match cpu.mode:
        case "host-passthrough" | "maximum":
            if cpu.mode == "host-passthrough" and (domain.type != "kvm" or not _same_arch(domain, ctx)):
                raise ConfigUnsupported(_unsupported_mode(domain, ctx, cpu.mode))
            props["model"] = "host" if cpu.mode == "host-passthrough" else "max"
            if cpu.migratable is not None and _takes_migratable(ctx):
                props["migratable"] = cpu.migratable
        case "host-model" if is_pseries(domain) and domain.type == "kvm":
            props["model"] = "host"
        case _:
            cpu = settle_cpu(domain, ctx) or cpu
            props["model"] = _model(cpu)
    if cpu.model is not None and cpu.model.vendor_id:
        props["vendor"] = cpu.model.vendor_id
    for feature in cpu.features:
        if feature.name not in UNSPEAKABLE and feature.policy != "optional":
            props[to_qemu(feature.name)] = feature.policy in ("force", "require")


def _unsupported_mode(domain: Domain, ctx: Context, mode: str) -> str:
    return (
        f"CPU mode '{mode}' for {domain.os.type.arch} {domain.type} domain on {ctx.host.arch} host is not "
        "supported by hypervisor"
    )


def settle_cpu(domain: Domain, ctx: Context) -> Cpu | None:
    """Return the CPU a start gives the guest: a named model for host-model, no feature left optional.

    None where nothing changes. Raises CpuIncompatible for a host that lacks what is asked for and checked,
    ConfigUnsupported for a mode that is not to be had.
    """
    cpu = domain.cpu
    if cpu is None or cpu.mode not in ("custom", "host-model"):
        return None
    if not is_x86(domain) or not _same_arch(domain, ctx):
        if cpu.mode == "host-model":
            raise ConfigUnsupported(_unsupported_mode(domain, ctx, "host-model"))
        return None
    if cpu.mode == "host-model":
        return _settle_host_model(domain, cpu, ctx)
    _check_names(cpu)
    if cpu.check_level == "partial":
        _compare(domain, cpu, ctx)
    if cpu.match == "minimum":
        return _settle_host_model(domain, cpu, ctx)
    removed = _removed(cpu)
    is_known = _is_known(domain, cpu, ctx)
    if is_known and not removed and all(feature.policy != "optional" for feature in cpu.features):
        return None
    settled = cpu.copy() if is_known else _translate(domain, cpu, ctx)
    settled.features += [CpuFeature(policy="disable", name=name) for name in removed]
    host = host_model(ctx.caps, domain.type, migratable=True)
    for feature in settled.features:
        if feature.policy == "optional":
            known = host is not None and feature.name in host.features
            feature.policy = "require" if known else "disable"
    return settled


def _removed(cpu: Cpu) -> list[str]:
    """Return the features the model no longer has, where the document does not speak of them.

    They are turned off by name, so that no emulator that still gives the model one of them does.
    """
    model = MODEL_BY_NAME.get(_model(cpu) or "")
    said = {feature.name for feature in cpu.features}
    return [name for name in model.removed.split() if name not in said] if model is not None else []


def _is_known(domain: Domain, cpu: Cpu, ctx: Context) -> bool:
    """Tell whether the emulator has the model; what does not list its models has all."""
    listed = ctx.caps.accel(domain.type).cpus
    name = _model(cpu)
    return name is None or not listed or any(model.name == name for model in listed)


def _translate(domain: Domain, cpu: Cpu, ctx: Context) -> Cpu:
    """Return a CPU in terms of a model the emulator has. Raises ConfigUnsupported where that is forbidden."""
    name = _model(cpu) or ""
    model = MODEL_BY_NAME[name]
    signature = next(((s.family, s.model, s.steppings[0]) for s in model.signatures), None)
    found = None
    if cpu.model is None or cpu.model.fallback != "forbid":
        processor = Processor(model.vendor, signature, features_of(name))
        found = describe_guest(processor, usable_models(ctx.caps.accel(domain.type)))
    if found is None:
        raise ConfigUnsupported(f"CPU model {name} is not supported by hypervisor")
    settled = cpu.copy()
    settled.model = CpuModel(
        fallback=cpu.model.fallback if cpu.model is not None else None,
        vendor_id=cpu.model.vendor_id if cpu.model is not None else None,
        name=found.model,
    )
    policies = dict.fromkeys(found.require, "require") | dict.fromkeys(found.disable, "disable")
    policies |= {feature.name: feature.policy or "require" for feature in cpu.features}
    settled.features = [CpuFeature(policy=policy, name=name) for name, policy in policies.items()]
    return settled


def _check_names(cpu: Cpu) -> None:
    """Refuse models and features that libvirt's XML cannot name."""
    name = _model(cpu)
    if name is not None and name not in MODEL_BY_NAME:
        raise InternalError(f"Unknown CPU model {name}", domain=ErrorDomain.CPU)
    for feature in cpu.features:
        if feature.name not in FEATURES:
            raise ConfigUnsupported(f"unknown CPU feature: {feature.name}")


def _settle_host_model(domain: Domain, cpu: Cpu, ctx: Context) -> Cpu:
    host = host_model(ctx.caps, domain.type, migratable=True)
    if host is None:
        raise ConfigUnsupported(_unsupported_mode(domain, ctx, "host-model"))
    if cpu.check_level == "partial" and cpu.mode == "host-model":
        if _model(cpu) in MODEL_BY_NAME:
            _compare(domain, cpu, ctx)
        else:
            _check_added(domain, cpu, ctx)
    settled = cpu.copy()
    settled.mode, settled.match = "custom", "exact"
    vendor_id = cpu.model.vendor_id if cpu.model is not None else None
    settled.model = CpuModel(fallback="forbid", vendor_id=vendor_id, name=host.model)
    if host.vendor is not None:
        settled.vendor = Vendor(name=host.vendor)
    policies = dict.fromkeys(host.require, "require") | dict.fromkeys(host.disable, "disable")
    for feature in cpu.features:
        if feature.policy == "optional":
            policies[feature.name] = "require" if feature.name in host.features else "disable"
        else:
            policies[feature.name] = feature.policy or "require"
    settled.features = [CpuFeature(policy=policy, name=name) for name, policy in policies.items()]
    return settled


def _compare(domain: Domain, cpu: Cpu, ctx: Context) -> None:
    """Raise CpuIncompatible when the best the emulator can give lacks something.

    Under KVM that is, as libvirt has it, what the host's processor says of itself and what QEMU adds.
    """
    best = ctx.caps.accel(domain.type).best
    name = _model(cpu)
    if best is None or name is None:
        return
    asked = CpuDocument(
        model=name,
        vendor=cpu.vendor.name if cpu.vendor is not None else None,
        match=cpu.match or "exact",
        policies={feature.name: feature.policy or "require" for feature in cpu.features},
    )
    compared = compare_document(_best_processor(domain, ctx, best), asked)
    if compared.result is Compared.INCOMPATIBLE:
        raise CpuIncompatible(compared.reason)


def _best_processor(domain: Domain, ctx: Context, best: ModelExpansion) -> Processor:
    processor = processor_of(best)
    if domain.type == "kvm":
        return replace(processor, features=processor.features | ctx.host.cpu_features)
    return processor


def _check_added(domain: Domain, cpu: Cpu, ctx: Context) -> None:
    """Raise CpuIncompatible for features required beyond a host-model that the host lacks."""
    best = ctx.caps.accel(domain.type).best
    if best is None:
        return
    have = _best_processor(domain, ctx, best).features
    missing = [x.name for x in cpu.features if x.policy == "require" and x.name not in have]
    if missing:
        raise CpuIncompatible(f"Host CPU does not provide required features: {', '.join(ordered(missing))}")


def _same_arch(domain: Domain, ctx: Context) -> bool:
    return domain.os.type.arch == ctx.host.arch or (
        domain.os.type.arch == "i686" and ctx.host.arch == "x86_64"
    )


def _add_timers(domain: Domain, props: dict[str, JsonValue]) -> None:
    for timer in domain.clock.timers if domain.clock is not None else ():
        match timer.name:
            case "kvmclock" if timer.present is not None:
                props["kvmclock"] = timer.present
            case "hypervclock" if timer.present:
                props["hv-time"] = True
            case "tsc" if timer.frequency:
                props["tsc-frequency"] = timer.frequency
            case "armvtimer" if timer.tickpolicy is not None:
                props["kvm-no-adjvtime"] = timer.tickpolicy == "delay"


_HYPERV = (
    ("relaxed", "hv-relaxed"), ("vapic", "hv-vapic"), ("spinlocks", "hv-spinlocks"),
    ("vpindex", "hv-vpindex"), ("runtime", "hv-runtime"), ("synic", "hv-synic"), ("stimer", "hv-stimer"),
    ("reset", "hv-reset"), ("vendor_id", "hv-vendor-id"), ("frequencies", "hv-frequencies"),
    ("reenlightenment", "hv-reenlightenment"), ("tlbflush", "hv-tlbflush"), ("ipi", "hv-ipi"),
    ("evmcs", "hv-evmcs"), ("avic", "hv-avic"),
)  # fmt: skip


def _add_paravirtual(domain: Domain, props: dict[str, JsonValue]) -> None:
    features = domain.features
    if features.apic is not None and features.apic.eoi is not None:
        props["kvm-pv-eoi"] = features.apic.eoi
    if features.pvspinlock is not None:
        props["kvm-pv-unhalt"] = features.pvspinlock.state
    hyperv = features.hyperv
    if hyperv is not None:
        if hyperv.mode == "passthrough":
            props["hv-passthrough"] = True
        for field, name in _HYPERV:
            said = getattr(hyperv, field)
            if said is None or not said.state:
                continue
            props[name] = True
            if field == "spinlocks":
                props[name] = f"{said.retries:#x}"
            elif field == "vendor_id":
                props[name] = said.value
            elif field == "stimer" and said.direct is not None and said.direct.state:
                props["hv-stimer-direct"] = True
    if any(panic.__dict__.get("model") == "hyperv" for panic in domain.devices.panics):
        props["hv-crash"] = True
    kvm = features.kvm
    if kvm is not None:
        if kvm.hidden is not None and kvm.hidden.state:
            props["kvm"] = False
        if kvm.hint_dedicated is not None and kvm.hint_dedicated.state:
            props["kvm-hint-dedicated"] = True
        if kvm.poll_control is not None and kvm.poll_control.state:
            props["kvm-poll-control"] = True
        if kvm.pv_ipi is not None and not kvm.pv_ipi.state:
            props["kvm-pv-ipi"] = False
    if features.pmu is not None:
        props["pmu"] = features.pmu.state
