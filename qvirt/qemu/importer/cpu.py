"""``-cpu``: the model, its features, and the enlightenments libvirt has elements for."""

from collections.abc import Callable

from qvirt.model.clock import Clock, Timer
from qvirt.model.cpu import Cpu, CpuCache, CpuFeature, CpuModel, MaxPhysAddr
from qvirt.model.devices.panic import Panic
from qvirt.model.features import Apic, Hyperv, HypervVendorId, Kvm, RequiredState, Spinlocks, State, Stimer
from qvirt.qemu.cpumodels import from_qemu
from qvirt.qemu.importer.gone import nearest_cpu
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import split_commas
from qvirt.qemu.importer.parts import integer, switch
from qvirt.qemu.x86_models import FEATURES, MODEL_BY_NAME, features_of

#: enlightenments that are on or off, by QEMU's name without ``hv-``
_HYPERV = {
    "relaxed": "relaxed", "vapic": "vapic", "vpindex": "vpindex", "runtime": "runtime", "synic": "synic",
    "stimer": "stimer", "reset": "reset", "frequencies": "frequencies", "reenlightenment": "reenlightenment",
    "tlbflush": "tlbflush", "ipi": "ipi", "evmcs": "evmcs", "avic": "avic",
}  # fmt: skip
_KVM = {"kvm-hint-dedicated": "hint_dedicated", "kvm-poll-control": "poll_control"}


def read_cpu(line: Line) -> None:
    """Read ``-cpu``; what has no element keeps the whole switch beside the XML, where the last one counts."""
    argument = line.last("cpu")
    if argument is None:
        return
    head, *rest = split_commas(argument.value or "")
    nearest = nearest_cpu(line.caps, head, line.domain.type or "qemu")
    if nearest is not None:
        line.note(f"this emulator has no CPU '{head}'; {nearest} is all that it can have", line.given("cpu"))
        head = nearest
    cpu = line.domain.cpu or Cpu()
    model = _model(line, cpu, head)
    left = [] if model else [head]
    for word in rest:
        if word and not _feature(line, cpu, word, model):
            left.append(word)
    if model or cpu.topology is not None or cpu.numa is not None:
        line.domain.cpu = cpu
    given = line.given("cpu")
    if left:
        words = [head if model != "maximum" else "max", *rest]
        line.pass_on(given, ["-cpu", ",".join(word.replace(",", ",,") for word in words if word)],
                     f"{', '.join(left)}: no XML")  # fmt: skip
    if model:
        line.to_xml(given, "<cpu>")


def _model(line: Line, cpu: Cpu, name: str) -> str:
    """Set mode and model; return "" for what XML cannot name."""
    if name == "host" and line.domain.type == "kvm":
        cpu.mode = "host-passthrough"
        cpu.check_level = "none"
        return "host-passthrough"
    if name in ("host", "max"):
        if name == "host":
            line.note(
                "-cpu host needs KVM, which is not to be had here: the guest gets all that can be emulated"
            )
        cpu.mode = "maximum"
        cpu.check_level = "none"
        return "maximum"
    if line.arch in ("x86_64", "i686"):
        if name not in MODEL_BY_NAME:
            return ""
        model = MODEL_BY_NAME[name]
        if model.removed:
            return ""  # libvirt turns off by name what the model no longer has
    elif line.caps.cpu_model(name) is None:
        return ""
    cpu.mode, cpu.match, cpu.check_level = "custom", "exact", "none"
    cpu.model = CpuModel(fallback="forbid", name=name)
    return "custom"


def _feature(line: Line, cpu: Cpu, word: str, model: str) -> bool:
    """Read one word of the list; tell whether it has an element."""
    key, equals, value = word.partition("=")
    state: bool | None
    if not equals and key[:1] in "+-":
        state, key = key[0] == "+", key[1:]
        value = "on" if state else "off"
    else:
        value = value if equals else "on"
        state = switch(value)
    key = key.replace("_", "-")
    if key in ("check", "enforce"):
        line.note(f"{key}: a start compares the CPU with the host by itself", line.given("cpu"))
        return True
    if key.startswith("hv-"):
        return _hyperv(line, key[3:], value, state)
    reader = _OTHERS.get(key)
    if reader is not None:
        return reader(line, cpu, value, state)
    if key in _KVM and state:
        kvm = line.domain.features.kvm = line.domain.features.kvm or Kvm()
        setattr(kvm, _KVM[key], RequiredState(state=True))
        return True
    if state is None or not model:
        return False
    name = from_qemu(key)
    if line.arch in ("x86_64", "i686") and name not in FEATURES:
        return False
    if line.arch not in ("x86_64", "i686"):
        return False
    known = next((feature for feature in cpu.features if feature.name == name), None)
    if known is not None:
        cpu.features.remove(known)
    cpu.features.append(CpuFeature(policy="require" if state else "disable", name=name))
    return True


