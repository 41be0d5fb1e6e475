"""The machine itself: type, accelerator, memory, CPUs, name, clock, what boots. Devices are elsewhere."""

import re

from qvirt.errors import InvalidArg
from qvirt.model.clock import Clock, Timer
from qvirt.model.cpu import Cpu, Topology
from qvirt.model.domain import Pm, Suspend
from qvirt.model.features import Gic, Ioapic, ScaledSize, Smm, State, Tcg, Tseg
from qvirt.model.launch import Cipher, KeyWrap
from qvirt.model.memory import MaxMemory, MemoryAllocation, TotalMemory
from qvirt.model.os import BootMenu, OsBoot
from qvirt.model.vcpu import Vcpu
from qvirt.qemu.importer.account import Outcome
from qvirt.qemu.importer.clock import read_clock
from qvirt.qemu.importer.cpu import read_cpu
from qvirt.qemu.importer.gone import nearest_machine
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.numa import read_numa
from qvirt.qemu.importer.options import Argument, split_opts
from qvirt.qemu.importer.parts import MOST_CPUS, integer, size, switch
from qvirt.qemu.importer.sysinfo import read_sysinfo
from qvirt.xml.codecs import uuid as UUID

_FAMILIES: tuple[tuple[frozenset[str], "re.Pattern[str]", str], ...] = (
    (frozenset({"x86_64", "i686"}), re.compile(r"pc-q35-|q35$"), "q35"),
    (frozenset({"x86_64", "i686"}), re.compile(r"microvm$"), "microvm"),
    (frozenset({"x86_64", "i686"}), re.compile(r"pc$|pc-(?:i440fx-)?[0-9]"), "pc"),
    (frozenset({"aarch64", "armv7l", "armv6l"}), re.compile(r"virt(?:-[0-9.]+)?$"), "virt"),
    (frozenset({"riscv64", "riscv32"}), re.compile(r"virt$"), "virt"),
    (frozenset({"s390x"}), re.compile(r"s390-ccw-virtio"), "s390"),
)
NO_UUID = "00000000-0000-0000-0000-000000000000"


def read_machine(line: Line) -> None:
    """Fill in everything of the document that is no device."""
    _type(line)
    _accelerator(line)
    _name(line)
    _memory(line)
    read_clock(line)
    _cpus(line)
    read_numa(line)
    _features(line)
    _globals(line)
    _boot(line)
    read_sysinfo(line)


# ------------------------------------------------------------ type and accelerator


def _type(line: Line) -> None:
    props, given = line.merged("machine", "type")
    line.machine = {key.replace("_", "-"): value for key, value in props.items()}
    line.spelled = {key.replace("_", "-"): key for key in props}
    os = line.domain.os.type
    os.arch = line.caps.arch
    asked = props.get("type")
    asked = asked.removesuffix("+pve0") if asked else None
    known = line.caps.machine(asked) if asked else line.caps.default_machine
    if known is None and asked is not None:
        known = nearest_machine(line.caps, asked)
        if known is not None:
            line.note(f"this emulator has no machine '{asked}'; {known.name} comes closest", given)
    os.machine = known.name if known is not None else asked
    line.family = next(
        (
            family
            for arches, pattern, family in _FAMILIES
            if os.arch in arches and pattern.match(os.machine or "")
        ),
        "",
    )
    if given:
        line.to_xml(given, f"<type machine='{os.machine}'>")
    else:
        line.account.add((), Outcome.XML, f"<type machine='{os.machine}'>, the emulator's own choice")


def _accelerator(line: Line) -> None:
    asked: list[str] = []
    given = line.given("enable-kvm", "no-kvm", "accel", "kernel-kqemu", "enable-kqemu", "no-kqemu")
    for argument in given:
        if argument.name == "enable-kvm":
            asked = ["kvm"]
        elif argument.name == "no-kvm":
            asked = ["tcg"]
        elif argument.name == "accel":
            asked.append(split_opts(argument.value or "", "accel")[0][1])
            _accelerator_options(line, argument)
        elif argument.name.endswith("kqemu"):
            line.note("kqemu is gone; KVM is what came after it", [argument])
    said = line.machine.get("accel")
    if isinstance(said, str) and not asked:
        asked = said.split(":")
    if not asked and line.kvm:
        asked = ["kvm"]
    line.domain.type = "qemu"
    for name in asked:
        if name == "tcg":
            break
        if name == "kvm" and line.caps.kvm and line.offers_kvm:
            line.domain.type = "kvm"
            break
        line.note(
            "KVM cannot be used here, so the guest is emulated; set type='kvm' where it can"
            if name == "kvm"
            else f"the accelerator {name} is not one of this host; the guest is emulated"
        )
    line.to_xml(given, f"<domain type='{line.domain.type}'>")


