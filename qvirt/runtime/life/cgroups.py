"""The control groups of running guests: made before QEMU is, filled before it executes, gone when it is."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from qvirt.errors import (
    ConfigUnsupported,
    DBusService,
    OperationInvalid,
    OperationTimeout,
    QvirtError,
    SystemError_,
)
from qvirt.host import bpf, cgroup
from qvirt.host import cgroup_tuning as knobs
from qvirt.host.bpf import Rule
from qvirt.host.cgroup import Group, Mounts, machine_name
from qvirt.host.config import QemuConfig
from qvirt.host.machined import Machined, machine_of, scope_path, slice_of
from qvirt.host.persist import FileWorker
from qvirt.host.sysfs import store
from qvirt.model.domain import Domain as Definition
from qvirt.model.domain import Resource as Partition
from qvirt.qemu import vcpu_slots
from qvirt.qemu.devices.base import FileResource, Resource
from qvirt.qemu.smp import iothread_ids
from qvirt.record import Record, field, replace
from qvirt.runtime.paths import Paths
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import pinning
from qvirt.security import devices

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)


#: the elements of <cputune> that control groups are for
_CPU_LIMITS = ("shares", *(f"{whose}{what}" for whose in ("", "global_", "emulator_", "iothread_")
                           for what in ("period", "quota")))  # fmt: skip


class Doors(Record):
    """By which files a process gets into its groups before it executes QEMU, see `Group.doors`.

    is_late: version 2's group is not among them, and is entered while QEMU loads.
    """

    files: list[str] = field(default_factory=list)
    is_late: bool = False


class Cgroups:
    """What a daemon knows of this machine's control groups.

    mounts: None for a daemon that is not root, whose guests have none. reports: what is not to be had, one
    sentence each.
    """

    def __init__(self, paths: Paths, config: QemuConfig) -> None:
        self._config = config
        self._root = str(paths.etc.parent.parent) if paths.kind == "root" else None
        self.reports: list[str] = []
        #: the kernel changes one group at a time: who waits for it holds up nobody else's file work
        self.worker = FileWorker(1)
        self.later = FileWorker(1)
        self._waking = self._guards = self._waits = False
        self.mounts: Mounts | None = None
        self.confines_devices = False
        #: makes a guest a machine of systemd's; None where there is no such service
        self.machined: Machined | None = None
        if os.geteuid() != 0:
            return
        found = cgroup.find_mounts()
        if not found.v1 and found.v2 is None:
            self.reports.append("no control groups are mounted: guests run without limits and device lists")
            return
        self.mounts = found

    async def open(self) -> None:
        """Find out what there is of what guests shall have."""
        if self.mounts is None:
            return
        self.machined, trouble = await Machined.find()
        if trouble is not None:
            self.reports.append(trouble)
        await self.worker.run("control groups", partial(self._look, self.mounts))

    def _look(self, found: Mounts) -> None:
        """Note what is to be had, and report what is not. Blocking."""
        refused: dict[str, str] = {}
        why = []
        if self.machined is None:
            found, refused = cgroup.writable(found)
            why += [f"'{where}': {words}" for where, words in refused.items()]
            if not found.v1 and found.v2 is None:
                self.mounts = None
                self.reports.append(
                    f"no control groups can be made ({'; '.join(why)}): "
                    "guests run without limits and device lists"
                )
                return
            kept = cgroup.hand_down(found, self._config.controllers)
            if kept:
                words = next(iter(kept.values()))
                why.append(f"'{found.v2}' does not hand down {', '.join(kept)}: {words}")
                found = replace(found, v2_has=found.v2_has - kept.keys())
            self.mounts = found
        have = {*found.v1, *({"blkio"} if "io" in found.v2_has else ()), *found.v2_has}
        if found.v2 is not None:
            have |= {"cpuacct", "devices"}
        missing = [name for name in self._config.controllers if name not in have]
        if missing:
            reasons = f" ({'; '.join(why)})" if why else ""
            self.reports.append(
                f"control groups without {', '.join(missing)}{reasons}: what they limit is refused"
            )
        self.confines_devices = "devices" in self._config.controllers and "devices" in have
        if self.confines_devices and found.v2 is not None and (reason := bpf.refusal()) is not None:
            self.confines_devices = False
            self.reports.append(f"no device lists for guests: the kernel takes no such programs: {reason}")
        #: version 1's device list stands in for version 2's while a guest starts
        self._guards = self.confines_devices and found.v2 is not None and "devices" in found.v1
        limits = self.group("machine")
        self._waits = limits is not None and (
            limits.limits_by_v2 or (self.confines_devices and not self._guards)
        )

    def group(self, path: str) -> Group | None:
        """Return the group at a path; None where there are no control groups or it has none."""
        return (
            Group(self.mounts, path, self._config.controllers) if self.mounts is not None and path else None
        )

    def name_of(self, definition: Definition, id: int) -> str:
        """Return libvirt's name of a guest's machine."""
        return machine_name(id, definition.name, self._root).removesuffix(cgroup.MACHINE_SUFFIX)

    def path_of(self, definition: Definition, id: int) -> str:
        """Return where a guest's group is, '' without any; its live document names the partition."""
        if self.mounts is None:
            return ""
        name = machine_name(id, definition.name, self._root)
        definition.resource = definition.resource or Partition()
        partition = definition.resource.partition = _partition(definition)
        if self.machined is not None:
            return f"{scope_path(partition, name.removesuffix(cgroup.MACHINE_SUFFIX))}/libvirt"
        return f"{cgroup.partition_path(partition)}/{name}".lstrip("/")

    async def register(self, running: Running) -> None:
        """Make a machine of a guest's process, where systemd has machines; its groups are in the scope then.

        Raises DBusService, OperationTimeout.
        """
        group = running.group
        if self.machined is None or group is None:
            return
        definition = running.definition
        await self.machined.create(
            machine_of(group.path) or "",
            uuid=UUID(definition.uuid).bytes,
            leader=running.pid,
            slice=slice_of(_partition(definition)),
            interfaces=_indexes(definition),
            max_tasks=self._config.max_threads,
        )
        scope = await self.worker.run("control groups", partial(cgroup.scope_of_process, running.pid))
        if scope and group.path != f"{scope}/libvirt":
            running.footprint.cgroup = f"{scope}/libvirt"
            running.group = self.group(running.footprint.cgroup)

    async def release(self, running: Running) -> str | None:
        """End a guest's machine; returns what keeps it."""
        machine = machine_of(running.footprint.cgroup)
        if machine is None or self.machined is None:
            return None
        try:
            await self.machined.terminate(machine)
        except (DBusService, OperationTimeout) as error:
            return f"cannot terminate machine '{machine}': {error.detail}"
        return None

    async def wake(self) -> None:
        """Let the kernel get ready for moving processes, once for all who start something now."""
        if self.mounts is None or self._waking or not self._waits:
            return
        self._waking = True
        try:
            await self.later.run("control groups", partial(cgroup.wake, self.mounts))
        finally:
            self._waking = False

    async def close(self) -> None:
        """Wait for what is under way."""
        if self.machined is not None:
            await self.machined.close()
        await self.worker.close()
        await self.later.close()

    # ------------------------------------------------------------- blocking

    def make(self, group: Group, definition: Definition, files: Iterable[Resource], leader: int = 0) -> Doors:
        """Make a guest's groups with its list of devices and the limits of the whole guest. Blocking.

        Who gets into version 2's group waits for a grace period of the kernel's, so QEMU does not: it is let
        go in version 1's groups, confined by version 1's device list, and `join` does the rest. Where version
        2 limits, or confines alone, it is entered first. leader: the process systemd has made a scope for.
        Raises SystemError_, and OperationInvalid for a limit that needs what is not mounted.
        """
        group.make(leader)
        guarded = False
        if self.confines_devices:
            rules = [*devices.default_rules(self._config.device_acl), *rules_for(files)]
            may_wait = self._guards and not leader and not group.limits_by_v2
            guarded = may_wait and devices.guard(group, rules)
            try:
                devices.confine(group, rules)
            except OSError as error:
                raise SystemError_(f"cannot confine '{definition.name}' to its devices", error) from error
        limit(group, definition, self._config.max_threads)
        knobs.hasten(group, _shares(definition))
        is_late = (
            group.v2 is not None
            and not leader
            and not group.limits_by_v2
            and (guarded or not self.confines_devices)
        )
        doors = [door for version, door in group.doors() if version == 1 or not is_late]
        if guarded:
            doors.append(f"{group.guard}/tasks")
        return Doors(doors, is_late)

    def join(self, group: Group, pid: int) -> None:
        """Put a process that came in by doors that leave version 2 for later there, too. Blocking.

        Raises SystemError_.
        """
        group.attach(pid)
        group.lift_guard(pid)

    def allow(self, running: Running, files: Iterable[Resource]) -> None:
        """Let a running guest open nodes of devices that are plugged in. Blocking. Raises SystemError_."""
        rules = rules_for(files)
        group = running.group
        if group is None or not self.confines_devices or not rules:
            return
        try:
            devices.allow(group, rules)
        except OSError as error:
            raise SystemError_(f"cannot add to the devices of '{running.definition.name}'", error) from error

    def deny(self, running: Running, gone: Iterable[Resource], kept: Iterable[Resource]) -> list[str]:
        """Take the nodes of unplugged devices away. Blocking. Returns what could not be."""
        group = running.group
        if group is None or not self.confines_devices:
            return []
        rules = (*devices.default_rules(self._config.device_acl), *rules_for(kept))
        still = {(rule.type, rule.key) for rule in rules}
        try:
            devices.deny(group, [rule for rule in rules_for(gone) if (rule.type, rule.key) not in still])
        except OSError as error:
            return [f"cannot take from the devices of '{running.definition.name}': {error.strerror}"]
        return []


