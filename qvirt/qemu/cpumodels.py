"""CPU models as libvirt describes them: host models, comparison, baseline, and names; asks nobody.

A processor is described by the nearest named model, with the features it has beyond it ("require") and the
ones it lacks ("disable"). Feature names are libvirt's; `to_qemu` and `from_qemu` translate.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, InvalidArg, NoSupport, OperationFailed
from qvirt.qemu.architectures import BY_NAME
from qvirt.qemu.caps import AccelFacts, EmulatorCaps, ModelExpansion
from qvirt.qemu.x86_models import (
    FEATURES,
    MODEL_BY_NAME,
    MODELS,
    MSR_FEATURES,
    NOT_MIGRATABLE,
    VENDORS,
    X86Model,
    features_of,
)
from qvirt.record import Record

X86 = frozenset({"i686", "x86_64"})

PPC64_MODELS = ("POWER6", "POWER7", "POWER8", "POWER9", "POWER10", "POWERPC_e5500", "POWERPC_e6500")

_TO_QEMU: Mapping[str, str] = {
    name: {"pclmuldq": "pclmulqdq"}.get(name, name.replace("_", "-")) for name in FEATURES
}
_FROM_QEMU: Mapping[str, str] = {qemu: name for name, qemu in _TO_QEMU.items()}
_ORDER: Mapping[str, int] = {name: i for i, name in enumerate(FEATURES)}


def to_qemu(feature: str) -> str:
    """Return QEMU's name of a feature."""
    return _TO_QEMU.get(feature, feature.replace("_", "-"))


def from_qemu(property: str) -> str:
    """Return libvirt's name of a QEMU CPU property."""
    return _FROM_QEMU.get(property, property)


def ordered(features: Iterable[str]) -> list[str]:
    """Sort features as libvirt lists them; names it does not know come last, by name."""
    return sorted(features, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))


class Processor(Record):
    """What a processor is: vendor by libvirt's name, CPUID (family, model, stepping), features."""

    vendor: str | None
    signature: tuple[int, int, int] | None
    features: frozenset[str]


class CpuDescription(Record):
    """A processor in libvirt's words; features in libvirt's order."""

    model: str
    vendor: str | None
    require: tuple[str, ...]
    disable: tuple[str, ...] = ()

    @property
    def features(self) -> frozenset[str]:
        """Return every feature it has."""
        return (features_of(self.model) | frozenset(self.require)) - frozenset(self.disable)


# ------------------------------------------------------------------ describing


def describe_host(processor: Processor) -> CpuDescription | None:
    """Describe a host's processor by the nearest model it has all features of."""
    return _nearest(processor, {m.name: () for m in MODELS if m.decode_host}, may_lack=False)


def describe_guest(
    processor: Processor,
    usable: Mapping[str, Collection[str]] | None = None,
    preferred: str | None = None,
) -> CpuDescription | None:
    """Describe a guest's processor by the nearest model, which may have more than it has.

    usable: the models that may be named, each with what keeps the emulator from it (libvirt's names).
    preferred: take this model if it may be named at all.
    """
    candidates = {
        m.name: usable[m.name] if usable else ()
        for m in MODELS
        if m.decode_guest and (usable is None or m.name in usable)
    }
    if preferred in candidates and _fits_vendor(processor, MODEL_BY_NAME[preferred]):
        return _describe(processor, MODEL_BY_NAME[preferred], candidates[preferred])
    return _nearest(processor, candidates, may_lack=True)


def _nearest(
    processor: Processor, candidates: Mapping[str, Collection[str]], *, may_lack: bool
) -> CpuDescription | None:
    best: CpuDescription | None = None
    best_key = (True, (0, 0))
    for model in reversed(MODELS):
        if model.name not in candidates or not _fits_vendor(processor, model):
            continue
        found = _describe(processor, model, candidates[model.name])
        if found.disable and not may_lack:
            continue
        # A model of this very processor first, then the cheapest description; the newer wins a draw.
        key = (not model.has_signature(processor.signature), _cost(found))
        if best is None or key < best_key:
            best, best_key = found, key
    return best