def _accelerator_options(line: Line, argument: Argument) -> None:
    for key, value in split_opts(argument.value or "", "accel")[1:]:
        if key == "tb-size" and line.domain.type != "kvm":
            line.domain.features.tcg = Tcg(tb_cache=ScaledSize(value=integer(value, key) << 10, unit="KiB"))
        elif key == "dirty-ring-size":
            line.note("dirty-ring-size is not kept", [argument])
        else:
            line.note(f"{key}={value} is a property of the accelerator, which the daemon chooses", [argument])


# ------------------------------------------------------------ name, UUID


def _name(line: Line) -> None:
    domain = line.domain
    domain.name = "unnamed"
    given = line.given("name")
    for argument in given:
        for key, value in split_opts(argument.value or "", "guest"):
            if key == "guest":
                domain.name = value.replace("/", "-").replace("\n", " ") or "unnamed"
            else:
                line.note(f"{key}={value} is the daemon's to choose", [argument])
    line.to_xml(given, f"<name>{domain.name}</name>")
    uuid = line.last("uuid")
    if uuid is not None:
        try:
            domain.uuid = UUID.parse(uuid.value or "")
        except ValueError:
            raise InvalidArg(f"-uuid {uuid.value}: expected {UUID.expects}") from None
        line.to_xml(line.given("uuid"), "<uuid>")


# ------------------------------------------------------------ memory


def _memory(line: Line) -> None:
    domain = line.domain
    props, given = line.merged("m", "size")
    if "size" in props:
        amount = size(props["size"], "-m")
    else:
        amount = line.board.memory << 20
        line.account.add(
            (), Outcome.XML, f"<memory>: the {line.board.memory} MiB this machine has by default"
        )
    if line.machine_type.startswith("raspi") and amount != line.board.memory << 20:
        line.note(f"this board has {line.board.memory} MiB, no more and no less", given)
        amount = line.board.memory << 20
    domain.memory = TotalMemory(value=amount >> 10, unit="KiB")
    line.to_xml(given, "<memory>")
    most, slots = props.get("maxmem"), props.get("slots")
    if most is not None and slots is not None and integer(slots, "slots"):
        domain.max_memory = MaxMemory(
            value=size(most, "maxmem") >> 10, slots=integer(slots, "slots"), unit="KiB"
        )
    preallocate = line.given("mem-prealloc")
    if preallocate:
        domain.memory_backing.allocation = MemoryAllocation(mode="immediate")
        line.to_xml(preallocate, "<memoryBacking><allocation mode='immediate'/>")
    for argument in line.given("overcommit", "realtime"):
        for key, value in split_opts(argument.value or ""):
            if key in ("mem-lock", "mlock"):
                domain.memory_backing.locked = bool(switch(value))
                line.to_xml([argument], "<memoryBacking><locked/>")
            else:
                line.pass_on([argument], [f"-{argument.name}", f"{key}={value}"], "no XML")
    for argument in line.given("mem-lock"):
        domain.memory_backing.locked = True
        line.to_xml([argument], "<memoryBacking><locked/>")


# ------------------------------------------------------------ CPUs


def _cpus(line: Line) -> None:
    props, given = line.merged("smp", "cpus")
    numbers = {key: integer(value, f"-smp {key}") for key, value in props.items() if value.strip()}
    if not given:
        numbers = {"cpus": line.board.cpus}
    topology = topology_of(numbers, prefers_sockets=_prefers_sockets(line))
    if line.machine_type.startswith("pseries") and line.domain.type != "kvm" and topology.threads > 1:
        line.note("an emulated POWER CPU has one thread: each thread is a core", given)
        topology.cores, topology.threads = topology.cores * topology.threads, 1
    most = topology.sockets * topology.dies * topology.cores * topology.threads
    if "clusters" in numbers:
        most *= max(1, numbers["clusters"])
    boot = numbers.get("cpus") or numbers.get("maxcpus") or most
    most = max(most, numbers.get("maxcpus", 0))
    if not 0 < boot <= most < MOST_CPUS:
        said = ",".join(f"{key}={value}" for key, value in numbers.items())
        raise InvalidArg(
            f"-smp {said}: expected from 1 to {MOST_CPUS - 1} CPUs, of which all or fewer are on"
        )
    line.domain.vcpu = Vcpu(value=most, current=boot if boot != most else None)
    line.to_xml(given, "<vcpu>" + (" <topology>" if given else ""))
    if numbers.get("clusters", 1) > 1:
        line.pass_on(
            given, ["-smp", ",".join(f"{key}={value}" for key, value in numbers.items())], "clusters"
        )
    elif most > 1 and given:  # a board's own number has no topology to name
        cpu = line.domain.cpu = line.domain.cpu or Cpu()
        cpu.topology = topology
    read_cpu(line)


