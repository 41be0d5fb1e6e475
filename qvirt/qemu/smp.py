"""Virtual CPUs and iothreads: how many, which from the start, ``-smp``; iothread objects."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.domain import Domain
from qvirt.model.vcpu import Iothread, Vcpu, VcpuEntry
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_pseries, is_q35, is_x86
from qvirt.qemu.switches import KeyValue, Object, Switch

#: without extended interrupt mode an x86 APIC addresses no more
MAX_VCPUS_WITHOUT_EIM = 255


def default_vcpus(ctx: Context) -> None:
    """Fill in number, placement and the state of each CPU."""
    domain = ctx.domain
    vcpu = domain.vcpu = domain.vcpu or Vcpu(value=1)
    if not vcpu.value:
        raise InternalError("CPU IDs in <numa> exceed the <vcpu> count: there is none")
    if vcpu.current is not None:
        if vcpu.current > vcpu.value:
            raise ConfigUnsupported(
                f"maximum vCPU count must not be less than current vCPU count: {vcpu.value} < {vcpu.current}"
            )
        if not vcpu.current:
            raise ConfigUnsupported("vcpu 0 can't be offline")
    if vcpu.placement == "auto":
        vcpu.cpuset = None
    if vcpu.placement is None:
        vcpu.placement = "auto" if _is_placed_by_numatune(domain) else "static"
    _default_entries(domain, vcpu)
    tune = domain.__dict__.get("cputune")
    if tune is not None:  # pins of CPUs that are not there are dropped, as libvirt does
        tune.vcpupins = [pin for pin in tune.vcpupins if pin.vcpu < vcpu.value]
    if vcpu.current == vcpu.value:
        vcpu.current = None
    if "cputune" in domain.__dict__:
        _cut_resource_groups(domain, vcpu.value)


def _cut_resource_groups(domain: Domain, count: int) -> None:
    """Leave CPUs out that the guest does not have, and groups that have none left."""
    tune, there = domain.cputune, frozenset(range(count))
    tune.forget_live()
    for group in tune.resource_groups:
        group.vcpus &= there
        for monitor in group.monitors:
            monitor.vcpus &= there
    tune.cachetunes = [cache for cache in tune.cachetunes if cache.vcpus]
    tune.memorytunes = [bandwidth for bandwidth in tune.memorytunes if bandwidth.vcpus]


def _is_placed_by_numatune(domain: Domain) -> bool:
    memory = domain.numatune.memory
    return (
        memory is not None
        and memory.placement == "auto"
        and (domain.vcpu is None or domain.vcpu.cpuset is None)
        and not domain.cputune.vcpupins
        and domain.cputune.emulatorpin is None
        and not domain.cputune.iothreadpins
    )


def _default_entries(domain: Domain, vcpu: Vcpu) -> None:
    if domain.vcpus is None:
        return
    said = {entry.id: entry for entry in domain.vcpus.vcpus}
    for entry in domain.vcpus.vcpus:
        if entry.id >= vcpu.value:
            raise XmlError(f"vcpu id '{entry.id}' is out of range of maximum vcpu count")
    entries = []
    for number in range(vcpu.value):
        entry = said.get(number) or VcpuEntry(id=number, enabled=False)
        if entry.hotpluggable is None:
            entry.hotpluggable = not entry.enabled
        elif not entry.hotpluggable and not entry.enabled:
            raise ConfigUnsupported(f"vcpu '{number}' is both offline and not hotpluggable")
        entries.append(entry)
    ordered = {entry.order is not None for entry in entries if entry.enabled}
    if len(ordered) > 1:
        raise ConfigUnsupported("all vcpus must have either set or unset order")
    if not entries[0].enabled:
        raise ConfigUnsupported("vcpu 0 can't be offline")
    if entries[0].hotpluggable:
        raise ConfigUnsupported("vcpu0 can't be hotpluggable")
    if (entries[0].order or 1) != 1:
        raise ConfigUnsupported("vcpu0 must be enabled first")
    domain.vcpus.vcpus = entries
    vcpu.current = sum(entry.enabled for entry in entries)


def default_iothreads(ctx: Context) -> None:
    """Number the iothreads that have no id, lowest free numbers first."""
    domain = ctx.domain
    said = domain.iothreadids.iothreads if "iothreadids" in domain.__dict__ else []
    count = max(domain.iothreads or 0, len(said))
    if not count:
        return
    domain.iothreads = count
    if said:  # a domain that numbers some numbers all
        domain.iothreadids.iothreads = iothread_ids(domain)
    tune = domain.__dict__.get("cputune")
    if tune is not None and said:
        # libvirt lists what is said of the threads in the order of the threads
        order = {iothread.id: place for place, iothread in enumerate(domain.iothreadids.iothreads)}
        tune.iothreadpins.sort(key=lambda pin: order.get(pin.iothread, count))
        tune.iothreadscheds.sort(key=lambda sched: order.get(min(sched.iothreads), count))


def iothread_ids(domain: Domain) -> list[Iothread]:
    """Return every iothread of the domain, those without an id of their own included."""
    said = list(domain.iothreadids.iothreads) if "iothreadids" in domain.__dict__ else []
    taken = {iothread.id for iothread in said}
    number = 1
    while len(said) < (domain.iothreads or 0):
        if number not in taken:
            said.append(Iothread(id=number))
        number += 1
    return said


def check_vcpus(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported when numbers and topology do not fit together or the machine."""
    vcpu = domain.vcpu or Vcpu(value=1)
    machine = ctx.caps.machine(domain.os.type.machine or "")
    if machine is not None and vcpu.value > machine.cpu_max:
        raise ConfigUnsupported(
            f"Maximum CPUs greater than specified machine type limit {machine.cpu_max}: {vcpu.value}"
        )
    if is_x86(domain) and vcpu.value > MAX_VCPUS_WITHOUT_EIM:
        if not is_q35(domain):
            raise ConfigUnsupported(
                f"more than {MAX_VCPUS_WITHOUT_EIM} vCPUs are only supported on q35-based machine types"
            )
        if not any(_has_eim(iommu.__dict__.get("driver")) for iommu in domain.devices.iommus):
            raise ConfigUnsupported(
                f"more than {MAX_VCPUS_WITHOUT_EIM} vCPUs require extended interrupt mode enabled on the "
                "iommu device"
            )
    cells = domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []
    numbered: list[int] = [number for cell in cells for number in cell.cpus or ()]
    if len(numbered) > vcpu.value:
        raise InternalError("Number of CPUs in <numa> exceeds the <vcpu> count")
    if numbered and max(numbered) >= vcpu.value:
        raise InternalError("CPU IDs in <numa> exceed the <vcpu> count")
    for sched in domain.cputune.vcpuscheds if "cputune" in domain.__dict__ else ():
        for number in sorted(sched.vcpus):
            if number >= vcpu.value:
                raise ConfigUnsupported(f"vCPU '{number}' is not present in domain definition")
    topology = domain.cpu.topology if domain.cpu is not None else None
    if topology is None:
        return
    total = topology.sockets * topology.dies * topology.cores * topology.threads
    if total != vcpu.value:
        raise ConfigUnsupported("CPU topology doesn't match maximum vcpu count"
                                f": {total} in <topology>, {vcpu.value} in <vcpu>")  # fmt: skip
    granularity = topology.threads if is_pseries(domain) else 1
    if domain.vcpus_current % granularity:
        raise ConfigUnsupported(
            f"vCPUs count must be a multiple of the vCPU hotplug granularity ({granularity})"
        )