def _fits_vendor(processor: Processor, model: X86Model) -> bool:
    return model.vendor is None or processor.vendor is None or model.vendor == processor.vendor


def _describe(processor: Processor, model: X86Model, blockers: Collection[str]) -> CpuDescription:
    have = features_of(model.name) | frozenset(blockers)
    # what the emulator cannot do is turned off, whatever the processor can
    disable = ordered((have - processor.features) | (features_of(model.name) & frozenset(blockers)))
    disable += [name for name in model.removed.split() if name not in processor.features | have]
    return CpuDescription(
        model.name, processor.vendor, tuple(ordered(processor.features - have)), tuple(disable)
    )


def _cost(description: CpuDescription) -> tuple[int, int]:
    """Weigh a description: one per feature, but 2, 3, 4, ... for the first half of those turned off.

    A guest is better off with an old model and additions than with a new one that lacks parts, as long as the
    old one is not ancient. The half is libvirt's, whose choice this must match.
    """
    penalized = (len(description.disable) + 1) // 2
    penalty = sum(range(2, 2 + penalized))
    return len(description.require) + len(description.disable) - penalized + penalty, penalty


def processor_of(expansion: ModelExpansion) -> Processor:
    """Return the processor that QEMU's expansion of a model stands for."""
    properties = expansion.properties
    signature = None
    match [properties.get(key) for key in ("family", "model", "stepping")]:
        case [int(family), int(model), int(stepping)]:
            signature = (family, model, stepping)
    known = frozenset(_FROM_QEMU[name] for name in expansion.enabled() if name in _FROM_QEMU)
    vendor = VENDORS.get(str(properties.get("vendor")))
    return Processor(vendor, signature, known - _broken(vendor, signature))


def features_known(expansion: ModelExpansion) -> frozenset[str]:
    """Return the features that an emulator has a name for, whether it can give them or not."""
    return frozenset(
        _FROM_QEMU[name]
        for name, value in expansion.properties.items()
        if isinstance(value, bool) and name in _FROM_QEMU
    )


def _broken(vendor: str | None, signature: tuple[int, int, int] | None) -> frozenset[str]:
    """Return features that must not be used: TSX of the first Haswells (Intel erratum HSD136)."""
    match vendor, signature:
        case "Intel", (6, 60 | 69 | 70, _):
            return frozenset({"hle", "rtm"})
        case "Intel", (6, 63, stepping) if stepping < 4:
            return frozenset({"hle", "rtm"})
    return frozenset()


def host_model(caps: EmulatorCaps, virt_type: str, *, migratable: bool = False) -> CpuDescription | None:
    """Return what mode='host-model' means for guests of a type ("kvm", "qemu") on this host.

    migratable: without the features that keep a guest from migrating, as a domain gets it when it starts.
    None where QEMU does not describe its best processor (not x86, or too old).
    """
    facts = caps.accel(virt_type)
    expansion = facts.migratable if migratable else facts.best
    if expansion is None or caps.arch not in X86:
        return None
    processor = processor_of(expansion)
    left_out = NOT_MIGRATABLE if migratable else frozenset[str]()
    if caps.arch == "i686":
        left_out |= MSR_FEATURES  # as libvirt, which asks qemu-system-i386 for less
    processor = Processor(processor.vendor, processor.signature, processor.features - left_out)
    return describe_guest(processor, usable_models(facts))


def usable_models(facts: AccelFacts) -> dict[str, list[str]]:
    """Return the models an emulator has, each with what it cannot do of it here, in libvirt's names."""
    return {
        cpu.name: [_FROM_QEMU[name] for name in cpu.blockers or () if name in _FROM_QEMU]
        for cpu in facts.cpus
        if cpu.name in MODEL_BY_NAME
    }


# --------------------------------------------------------- baseline


