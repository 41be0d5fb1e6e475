"""What control groups limit, read and changed for a guest that runs and in its definition."""

import contextlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InvalidArg, OperationInvalid, OperationUnsupported
from qvirt.host import cgroup_tuning as knobs
from qvirt.host.cgroup import Group
from qvirt.model.cputune import PERIOD_RANGE, QUOTA_RANGE, SHARES_RANGE
from qvirt.model.domain import Domain as Definition
from qvirt.model.memtune import BlkioDevice, HardLimit, Limit, SoftLimit, SwapHardLimit
from qvirt.model.numa import MODES, NumaMemory
from qvirt.runtime.events import Tunable
from qvirt.runtime.life import cgroups
from qvirt.runtime.manage import impact
from qvirt.runtime.records import Param, ParamValue
from qvirt.runtime.running import Running
from qvirt.runtime.tuning.order import change
from qvirt.xml.codecs import format_cpuset, parse_cpuset

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

Values = Mapping[str, ParamValue]

#: one device's number, as libvirt reads it: what is before a comma, perhaps with a sign or blanks before it
_NUMBER = re.compile(r"\s*\+?([0-9]+)", re.ASCII)

#: parameter -> (type, field of <cputune>, whose groups: "" the guest's, else the names' beginning)
SCHEDULER: Final[Mapping[str, tuple[int, str, str]]] = {
    "cpu_shares": (Type.ULLONG, "shares", ""),
    "vcpu_period": (Type.ULLONG, "period", "vcpu"),
    "vcpu_quota": (Type.LLONG, "quota", "vcpu"),
    "emulator_period": (Type.ULLONG, "emulator_period", "emulator"),
    "emulator_quota": (Type.LLONG, "emulator_quota", "emulator"),
    "global_period": (Type.ULLONG, "global_period", ""),
    "global_quota": (Type.LLONG, "global_quota", ""),
    "iothread_period": (Type.ULLONG, "iothread_period", "iothread"),
    "iothread_quota": (Type.LLONG, "iothread_quota", "iothread"),
}
MEMORY: Final[Mapping[str, type[Limit]]] = {
    "hard_limit": HardLimit,
    "soft_limit": SoftLimit,
    "swap_hard_limit": SwapHardLimit,
}
#: parameter -> field of <blkiotune>'s <device>
BLKIO_DEVICE: Final = {
    "device_weight": "weight",
    "device_read_iops_sec": "read_iops_sec",
    "device_write_iops_sec": "write_iops_sec",
    "device_read_bytes_sec": "read_bytes_sec",
    "device_write_bytes_sec": "write_bytes_sec",
}
#: the most a device's number may be; a document holds no more
_MOST = {name: 2**64 - 1 if "_bytes_" in name else 2**32 - 1 for name in BLKIO_DEVICE}


def check_mode(domain: "Domain", what: str) -> None:
    """Refuse what an unprivileged daemon has no control groups for."""
    if domain.hypervisor.paths.kind == "session":
        raise OperationUnsupported(f"{what} tuning is not available in session mode")


async def _group(running: Running, controller: str) -> Group:
    """Return a guest's group, with its threads in place. Raises OperationInvalid."""
    await cgroups.placed(running)
    if running.group is None:
        raise OperationInvalid(
            f"cgroup {'CPU' if controller == 'cpu' else controller} controller is not mounted"
        )
    running.group.folder(controller)
    return running.group


async def _change(
    domain: "Domain",
    owner: str,
    controller: str,
    flags: int,
    apply: Callable[[Group, Running], None],
    note: Callable[[Definition], None],
    check: Callable[[Definition | None, Definition | None], None] | None = None,
) -> None:
    async def on_live(running: Running) -> None:
        group = await _group(running, controller)
        await domain.hypervisor.files.run(f"{owner} of '{domain.name}'", partial(apply, group, running))
        note(running.definition)

    await change(domain, owner, flags, live=on_live, config=note, check=check)


async def _read(
    domain: "Domain", controller: str, flags: int, live: Callable[[Group, Definition], list[Param]],
    config: Callable[[Definition], list[Param]],
) -> list[Param]:  # fmt: skip
    on_live, _ = impact(domain, flags)
    if not on_live:
        return config(await domain.definition())
    running = domain.need_running()
    group = await _group(running, controller)
    return await domain.hypervisor.files.run(
        f"limits of '{domain.name}'", partial(live, group, running.definition)
    )


# ------------------------------------------------------------------------ scheduler