def topology_of(said: dict[str, int], *, prefers_sockets: bool) -> Topology:
    """Fill in the parts of a topology that ``-smp`` leaves out, as QEMU does.

    prefers_sockets: machine types before 6.2, where what is left over becomes sockets, not cores.
    """
    dies, clusters = said.get("dies") or 1, said.get("clusters") or 1
    sockets, cores, threads = (said.get(key) or 0 for key in ("sockets", "cores", "threads"))
    cpus, most = said.get("cpus") or 0, said.get("maxcpus") or 0
    if not cpus and not most:
        sockets, cores, threads = sockets or 1, cores or 1, threads or 1
    else:
        most = most or cpus
        other = dies * clusters
        if prefers_sockets:
            if not sockets:
                cores, threads = cores or 1, threads or 1
                sockets = most // (other * cores * threads)
            elif not cores:
                threads = threads or 1
                cores = most // (sockets * other * threads)
        elif not cores:
            sockets, threads = sockets or 1, threads or 1
            cores = most // (sockets * other * threads)
        elif not sockets:
            threads = threads or 1
            sockets = most // (other * cores * threads)
        threads = threads or most // ((sockets * other * cores) or 1)
    return Topology(sockets=max(1, sockets), dies=dies, cores=max(1, cores), threads=max(1, threads))


def _prefers_sockets(line: Line) -> bool:
    version = re.search(r"-([0-9]+)\.([0-9]+)", line.machine_type)
    if version is None or not re.match(r"(?:pc|virt|pseries|s390-ccw-virtio)-", line.machine_type):
        return False
    return (int(version[1]), int(version[2])) < (6, 2)


# ------------------------------------------------------------ features


def _features(line: Line) -> None:
    """Read what ``-machine`` and older switches say of the board."""
    features = line.domain.features
    machine = line.machine
    given = line.given("machine")
    no_acpi = line.given("no-acpi")
    if line.arch in ("x86_64", "i686"):
        features.acpi = not no_acpi and line.machine_switch("acpi") is not False
    line.to_xml(no_acpi, "no <acpi/>")
    if line.family == "virt" and line.machine_switch("highmem") is False and _is_beyond_4g(line):
        del machine["highmem"]
        line.note("highmem=off is left out: the memory does not fit below 4 GiB", given)
    if machine.get("smm") is not None and line.family in ("pc", "q35"):
        features.smm = Smm(state=line.machine_switch("smm")) if machine["smm"] != "auto" else None
    if machine.get("vmport") in ("on", "off") and line.family in ("pc", "q35"):
        features.vmport = State(state=line.machine_switch("vmport"))
    irqchip = machine.get("kernel-irqchip")
    if irqchip in ("split", "on") and line.family in ("pc", "q35") and line.domain.type == "kvm":
        features.ioapic = Ioapic(driver="qemu" if irqchip == "split" else "kvm")
    version = machine.get("gic-version")
    if version == "host" and line.domain.type != "kvm":
        line.note("the host's interrupt controller comes with KVM: an emulated guest has version 2", given)
        version = machine["gic-version"] = "2"
    if line.family == "virt" and version in ("2", "3", "host"):
        features.gic = Gic(version=str(version))
    wrapped = [
        Cipher(name=name, state=bool(line.machine_switch(f"{name}-key-wrap")))
        for name in ("aes", "dea")
        if line.arch == "s390x" and line.machine_switch(f"{name}-key-wrap") is not None
    ]
    if wrapped:
        line.domain.keywrap = KeyWrap(ciphers=wrapped)
    if line.domain.memory is not None:
        line.domain.memory.dump_core = _dumps(line)
    if line.machine_switch("mem-merge") is False:
        line.domain.memory_backing.nosharepages = True
    if features.smm is not None or features.vmport is not None:
        line.to_xml(given, "<features>")


def _dumps(line: Line) -> bool | None:
    """Tell whether memory is in the core that QEMU leaves; None where the line has no word on memory.

    QEMU's own answer is yes, libvirt's is no, and backends that are handed on do as the machine does.
    """
    said = line.machine_switch("dump-guest-core")
    backends = [part for part in line.parts.of("object") if (part.text("qom-type") or "").startswith(_MEMORY)]
    if said is None and (backends or line.given("numa")):
        return all(part.flag("dump") is not False for part in backends)
    return said