class Compared(IntEnum):
    """virCPUCompareResult."""

    INCOMPATIBLE = 0
    IDENTICAL = 1
    SUPERSET = 2


class Comparison(Record):
    """How a processor stands to a CPU that is asked for, and why it cannot be it."""

    result: Compared
    reason: str = ""


class NamedCpu(Record):
    """A CPU as a document gives it; features are libvirt's names, vendor as said there or None."""

    model: str
    vendor: str | None = None
    require: frozenset[str] = frozenset()
    disable: frozenset[str] = frozenset()

    def processor(self) -> Processor:
        """Return the processor this stands for; raises InternalError for unknown names."""
        if self.model not in MODEL_BY_NAME:
            raise InternalError(f"Unknown CPU model {self.model}")
        for name in ordered(self.require | self.disable):
            if name not in _ORDER:
                raise InternalError(f"Unknown CPU feature {name}")
        features = (features_of(self.model) | self.require) - self.disable
        return Processor(self.vendor or MODEL_BY_NAME[self.model].vendor, None, features)


def baseline(
    cpus: Sequence[NamedCpu],
    usable: Mapping[str, Collection[str]] | None = None,
    *,
    within: frozenset[str] | None = None,
    migratable: bool = False,
) -> CpuDescription:
    """Return the CPU that all of the CPUs given can run; keeps their model when they agree on it.

    usable: as for `describe_guest`. within: the features an emulator has at all.
    Raises OperationFailed when they have too little in common.
    """
    vendor = cpus[0].vendor
    # libvirt looks at the first CPU's vendor only where it is said, not at its model's.
    for cpu in cpus[1:]:
        own = MODEL_BY_NAME[cpu.model].vendor if cpu.model in MODEL_BY_NAME else None
        if cpu.vendor and own and own != cpu.vendor:
            raise OperationFailed(
                f"CPU vendor {own} of model {cpu.model} differs from vendor {cpu.vendor}",
                domain=ErrorDomain.CPU,
            )
        vendor = vendor or cpu.vendor or own
        if (cpu.vendor or own) not in (None, vendor):
            raise OperationFailed("CPU vendors do not match", domain=ErrorDomain.CPU)
    common = frozenset[str].intersection(*(cpu.processor().features for cpu in cpus))
    if within is not None:
        common &= within
    if not common:
        raise OperationFailed("CPUs are incompatible", domain=ErrorDomain.CPU)
    models = {cpu.model for cpu in cpus}
    found = describe_guest(
        Processor(vendor, None, common), usable, models.pop() if len(models) == 1 else None
    )
    if found is None:
        raise InternalError("Cannot find suitable CPU model for given data", domain=ErrorDomain.CPU)
    if migratable:
        require = tuple(name for name in found.require if name not in NOT_MIGRATABLE)
        disable = tuple(name for name in found.disable if name not in NOT_MIGRATABLE)
        found = CpuDescription(found.model, found.vendor, require, disable)
    return found


# ----------------------------------------------------------------------- names


def model_names(arch: str) -> tuple[str, ...]:
    """Return the names virConnectGetCPUModelNames answers; empty where any of QEMU's may be used.

    Raises NoSupport for an architecture whose CPUs cannot be named, InvalidArg for an unknown one.
    """
    if arch in X86:
        return tuple(model.name for model in MODELS)
    if arch in ("ppc64", "ppc64le"):
        return PPC64_MODELS
    if arch in ("aarch64", "armv6l", "armv7l", "s390x"):
        return ()
    if arch in BY_NAME:
        raise NoSupport(f"'{arch}' architecture is not supported by CPU driver", domain=ErrorDomain.CPU)
    raise InvalidArg(f"cannot find architecture {arch}")


def vendor_of(model: str) -> str:
    """Return the vendor of a model as domain capabilities print it; "unknown" when it has none."""
    known = MODEL_BY_NAME.get(model)
    return known.vendor or "unknown" if known else "unknown"