def scheduler_type(domain: "Domain") -> tuple[str, int]:
    """Return the name of the CPU scheduler and how many parameters it has."""
    check_mode(domain, "CPU")
    mounts = domain.hypervisor.cgroups.mounts
    group = domain.hypervisor.cgroups.group("machine")
    if mounts is None or group is None or not group.version("cpu"):
        raise OperationInvalid("cgroup CPU controller is not mounted")
    return "posix", len(SCHEDULER)


def _members(group: Group, whose: str) -> list[str]:
    """Return the groups a parameter is about."""
    if whose in ("", "emulator"):
        return [whose]
    return sorted(name for name in group.threads() if name.rstrip("0123456789") == whose)


async def set_scheduler(domain: "Domain", values: Values, flags: int) -> None:
    """virDomainSetSchedulerParametersFlags. Raises InvalidArg for what is out of range."""
    check_mode(domain, "CPU")
    wanted = {name: int(value) for name, value in values.items()}
    for name, value in wanted.items():
        low, high = PERIOD_RANGE if name.endswith("_period") else QUOTA_RANGE
        if name == "cpu_shares":
            low, high = SHARES_RANGE
            if not low <= value <= high:
                raise InvalidArg(
                    f"shares '{value}' must be in range [{low}, {high}]", domain=ErrorDomain.CGROUP
                )
        elif 0 < value < low or value > high:
            raise InvalidArg(f"value of '{name}' is out of range [{low}, {high}]")

    def apply(group: Group, running: Running) -> None:
        with contextlib.ExitStack() as undo:
            for name, value in wanted.items():
                _, _, whose = SCHEDULER[name]
                if name == "cpu_shares":
                    undo.callback(knobs.set_shares, group, knobs.shares(group))
                    knobs.set_shares(group, value)
                elif value:
                    period, quota = (value, 0) if name.endswith("_period") else (0, value)
                    for thread in _members(group, whose):
                        undo.callback(knobs.set_bandwidth, group, thread, *knobs.bandwidth(group, thread))
                        knobs.set_bandwidth(group, thread, period, quota)
            undo.pop_all()
        told.extend((f"cputune.{name}", SCHEDULER[name][0], value) for name, value in wanted.items())

    def note(definition: Definition) -> None:
        for name, value in wanted.items():
            setattr(definition.cputune, SCHEDULER[name][1], value or None)

    told: list[tuple[str, int, int | str]] = []
    await _change(domain, "set scheduler parameters", "cpu", flags, apply, note)
    if told:
        domain.publish(Tunable(domain.ref, tuple(told)))


async def scheduler(domain: "Domain", flags: int) -> list[Param]:
    """virDomainGetSchedulerParametersFlags."""
    check_mode(domain, "CPU")

    def config(definition: Definition) -> list[Param]:
        tune = definition.cputune if "cputune" in definition.__dict__ else None
        return [
            Param(name, kind, (getattr(tune, field) if tune is not None else None) or 0)
            for name, (kind, field, _) in SCHEDULER.items()
        ]

    def live(group: Group, definition: Definition) -> list[Param]:
        found = [Param("cpu_shares", Type.ULLONG, knobs.shares(group))]
        for what, whose in (
            ("vcpu", "vcpu"),
            ("emulator", "emulator"),
            ("global", ""),
            ("iothread", "iothread"),
        ):
            members = _members(group, whose)
            period, quota = knobs.bandwidth(group, members[0]) if members else (0, 0)
            found += [Param(f"{what}_period", Type.ULLONG, period), Param(f"{what}_quota", Type.LLONG, quota)]
        return found

    return await _read(domain, "cpu", flags, live, config)


# --------------------------------------------------------------------------- memory