def _partition(definition: Definition) -> str:
    return (definition.resource.partition if definition.resource is not None else None) or "/machine"


def _indexes(definition: Definition) -> list[int]:
    """Return the indexes of a guest's network devices on the host."""
    found = []
    for interface in definition.devices.interfaces:
        if interface.target.dev:
            with contextlib.suppress(OSError):
                found.append(socket.if_nametoindex(interface.target.dev))
    return found


def rules_for(files: Iterable[Resource]) -> list[Rule]:
    """Return the rules for the device nodes among resources. Blocking."""
    nodes = (resource for resource in files if isinstance(resource, FileResource))
    return [rule for x in nodes if (rule := devices.rule_of(x.path, writable=x.writable)) is not None]


def refuse_unlimited(definition: Definition, *, session: bool) -> None:
    """Refuse limits where a guest has no control groups at all.

    session: of a user's own daemon. Raises ConfigUnsupported there, else OperationInvalid.
    """
    said = definition.__dict__
    tune, memory, blkio = (said.get(name) for name in ("cputune", "memtune", "blkiotune"))
    wanted = (
        ("Memory", "memory", memory is not None and any(getattr(memory, kind) for kind in knobs.MEMORY)),
        ("Block I/O", "blkio", blkio is not None and bool(blkio.weight or blkio.devices)),
        ("CPU", "CPU", tune is not None and any(getattr(tune, name) is not None for name in _CPU_LIMITS)),
    )
    for what, controller, is_wanted in wanted:
        if is_wanted and session:
            raise ConfigUnsupported(f"{what} tuning is not available in session mode")
        if is_wanted:
            raise OperationInvalid(f"cgroup {controller} controller is not mounted")


