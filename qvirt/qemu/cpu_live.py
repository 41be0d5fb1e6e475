"""The CPU a running guest really has: what QEMU made of the model and features it was asked for."""

from collections.abc import Iterable

from qvirt.constants.error import ErrorDomain
from qvirt.errors import OperationFailed
from qvirt.model.cpu import Cpu, CpuFeature
from qvirt.model.domain import Domain
from qvirt.qemu.cpu import UNSPEAKABLE
from qvirt.qemu.cpumodels import from_qemu, ordered, to_qemu
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_x86
from qvirt.qemu.x86_models import FEATURES, MODEL_BY_NAME, features_of
from qvirt.record import Record


def asked_model(domain: Domain) -> dict[str, JsonValue] | None:
    """Return the CPU of a settled document as QEMU's CpuModelInfo; None where nobody looks."""
    cpu = domain.cpu
    if cpu is None or cpu.mode != "custom" or not is_x86(domain):
        return None
    name = cpu.model.name if cpu.model is not None else None
    if name not in MODEL_BY_NAME:
        return None
    props: dict[str, JsonValue] = {
        to_qemu(feature.name): feature.policy in ("force", "require")
        for feature in cpu.features
        if feature.name not in UNSPEAKABLE and feature.policy != "optional"
    }
    return {"name": name, "props": props}


class CpuSeen(Record):
    """What a guest's CPU turned out to be, in libvirt's names.

    has: its features; lacking: those that QEMU's model has and the accelerator left out.
    """

    has: frozenset[str]
    lacking: frozenset[str]


def cpu_seen(expanded: Iterable[str], unavailable: Iterable[str]) -> CpuSeen:
    """Tell what a guest's CPU is.

    expanded: the properties that are on in QEMU's full expansion of what was asked for; unavailable: what its
    accelerator left out of them.
    """
    lacking = frozenset(map(from_qemu, unavailable))
    return CpuSeen(frozenset(map(from_qemu, expanded)) - lacking, lacking)


def live_cpu(cpu: Cpu, seen: CpuSeen) -> Cpu:
    """Return the CPU with every feature named in which the guest's differs from what was asked for.

    Raises OperationFailed where the document wants a full check and they differ.
    """
    policies = {feature.name: feature.policy or "require" for feature in cpu.features}
    model = MODEL_BY_NAME[cpu.model.name if cpu.model is not None and cpu.model.name else ""]
    wanted = set(features_of(model.name)) | set(model.removed.split())
    wanted |= {name for name, policy in policies.items() if policy in ("force", "require")}
    unwanted = {name for name, policy in policies.items() if policy in ("disable", "forbid")}
    wanted -= unwanted
    known = frozenset(FEATURES) - UNSPEAKABLE
    extra = ordered((seen.has - wanted) & known)
    missing = ordered(((wanted - seen.has) | (seen.lacking - unwanted)) & known)
    if cpu.check_level == "full" and (extra or missing):
        raise OperationFailed(_mismatch(extra, missing), domain=ErrorDomain.CPU)
    policies |= dict.fromkeys(extra, "require") | dict.fromkeys(missing, "disable")
    # those the document names keep their places, the others follow in libvirt's order
    names = [feature.name for feature in cpu.features]
    names += [name for name in ordered({*extra, *missing}) if name not in names]
    live = cpu.copy()
    live.check_level = "full"
    if live.model is not None:
        live.model.fallback = "forbid"
    live.features = [CpuFeature(policy=policies[name], name=name) for name in names]
    return live


def _mismatch(extra: list[str], missing: list[str]) -> str:
    parts = [
        f"{what} features: {','.join(names)}"
        for what, names in (("extra", extra), ("missing", missing))
        if names
    ]
    return f"guest CPU doesn't match specification: {', '.join(parts)}"