async def set_memory(domain: "Domain", values: Values, flags: int) -> None:
    """virDomainSetMemoryParameters; KiB."""
    check_mode(domain, "Memory")
    wanted = {name: int(value) for name, value in values.items()}

    def check(live: Definition | None, config: Definition | None) -> None:
        for definition in (live, config):
            if definition is None:
                continue
            now = {name: _limit(definition, name) for name in MEMORY} | wanted
            if now["hard_limit"] > now["swap_hard_limit"]:
                raise InvalidArg(
                    "memory hard_limit tunable value must be lower than or equal to swap_hard_limit",
                    domain=ErrorDomain.DOMAIN,
                )

    def apply(group: Group, running: Running) -> None:
        order = [name for name in MEMORY if name in wanted]
        # version 1 counts memory within memory and swap: the larger of the two has to make room first
        if (
            group.version("memory") == 1
            and "swap_hard_limit" in wanted
            and wanted.get("hard_limit", 0) > knobs.memory(group, "swap_hard_limit")
        ):
            order.reverse()
        with contextlib.ExitStack() as undo:
            for name in order:
                undo.callback(knobs.set_memory, group, name, knobs.memory(group, name))
                knobs.set_memory(group, name, wanted[name])
            undo.pop_all()

    def note(definition: Definition) -> None:
        for name, value in wanted.items():
            node = MEMORY[name](value=value, unit="KiB") if value < knobs.UNLIMITED else None
            setattr(definition.memtune, name, node)

    await _change(domain, "set memory parameters", "memory", flags, apply, note, check)


def _limit(definition: Definition, name: str) -> int:
    node: Limit | None = getattr(definition.memtune, name) if "memtune" in definition.__dict__ else None
    return node.value if node is not None else knobs.UNLIMITED


async def memory(domain: "Domain", flags: int) -> list[Param]:
    """virDomainGetMemoryParameters; KiB."""
    check_mode(domain, "Memory")

    def config(definition: Definition) -> list[Param]:
        return [Param(name, Type.ULLONG, _limit(definition, name)) for name in MEMORY]

    def live(group: Group, definition: Definition) -> list[Param]:
        return [Param(name, Type.ULLONG, knobs.memory(group, name)) for name in MEMORY]

    return await _read(domain, "memory", flags, live, config)


# ---------------------------------------------------------------------------- blkio


def _devices(text: str, name: str) -> dict[str, int]:
    """Read ``PATH,VALUE,PATH,VALUE``. Raises InvalidArg."""
    if not text:
        return {}
    words = text.split(",")
    devices: dict[str, int] = {}
    for path, word in zip(words[::2], words[1::2], strict=False):
        found = _NUMBER.match(word)
        if found is None or int(found[1]) > _MOST[name]:
            raise InvalidArg(
                f"invalid value '{word}' for parameter '{name}' of device '{path}'",
                domain=ErrorDomain.DOMAIN,
            )
        if found.end() < len(word):
            break
        devices[path] = int(found[1])
    else:
        if not len(words) % 2:
            return devices
    raise InvalidArg(f"unable to parse blkio device '{name}' '{text}'", domain=ErrorDomain.DOMAIN)


async def set_blkio(domain: "Domain", values: Values, flags: int) -> None:
    """virDomainSetBlkioParameters."""
    check_mode(domain, "Block I/O")
    weight = int(values["weight"]) if "weight" in values else None
    rates = {name: _devices(str(value), name) for name, value in values.items() if name in BLKIO_DEVICE}

    def apply(group: Group, running: Running) -> None:
        known = {device.path: device for device in running.definition.blkiotune.devices}
        with contextlib.ExitStack() as undo:
            if weight:
                undo.callback(knobs.set_weight, group, knobs.weight(group))
                knobs.set_weight(group, weight)
            for name, devices in rates.items():
                kind = BLKIO_DEVICE[name]
                for path, value in devices.items():
                    before = getattr(known[path], kind) if path in known else None
                    _set_rate(group, path, kind, value)
                    undo.callback(_set_rate, group, path, kind, before or 0)
            undo.pop_all()

    def note(definition: Definition) -> None:
        tune = definition.blkiotune
        if weight:
            tune.weight = weight
        known = {device.path: device for device in tune.devices}
        for name, devices in rates.items():
            for path, value in devices.items():
                device = known.setdefault(path, BlkioDevice(path=path))
                setattr(device, BLKIO_DEVICE[name], value or None)
        tune.devices = [
            device for device in known.values() if any(getattr(device, x) for x in BLKIO_DEVICE.values())
        ]

    await _change(domain, "set block I/O parameters", "blkio", flags, apply, note)


def _set_rate(group: Group, path: str, kind: str, value: int) -> None:
    if kind == "weight":
        knobs.set_device_weight(group, path, value)
    else:
        knobs.set_throttle(group, path, kind, value)