def limit(group: Group, definition: Definition, max_threads: int = 0) -> None:
    """Set what the document says of the whole guest. Blocking."""
    said = definition.__dict__
    if "cputune" in said:
        tune = definition.cputune
        if tune.shares is not None:
            knobs.set_shares(group, tune.shares)
        if tune.global_period or tune.global_quota:
            knobs.set_bandwidth(group, "", tune.global_period or 0, tune.global_quota or 0)
        if tune.emulator_period or tune.emulator_quota:
            knobs.set_bandwidth(group, "emulator", tune.emulator_period or 0, tune.emulator_quota or 0)
    if "memtune" in said:
        for kind in knobs.MEMORY:
            wanted = getattr(definition.memtune, kind)
            if wanted is not None:
                knobs.set_memory(group, kind, wanted.value)
    if "blkiotune" in said:
        if definition.blkiotune.weight:
            knobs.set_weight(group, definition.blkiotune.weight)
        for device in definition.blkiotune.devices:
            if device.weight:
                knobs.set_device_weight(group, device.path, device.weight)
            for kind in knobs.THROTTLE:
                rate = getattr(device, kind)
                if rate:
                    knobs.set_throttle(group, device.path, kind, rate)
    cpus = pinning.emulator_cpus(definition)
    if cpus and group.version("cpuset"):
        knobs.set_cpus(group, "emulator", cpus)
    nodes = memory_nodes(definition)
    if nodes:
        for thread in ("", "emulator"):
            knobs.set_nodes(group, thread, nodes)
    if max_threads and group.version("pids"):
        folder = group.folder("pids")
        with contextlib.suppress(FileNotFoundError):
            store(folder / "pids.max", str(max_threads))