def _has_eim(driver: object) -> bool:
    return getattr(driver, "eim", None) is True


def check_iothreads(domain: Domain) -> None:
    """Raise ConfigUnsupported for pins and schedulers of threads that are not there."""
    known = {iothread.id for iothread in iothread_ids(domain)}
    for pin in domain.cputune.iothreadpins:
        if pin.iothread not in known:
            raise ConfigUnsupported(f"Cannot find 'iothread' : {pin.iothread}")
    for sched in domain.cputune.iothreadscheds:
        for number in sorted(sched.iothreads - known):
            raise ConfigUnsupported(f"Cannot find 'iothread' : {number}")


def smp_switches(domain: Domain) -> Iterator[Switch]:
    """Yield ``-smp``; hot-pluggable CPUs that are on are added when QEMU runs."""
    vcpu = domain.vcpu or Vcpu(value=1)
    if domain.vcpus is not None:
        cold = sum(entry.enabled and not entry.hotpluggable for entry in domain.vcpus.vcpus)
    else:
        cold = domain.vcpus_current
    props: dict[str, JsonValue] = {"cpus": cold}
    if cold != vcpu.value:
        props["maxcpus"] = vcpu.value
    topology = domain.cpu.topology if domain.cpu is not None else None
    if topology is not None:
        props |= {
            "sockets": topology.sockets,
            "dies": topology.dies,
            "cores": topology.cores,
            "threads": topology.threads,
        }
    else:
        props |= {"sockets": vcpu.value, "cores": 1, "threads": 1}
    yield KeyValue("smp", props, "cpus", origin=vcpu)


def iothread_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield an object for each iothread."""
    for iothread in iothread_ids(domain):
        yield iothread_object(iothread)


def iothread_object(iothread: Iothread) -> Object:
    """Return the object of an iothread, for the command line or a running QEMU."""
    return Object(
        {
            "qom-type": "iothread",
            "id": f"iothread{iothread.id}",
            "thread-pool-min": iothread.thread_pool_min,
            "thread-pool-max": iothread.thread_pool_max,
        },
        origin=iothread,
    )


def main_loop_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the object that sets the main loop's thread pool."""
    default = domain.defaultiothread
    if default is None:
        return
    if not ctx.caps.has_object("main-loop"):
        raise ConfigUnsupported("thread_pool attributes of <defaultiothread> need a QEMU with 'main-loop'")
    yield Object(
        {
            "qom-type": "main-loop",
            "id": "main-loop",
            "thread-pool-min": default.thread_pool_min,
            "thread-pool-max": default.thread_pool_max,
        },
        origin=default,
    )