async def blkio(domain: "Domain", flags: int) -> list[Param]:
    """virDomainGetBlkioParameters."""
    check_mode(domain, "Block I/O")

    def devices(definition: Definition) -> list[Param]:
        listed = definition.blkiotune.devices if "blkiotune" in definition.__dict__ else []
        return [
            Param(
                name,
                Type.STRING,
                ",".join(f"{x.path},{getattr(x, field)}" for x in listed if getattr(x, field)),
            )
            for name, field in BLKIO_DEVICE.items()
        ]

    def config(definition: Definition) -> list[Param]:
        weight = definition.blkiotune.weight if "blkiotune" in definition.__dict__ else None
        return [Param("weight", Type.UINT, weight or 0), *devices(definition)]

    def live(group: Group, definition: Definition) -> list[Param]:
        return [Param("weight", Type.UINT, knobs.weight(group)), *devices(definition)]

    return await _read(domain, "blkio", flags, live, config)


# ----------------------------------------------------------------------------- numa


async def set_numa(domain: "Domain", values: Values, flags: int) -> None:
    """virDomainSetNumaParameters."""
    check_mode(domain, "NUMA")
    mode = values.get("numa_mode")
    if mode is not None and not 0 <= int(mode) < len(MODES):
        raise InvalidArg(f"unsupported numatune mode: '{mode}'")
    word = MODES[int(mode)] if mode is not None else None
    nodes = _nodes(str(values["numa_nodeset"])) if "numa_nodeset" in values else None

    def check(live: Definition | None, config: Definition | None) -> None:
        for definition in (live, config):
            if definition is not None and word is not None and nodes is None and not _numa_nodes(definition):
                raise ConfigUnsupported(
                    "nodeset for NUMA memory tuning must be set if 'placement' is 'static'",
                    domain=ErrorDomain.DOMAIN,
                )
        if live is None:
            return
        tuned = "numatune" in live.__dict__ and live.numatune.memory is not None
        now = _numa_mode(live) if tuned else word
        if word is not None and word != now:
            raise OperationInvalid("can't change numatune mode for running domain")
        if nodes is None or (word == "strict" and nodes == _numa_nodes(live)):
            return
        # in the other modes QEMU itself binds the guest's memory, and moves none of it later
        if word == "strict":
            raise OperationInvalid("can't change nodeset for strict mode for running domain")
        if tuned and now != "restrictive":
            raise OperationInvalid("change of nodeset for running domain requires restrictive numa mode")
        for node in sorted(nodes - domain.hypervisor.documents.host.numa_nodes):
            raise ConfigUnsupported(f"NUMA node {node} is unavailable", domain=ErrorDomain.NONE)

    def apply(group: Group, running: Running) -> None:
        if nodes is None:
            return
        # no group may have nodes that the one around it has not
        knobs.set_nodes(group, "", nodes | parse_cpuset(knobs.nodes(group, "")))
        for thread in (*group.threads(), ""):
            knobs.set_nodes(group, thread, nodes)

    def note(definition: Definition) -> None:
        tune = definition.numatune
        if tune.memory is None and nodes is None:
            return  # the mode it has
        if tune.memory is None:
            tune.memory = NumaMemory(mode="strict")
        tune.memory.mode = word or tune.memory.mode
        if nodes is not None:
            tune.memory.nodeset, tune.memory.placement = nodes, None

    await _change(domain, "set NUMA parameters", "cpuset", flags, apply, note, check)


def _nodes(text: str) -> frozenset[int]:
    try:
        found = parse_cpuset(text)
    except ValueError:
        raise InvalidArg(f"Failed to parse bitmap '{text}'", domain=ErrorDomain.NONE) from None
    if not found:
        raise InvalidArg(f"Invalid nodeset of 'numatune': {text}")
    return found


def _numa_nodes(definition: Definition) -> frozenset[int]:
    memory = definition.numatune.memory if "numatune" in definition.__dict__ else None
    return (memory.nodeset if memory is not None else None) or frozenset()


def _numa_mode(definition: Definition) -> str:
    memory = definition.numatune.memory if "numatune" in definition.__dict__ else None
    return (memory.mode if memory is not None else None) or "strict"


async def numa(domain: "Domain", flags: int) -> list[Param]:
    """virDomainGetNumaParameters."""
    check_mode(domain, "NUMA")

    def both(definition: Definition, nodes: str) -> list[Param]:
        return [
            Param("numa_mode", Type.INT, MODES.index(_numa_mode(definition))),
            Param("numa_nodeset", Type.STRING, nodes),
        ]

    def config(definition: Definition) -> list[Param]:
        return both(definition, format_cpuset(_numa_nodes(definition)))

    return await _read(domain, "cpuset", flags, lambda _, definition: config(definition), config)