def calm(group: Group, definition: Definition) -> None:
    """Take from a guest what it was given for its start. Blocking. Raises SystemError_."""
    knobs.calm(group, _shares(definition))


def _shares(definition: Definition) -> int | None:
    return definition.cputune.shares if "cputune" in definition.__dict__ else None


def memory_nodes(definition: Definition) -> frozenset[int] | None:
    """Return the host's nodes that all memory of a guest has to come from."""
    memory = definition.numatune.memory if "numatune" in definition.__dict__ else None
    if memory is None or memory.mode not in ("strict", "restrictive"):
        return None
    return memory.nodeset


# -------------------------------------------------------------------------- threads


async def place_threads(domain: "Domain", running: Running, *, again: bool = False) -> None:
    """Give every vCPU and iothread a group of its own with its limits, and take away those of threads gone.

    again: limits are set for threads that have a group, too. Raises SystemError_.
    """
    group = running.group
    if group is None or running.finishing:
        return
    threads = {
        f"vcpu{number}": running.vcpu_threads[number]
        for number in vcpu_slots.online(running.definition)
        if number < len(running.vcpu_threads) and running.vcpu_threads[number]
    }
    if iothread_ids(running.definition):
        threads |= {f"iothread{n}": tid for n, tid in (await pinning.iothread_threads(running)).items()}
    await domain.hypervisor.cgroups.later.run(
        f"control groups of '{domain.name}'", partial(_place, group, running.definition, threads, again)
    )


def has_limits(definition: Definition) -> bool:
    """Tell whether any thread of a guest has limits of its own."""
    tune = definition.__dict__.get("cputune")
    is_tuned = tune is not None and not tune.is_empty()
    return bool(is_tuned or memory_nodes(definition) or pinning.emulator_cpus(definition))


def place_soon(domain: "Domain", running: Running) -> None:
    """Place the threads of a QEMU that has just started, while the guest runs: the group of the whole guest
    confines them anyway, and moving one takes the kernel a dozen milliseconds.
    """
    if running.group is not None:
        work = place_threads(domain, running)
        running.placing = domain.hypervisor.background(work, f"control groups of {domain.name}")


async def placed(running: Running) -> None:
    """Wait until the threads of a QEMU that has just started are in their groups, or cannot be."""
    if running.placing is not None:
        await asyncio.wait([running.placing])
        running.placing = None


def _place(group: Group, definition: Definition, threads: dict[str, int], again: bool) -> None:
    there = set(group.threads()) - {"emulator"}
    try:
        for thread, tid in threads.items():
            if thread not in there:
                group.make_thread(thread)
            try:
                if again or thread not in there:
                    limit_thread(group, definition, thread)
                group.attach_thread(thread, tid)
            except QvirtError:
                if thread not in there:
                    group.remove_thread(thread)  # so that whoever comes next sets its limits
                raise
        for thread in there - threads.keys():
            group.remove_thread(thread)
    except OSError as error:
        raise SystemError_(f"cannot place threads of '{definition.name}'", error) from error


def limit_thread(group: Group, definition: Definition, thread: str) -> None:
    """Set what the document says of a thread. Blocking."""
    said = definition.__dict__
    kind = thread.rstrip("0123456789")
    if "cputune" in said:
        tune = definition.cputune
        period, quota = (
            (tune.iothread_period, tune.iothread_quota) if kind == "iothread" else (tune.period, tune.quota)
        )
        if period or quota:
            knobs.set_bandwidth(group, thread, period or 0, quota or 0)
    cpus = pinning.cpus_of(definition, kind, int(thread[len(kind) :]))
    if cpus and group.version("cpuset"):
        knobs.set_cpus(group, thread, cpus)
    nodes = memory_nodes(definition)
    if nodes:
        knobs.set_nodes(group, thread, nodes)


async def after_reconnect(domain: "Domain", running: Running) -> None:
    """Put the threads of a guest found again where they belong, should they not be there."""
    try:
        await place_threads(domain, running, again=True)
    except QvirtError as error:
        log.warning("domain '%s': %s", domain.name, error)