_MEMORY = "memory-backend-"
#: KiB of memory that ARM's virt has room for below 4 GiB
_LOW_MEMORY = 3 << 20


def _is_beyond_4g(line: Line) -> bool:
    return line.domain.memory is not None and line.domain.memory.value > _LOW_MEMORY


_POWER = re.compile(r"(PIIX4_PM|ICH9-LPC)\.(disable_s[34])=([01]|on|off|true|false)$")


def _globals(line: Line) -> None:
    """Read the ``-global`` that have an element; the others are handed on."""
    domain = line.domain
    for argument in line.given("global"):
        value = argument.value or ""
        if "driver=" in value:
            props = dict(split_opts(value))
            value = f"{props.get('driver')}.{props.get('property')}={props.get('value')}"
        power = _POWER.match(value)
        if power is not None and line.family in ("pc", "q35"):
            state = Suspend(enabled=power[3] in ("0", "off", "false"))
            if domain.__dict__.get("pm") is None:
                domain.pm = Pm()
            if power[2] == "disable_s3":
                domain.pm.suspend_to_mem = state
            else:
                domain.pm.suspend_to_disk = state
            line.to_xml([argument], "<pm>")
        elif value.startswith("kvm-pit.lost_tick_policy=") and line.family in ("pc", "q35"):
            policy = value.partition("=")[2]
            clock = domain.clock or Clock()
            clock.timers.append(Timer(name="pit", tickpolicy="discard" if policy == "discard" else "delay"))
            line.to_xml([argument], f"<timer name='pit' tickpolicy='{policy}'/>")
        elif value.startswith("mch.extended-tseg-mbytes=") and domain.features.smm is not None:
            domain.features.smm.tseg = Tseg(value=integer(value.partition("=")[2], "tseg"), unit="MiB")
            line.to_xml([argument], "<smm><tseg>")
        elif (
            value == "cfi.pflash01.secure=on"
            and line.family == "q35"
            and line.machine_switch("smm") is not False
        ):
            line.machine["secure-flash"] = "on"
            if domain.features.smm is None:
                domain.features.smm = Smm(state=True)
            line.to_xml([argument], "<loader secure='yes'>")
        else:
            line.pass_on([argument], ["-global", argument.value or ""], "no XML")


# ------------------------------------------------------------ boot

_BOOT = {"a": "fd", "b": "fd", "c": "hd", "d": "cdrom", "n": "network", "e": "network"}


def _boot(line: Line) -> None:
    os = line.domain.os
    props, given = line.merged("boot", "order")
    for key, value in props.items():
        if key == "order":
            wanted = list(dict.fromkeys(_BOOT[letter] for letter in value if letter in _BOOT))
            os.boots = [OsBoot(dev=dev) for dev in wanted[:4]]
        elif key == "menu":
            os.bootmenu = os.bootmenu or BootMenu()
            os.bootmenu.enable = bool(switch(value))
        elif key == "splash-time" and switch(props.get("menu")):
            os.bootmenu = os.bootmenu or BootMenu(enable=True)
            os.bootmenu.timeout = integer(value, key)
        elif key == "reboot-timeout":
            os.bios.reboot_timeout = integer(value, key)
        elif key == "strict":
            line.note("every guest boots strictly", given)
        else:
            line.pass_on(given, ["-boot", f"{key}={value}"], "no XML")
    line.to_xml(given, "<os>")
    for name, field in (("kernel", "kernel"), ("initrd", "initrd"), ("append", "cmdline"), ("dtb", "dtb")):
        argument = line.last(name)
        if argument is not None:
            setattr(os, field, argument.value)
            line.to_xml(line.given(name), f"<{field}>")
    _reboot(line)


def _reboot(line: Line) -> None:
    no_reboot = line.given("no-reboot")
    if no_reboot:
        line.domain.on_reboot = "destroy"
        line.to_xml(no_reboot, "<on_reboot>destroy</on_reboot>")
        line.pass_on(no_reboot[-1:], ["-no-reboot"], "QEMU itself ends, too, when nobody listens")
    line.drop(
        line.given("no-shutdown"),
        "the daemon always holds the guest at its end, to say how it ended; on_poweroff decides what follows",
    )
    for argument in line.given("action"):
        for key, value in split_opts(argument.value or ""):
            if key == "reboot" and value == "shutdown":
                line.domain.on_reboot = "destroy"
                line.to_xml([argument], "<on_reboot>destroy</on_reboot>")
            else:
                line.drop([argument], f"{key}={value}: the daemon decides what follows")
