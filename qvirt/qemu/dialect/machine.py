"""The machine in older words: ``-M``, accelerators, ``-nographic``, monitors, clock, boot order, CPU."""

from collections.abc import Callable, Iterator, Sequence

from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.keyval import JsonValue, format_keyval
from qvirt.qemu.machines import is_pseries
from qvirt.qemu.switches import Chardev, KeyValue, Object, Option, Switch

Made = Iterator[Switch]
BOOT_LETTERS = {"fd": "a", "hd": "c", "cdrom": "d", "network": "n"}


def rewrite(switches: Sequence[Switch], ctx: BuildContext, caps: DialectCaps) -> Made:
    """Yield the switches with those of the machine rewritten."""
    yield from _unasked(ctx, caps)
    is_named = any(_name(switch) == "cpu" for switch in switches)
    if not is_named and (_is_32_on_64(ctx) or _speaks_of_hypervisor(ctx, caps)):
        model = "qemu32" if ctx.domain.os.type.arch == "i686" else "qemu64"
        yield Option("cpu", model, origin=ctx.domain.os.type)
    for switch in switches:
        name = _name(switch)
        change = _CHANGES.get(name)
        if change is None:
            yield switch
        else:
            yield from change(switch, ctx, caps)


def _unasked(ctx: BuildContext, caps: DialectCaps) -> Made:
    """Yield what today's command line says nothing of."""
    domain = ctx.domain
    if caps.says("-no-acpi") and ctx.caps.arch not in _TAKES_NO_ACPI and not domain.features.acpi:
        yield Option("no-acpi", origin=domain)
    if preallocates(ctx, caps):
        yield Option("mem-prealloc", origin=domain.memory_backing)


def _is_32_on_64(ctx: BuildContext) -> bool:
    """Tell whether the CPU must be named: what a KVM for hosts of 64 bits gives has 64 itself."""
    domain = ctx.domain
    emulator = (domain.devices.emulator or "").rpartition("/")[2]
    is_for_64 = "x86_64" in emulator or "kvm" in emulator
    return domain.type == "kvm" and domain.os.type.arch == "i686" and ctx.host.arch == "x86_64" and is_for_64


def _speaks_of_hypervisor(ctx: BuildContext, caps: DialectCaps) -> bool:
    """Tell whether the document has a word on what the hypervisor shows of itself, if only to turn it off."""
    features = ctx.domain.features
    said = features.kvm is not None or features.hyperv is not None
    return said and not caps.says("@silent-cpu")


#: where the builder itself writes -no-acpi
_TAKES_NO_ACPI = frozenset({"i686", "x86_64", "aarch64"})


def preallocates(ctx: BuildContext, caps: DialectCaps) -> bool:
    """Tell whether all memory is allocated at once by a switch, not backend by backend."""
    allocation = ctx.domain.memory_backing.allocation
    return allocation is not None and allocation.mode == "immediate" and caps.says("-mem-prealloc")


def _name(switch: Switch) -> str:
    if isinstance(switch, Chardev):
        return f"chardev {switch.props.get('id')}"
    if isinstance(switch, Object):
        return f"object {switch.props.get('id')}"
    return switch.name if isinstance(switch, (Option, KeyValue)) else ""


def _props(switch: Switch) -> dict[str, JsonValue]:
    return dict(switch.props) if isinstance(switch, (KeyValue, Chardev)) else {}