def _hyperv(line: Line, key: str, value: str, state: bool | None) -> bool:
    features = line.domain.features
    hyperv = features.hyperv or Hyperv(mode="custom")
    if key == "time" and state:
        _timer(line, "hypervclock")
        return True
    if key == "passthrough" and state:
        hyperv.mode = "passthrough"
    elif key == "crash" and state:
        line.domain.devices.panics.append(Panic(model="hyperv"))
        return True
    elif key == "spinlocks":
        hyperv.spinlocks = Spinlocks(state=True, retries=integer(value, key))
    elif key == "vendor-id":
        hyperv.vendor_id = HypervVendorId(state=True, value=value)
    elif key == "stimer-direct" and state:
        hyperv.stimer = hyperv.stimer or Stimer(state=True)
        hyperv.stimer.direct = RequiredState(state=True)
    elif key == "stimer" and state:
        hyperv.stimer = hyperv.stimer or Stimer(state=True)
    elif key == "vpindex" and state and line.domain.type != "kvm":
        line.note(
            "hv-vpindex is refused for guests that are emulated: add <vpindex> with KVM", line.given("cpu")
        )
        return True
    elif key in _HYPERV and state is not None:
        setattr(hyperv, _HYPERV[key], RequiredState(state=state))
    else:
        return False
    features.hyperv = hyperv
    return True


def _timer(line: Line, name: str, present: bool = True) -> None:
    clock = line.domain.clock = line.domain.clock or Clock(offset="utc")
    clock.timers.append(Timer(name=name, present=present))


Reader = Callable[[Line, Cpu, str, bool | None], bool]


def _kvm(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if state is False:
        kvm = line.domain.features.kvm = line.domain.features.kvm or Kvm()
        kvm.hidden = RequiredState(state=True)
    return state is not None


def _eoi(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    line.domain.features.apic = Apic(eoi=state)
    return state is not None


def _unhalt(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    line.domain.features.pvspinlock = State(state=state)
    return state is not None


def _pmu(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    line.domain.features.pmu = State(state=state)
    return state is not None


def _migratable(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if cpu.mode not in ("host-passthrough", "maximum") or state is None:
        return False
    cpu.migratable = state
    return True


def _vendor(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if cpu.model is None or len(value) != 12:
        return False
    cpu.model.vendor_id = value
    return True


def _l3(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if state is not True:
        return False
    cpu.cache = CpuCache(level=3, mode="emulate")
    return True


def _phys_bits(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if cpu.model is not None and cpu.model.name in MODEL_BY_NAME and "lm" not in features_of(cpu.model.name):
        line.note(f"phys-bits={value}: QEMU refuses it for a CPU of 32 bits", line.given("cpu"))
        return True
    cpu.maxphysaddr = MaxPhysAddr(mode="emulate", bits=integer(value, "phys-bits"))
    return True


def _host_phys_bits(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if state:
        cpu.maxphysaddr = MaxPhysAddr(mode="passthrough")
    return state is not None


def _kvmclock(line: Line, cpu: Cpu, value: str, state: bool | None) -> bool:
    if state is None:
        return False
    _timer(line, "kvmclock", state)
    return True


_OTHERS: dict[str, Reader] = {
    "kvm": _kvm,
    "kvm-pv-eoi": _eoi,
    "kvm-pv-unhalt": _unhalt,
    "kvmclock": _kvmclock,
    "pmu": _pmu,
    "migratable": _migratable,
    "vendor": _vendor,
    "l3-cache": _l3,
    "phys-bits": _phys_bits,
    "host-phys-bits": _host_phys_bits,
}