def _guest_name(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if not caps.says("-name"):
        return
    props = _props(switch)
    if not caps.says("-name:debug-threads"):
        props.pop("debug-threads")
    if caps.says("-name:guest"):
        yield KeyValue("name", props, origin=switch.origin)
        return
    if not caps.says("-name:process"):
        props.pop("process")
    yield KeyValue("name", props, "guest", origin=switch.origin)


def _machine(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    props = _props(switch)
    if "type" not in props:
        yield switch  # one that only adds a property
        return
    domain = ctx.domain
    kept = {name: value for name, value in props.items() if name == "type" or caps.says(f"-machine:{name}")}
    if not caps.says("-machine:accel"):
        yield Option("M", str(kept["type"]), origin=switch.origin)
        yield from _accelerator(domain, caps)
        return
    if not caps.says("-accel"):
        kept = {"type": kept.pop("type"), "accel": "kvm" if domain.type == "kvm" else "tcg", **kept}
    yield KeyValue("machine", kept, "type", origin=switch.origin)


def _accelerator(domain: Domain, caps: DialectCaps) -> Made:
    """Yield what turns an accelerator off that is used by itself, or on that is not."""
    if domain.type == "kvm":
        if caps.says("-enable-kvm"):
            yield Option("enable-kvm", origin=domain)
        return
    for name in ("no-kqemu", "no-kvm"):
        if caps.says(f"-{name}") and not (name == "no-kvm" and caps.says("-enable-kvm")):
            yield Option(name, origin=domain)


def _accel(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if caps.says("-accel"):
        yield switch


def _cpu(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if caps.says("@cpu-on-off"):
        yield switch
        return
    if isinstance(switch, Option):
        model, _, rest = (switch.value or "").partition(",")
        words = [model, *(word.replace("-", "_") for word in rest.split(",") if word)]
        yield Option("cpu", ",".join(words), origin=switch.origin)
        return
    words = []
    for key, value in _props(switch).items():
        if key in _CPU_LATER and not caps.says(f"-cpu:{_CPU_LATER[key]}"):
            continue
        if key == "model":
            words.append(str(value))
        elif key.startswith("hv-"):
            name = key.replace("-", "_")
            words.append(name if value is True else f"{name}={value}")
        elif isinstance(value, bool) and key not in _CPU_WITH_VALUE:
            words.append(f"{'+' if value else '-'}{key.replace('-', '_') if key.startswith('kvm') else key}")
        else:
            words.append(format_keyval({key: value}))
    compat = _pseries_compat(ctx)
    if compat is not None and not caps.says("-machine:max-cpu-compat"):
        words.append(f"compat={compat}")
    yield Option("cpu", ",".join(words), origin=switch.origin)


def _pseries_compat(ctx: BuildContext) -> str | None:
    cpu = ctx.domain.cpu
    if cpu is None or cpu.mode != "host-model" or cpu.model is None or not is_pseries(ctx.domain):
        return None
    return cpu.model.name


#: CPU properties that came later, and the fact that tells
_CPU_LATER = {"migratable": "migratable", "l3-cache": "l3-cache", "host-cache-info": "l3-cache"}
#: CPU properties that were never written with a sign
_CPU_WITH_VALUE = frozenset({"kvm", "pmu", "l3-cache", "host-cache-info", "host-phys-bits", "migratable"})


def _smp(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    props = {key: value for key, value in _props(switch).items() if key != "dies" or caps.says("-smp:dies")}
    if not caps.says("-smp:sockets"):
        props = {"cpus": props["cpus"]}
    yield KeyValue("smp", props, "cpus", origin=switch.origin)


def _memory(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if isinstance(switch, KeyValue) and not caps.says("-m:maxmem"):
        size = int(str(switch.props["size"]).removesuffix("k"))
        yield Option("m", str(size // 1024), origin=switch.origin)
        return
    yield switch


def _mem_path(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if caps.says("-mem-path"):
        if caps.says("-mem-prealloc"):
            yield Option("mem-prealloc", origin=switch.origin)
        yield switch


def _overcommit(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if caps.says("-overcommit"):
        yield switch
    elif caps.says("-realtime:mlock"):
        yield KeyValue("realtime", {"mlock": _props(switch).get("mem-lock") or False}, origin=switch.origin)


def _display(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if isinstance(switch, Option) and switch.value == "none" and not caps.says("-display"):
        yield Option("nographic")
        return
    yield switch


def _user_config(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    for name in ("no-user-config", "nodefconfig") if caps.says("-device") else ():
        if caps.says(f"-{name}"):
            yield Option(name)
            return


def _monitor_chardev(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if caps.says("-mon") and caps.says("-chardev"):
        yield switch
        return
    if not caps.says("@monitor-socket"):
        yield Option("monitor", "pty")
        return
    where = f"unix:{_props(switch)['path']},server,nowait"
    control = "control," if caps.says("-qmp") else ""
    yield Option("monitor", control + where)


def _mon(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    if caps.says("-mon") and caps.says("-chardev"):
        yield KeyValue("mon", {**_props(switch), "mode": "control" if caps.says("-qmp") else "readline"})


def _rtc(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    props = _props(switch)
    if caps.says("-rtc"):
        yield switch
        return
    if props["base"] == "localtime":
        yield Option("localtime", origin=switch.origin)
    elif props["base"] != "utc" and caps.says("-startdate"):
        yield Option("startdate", str(props["base"]), origin=switch.origin)
    if props.get("driftfix") == "slew" and caps.says("-rtc-td-hack"):
        yield Option("rtc-td-hack", origin=switch.origin)


def _shutdown(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    domain = ctx.domain
    lifecycle = (domain.on_poweroff, domain.on_reboot)
    if not caps.says("@set-action") and lifecycle == ("destroy", "destroy") and domain.on_crash == "destroy":
        yield Option("no-reboot", origin=domain)
    elif caps.says("-no-shutdown"):
        yield switch


def _boot(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    """Yield ``-boot``: letters where devices have no boot index."""
    os = ctx.domain.os
    props: dict[str, JsonValue] = {}
    if os.boots and not orders_by_index(caps):
        props["order"] = "".join(BOOT_LETTERS[boot.dev] for boot in os.boots)
    said = _props(switch)
    if "order" in said:
        props["order"] = said["order"]
    if caps.says("-boot:menu"):
        props["menu"] = said.get("menu")
    for name in ("splash-time", "reboot-timeout", "strict"):
        if caps.says(f"-boot:{name}"):
            props[name] = said.get(name)
    props = {key: value for key, value in props.items() if value is not None}
    if set(props) == {"order"}:
        yield Option("boot", str(props["order"]), origin=os)
    elif props:
        yield KeyValue("boot", props, origin=os)


def orders_by_index(caps: DialectCaps) -> bool:
    """Tell whether the devices say themselves when they boot."""
    return caps.says("virtio-blk-pci.bootindex")


def _only_with(*facts: str) -> Callable[[Switch, BuildContext, DialectCaps], Made]:
    def keep(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
        if all(caps.says(fact) for fact in facts):
            yield switch

    return keep


def _global(switch: Switch, ctx: BuildContext, caps: DialectCaps) -> Made:
    """Say otherwise, or leave out, what the emulator has no property for."""
    said = (switch.value or "") if isinstance(switch, Option) else ""
    if not said.startswith("kvm-pit.") or caps.says("kvm-pit.lost_tick_policy"):
        yield switch
    elif caps.says("-no-kvm-pit-reinjection") and said.endswith("=delay"):
        yield Option("no-kvm-pit-reinjection", origin=switch.origin)


_CHANGES: dict[str, Callable[[Switch, BuildContext, DialectCaps], Made]] = {
    "name": _guest_name,
    "compat": _only_with("-compat"),
    "object masterKey0": _only_with("secret"),
    "machine": _machine,
    "accel": _accel,
    "cpu": _cpu,
    "smp": _smp,
    "m": _memory,
    "mem-path": _mem_path,
    "overcommit": _overcommit,
    "uuid": _only_with("-uuid"),
    "smbios": _only_with("-smbios"),
    "display": _display,
    "no-user-config": _user_config,
    "nodefaults": _only_with("-nodefaults"),
    "chardev charmonitor": _monitor_chardev,
    "mon": _mon,
    "rtc": _rtc,
    "global": _global,
    "no-hpet": _only_with("-no-hpet"),
    "no-shutdown": _shutdown,
    "no-acpi": _only_with("-no-acpi"),
    "boot": _boot,
    "sandbox": _only_with("-sandbox:obsolete"),
    "msg": _only_with("-msg"),
}
