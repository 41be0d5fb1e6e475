"""What libvirt's rules make of the domain level; the whole command lines are in tests/golden."""

import re

import pytest

from qvirt.errors import ConfigUnsupported, CpuIncompatible, InternalError, QvirtError
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.boot import boot_index, boot_indexes
from qvirt.qemu.build import build, native_domain
from qvirt.qemu.complete import complete
from qvirt.qemu.context import Settings
from qvirt.qemu.machine import emulator_names, runs_arch
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.start import directories, prepare_domain
from qvirt.qemu.switches import CommandLine
from tests.support.pure import completed, context

DOMAIN = (
    "<domain type='{type}'>\n<name>a</name>{memory}\n{inner}\n<os>{os}</os>\n<devices>{devices}</devices>"
    "</domain>"
)


def document(
    inner: str = "",
    *,
    type: str = "qemu",
    os: str = "<type machine='pc'>hvm</type>",
    devices: str = "",
    memory: str = "<memory unit='MiB'>64</memory>",
) -> str:
    return DOMAIN.format(type=type, memory=memory, inner=inner, os=os, devices=devices)


def started(text: str) -> tuple[Domain, CommandLine]:
    domain = completed(text)
    ctx = context(domain)
    prepare_domain(domain, ctx)
    assign_aliases(domain, ctx)
    return domain, build(domain, ctx)


def switch(command: CommandLine, name: str) -> list[str]:
    argv = command.argv()
    return [argv[i + 1] for i, word in enumerate(argv) if word == f"-{name}"]


# ------------------------------------------------------------------ boot order

DISKS = (
    "<disk type='file' device='cdrom'><source file='/c'/><target dev='hdc' bus='ide'/></disk>"
    "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
    "<disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>"
    "<interface type='user'/>"
)


def test_boot_words_number_the_first_device_of_their_kind() -> None:
    words = "".join(f"<boot dev='{word}'/>" for word in ("fd", "network", "hd", "cdrom"))
    os = f"<type machine='pc'>hvm</type>{words}"
    domain = completed(document(os=os, devices=DISKS))
    disks = {disk.target.dev: boot_index(disk, domain) for disk in domain.devices.disks}
    assert disks == {"hdc": 4, "vda": 3, "vdb": None}
    assert boot_index(domain.devices.interfaces[0], domain) == 2
    assert len(boot_indexes(domain)) == 3


def test_devices_say_their_own_boot_order() -> None:
    text = document(devices=DISKS.replace("<target dev='vdb'", "<boot order='7'/><target dev='vdb'"))
    domain = completed(text)
    assert [boot_index(disk, domain) for disk in domain.devices.disks] == [None, None, 7]
    assert not domain.os.boots


def test_both_ways_of_saying_it_do_not_mix() -> None:
    os = "<type machine='pc'>hvm</type><boot dev='hd'/>"
    with pytest.raises(ConfigUnsupported, match="per-device boot elements cannot be used together"):
        completed(
            document(os=os, devices=DISKS.replace("<target dev='vdb'", "<boot order='1'/><target dev='vdb'"))
        )


# ------------------------------------------------------------------ defaults


def test_a_machine_alias_becomes_the_machine() -> None:
    assert completed(document()).os.type.machine == "pc-i440fx-7.2"
    assert (
        completed(document(os="<type machine='pc-i440fx-2.3'>hvm</type>")).os.type.machine == "pc-i440fx-2.3"
    )


def test_emulators_of_an_architecture() -> None:
    assert emulator_names("i686") == ("qemu-system-i386", "qemu-system-x86_64", "qemu-kvm", "kvm")
    assert emulator_names("armv7l") == ("qemu-system-arm",)
    assert runs_arch("x86_64", "i686")
    assert not runs_arch("i686", "x86_64")


def test_an_old_document_keeps_what_the_guest_sees() -> None:
    text = document(
        "<vcpu>4</vcpu><cpu><numa><cell cpus='0-1' memory='1024'/></numa></cpu>",
        memory="<memory>5000</memory>",
    )
    new, old = parse_domain(text), parse_domain(text)
    complete(new, context(new))
    complete(old, context(old, abi_update=False))
    for domain, memory, cpus in ((new, 1024, 4), (old, 5000, 2)):
        assert domain.memory is not None
        assert domain.cpu is not None
        assert domain.cpu.numa is not None
        assert domain.memory.value == memory
        assert len(domain.cpu.numa.cells[0].cpus or ()) == cpus


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (document("<vcpu>256</vcpu>"), "Maximum CPUs greater than specified machine type limit 255"),
        (document("<vcpu current='3'>2</vcpu>"), "maximum vCPU count must not be less than current"),
        (
            document("<vcpu>2</vcpu><cpu><numa><cell cpus='0-5' memory='1'/></numa></cpu>"),
            "Number of CPUs in <numa> exceeds the <vcpu> count",
        ),
        (document(type="hvf"), "does not support virt type 'hvf'"),
        (document(os="<type>exe</type>"), "does not support os type 'exe'"),
        (document(os="<type arch='vax'>hvm</type>"), "Unknown architecture vax"),
        (document("<bootloader>/x</bootloader>"), "bootloader is not supported by QEMU"),
        (document("<on_poweroff>preserve</on_poweroff>"), "doesn't support the 'preserve' action"),
        (document("<cpu><model>n</model><cache mode='passthrough'/></cpu>"), "CPU cache mode 'passthrough'"),
        (document("<features><gic version='2'/></features>"), "The 'gic' feature is not supported"),
        (document(memory="<maxMemory slots='1'>9</maxMemory><memory>5</memory>"), "At least one numa node"),
        (document(memory=""), "Memory size must be specified via <memory>"),
        (document("<iothreads>1</iothreads><cputune><iothreadpin iothread='2' cpuset='0'/></cputune>"),
         "Cannot find 'iothread' : 2"),
    ],
)  # fmt: skip
def test_refused(text: str, message: str) -> None:
    with pytest.raises(QvirtError, match=re.escape(message)):
        completed(text)


# ------------------------------------------------------------------ a start


def test_every_switch_knows_its_line() -> None:
    _, command = started(document("<vcpu>2</vcpu>", devices=DISKS))
    sources = {words[0]: source for words, source in command.explain()}
    assert sources["-smp"] == "<vcpu> (line 3)"
    assert sources["-machine"] == "<type> (line 4)"
    assert sources["-blockdev"] == "<disk> (line 5)"
    assert sources["-no-user-config"] == "the machine"


def test_a_start_settles_firmware_and_sizes() -> None:
    os = "<type machine='q35'>hvm</type>"
    text = document("<features><acpi/></features>", os=os, memory="<memory>70000</memory>")
    domain, command = started(text.replace("<os>", "<os firmware='efi'>"))
    assert domain.os.loader is not None
    assert domain.os.nvram is not None
    assert domain.memory is not None
    assert domain.os.loader.path == "/firmware/OVMF_CODE.secure.fd"
    assert domain.os.nvram.path == "/var/lib/libvirt/qemu/nvram/a_VARS.fd"
    assert domain.os.nvram.template == "/firmware/OVMF_VARS.secure.fd"
    assert domain.memory.value == 70656
    assert switch(command, "m") == ["69"]
    assert "smm=on" in switch(command, "machine")[0]


def test_host_model_is_named_at_a_start() -> None:
    domain, command = started(document("<cpu mode='host-model'/>"))
    assert domain.cpu is not None
    assert domain.cpu.model is not None
    assert domain.cpu.mode == "custom"
    assert switch(command, "cpu")[0].startswith(f"{domain.cpu.model.name},")


def test_a_cpu_the_host_cannot_run() -> None:
    text = document("<cpu check='partial'><model>core2duo</model><feature name='vmx'/></cpu>")
    with pytest.raises(CpuIncompatible, match="Host CPU does not provide required features: vme, vmx"):
        started(text)


def test_placement_by_advice() -> None:
    domain = completed(document("<vcpu placement='auto'>1</vcpu>"))
    with pytest.raises(InternalError, match="Advice from numad"):
        prepare_domain(domain, context(domain))


def test_memory_in_files_needs_a_folder() -> None:
    assert directories(completed(document()), context(completed(document()))) == []
    domain = completed(
        document("<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>")
    )
    assert directories(domain, context(domain)) == ["/var/lib/libvirt/qemu/ram/-1-a"]


def test_native_interfaces_are_taps() -> None:
    domain = completed(document(devices=DISKS))
    native = native_domain(domain)
    ctx = context(native)
    complete(native, ctx)
    assign_aliases(native, ctx)
    assert any('"type":"tap"' in netdev for netdev in switch(build(native, ctx), "netdev"))


def test_the_monitor_is_a_descriptor_when_there_is_one() -> None:
    domain = completed(document())
    ctx = context(domain)
    assign_aliases(domain, ctx)
    path = switch(build(domain, ctx), "chardev")[0]
    assert path.endswith("path=/var/lib/libvirt/qemu/domain--1-a/monitor.sock,server=on,wait=off")
    ctx.launch.monitor_fd = 5
    assert switch(build(domain, ctx), "chardev")[0] == "socket,id=charmonitor,fd=5,server=on,wait=off"


@pytest.mark.parametrize("wanted", [True, False])
def test_lines_of_the_log_have_the_time_if_so_wished(wanted: bool) -> None:
    domain = completed(document())
    command = build(domain, context(domain, settings=Settings(log_timestamp=wanted)))
    assert switch(command, "msg") == (["timestamp=on"] if wanted else [])


def test_incoming_comes_before_the_balloon() -> None:
    domain = completed(document())
    ctx = context(domain)
    assign_aliases(domain, ctx)
    ctx.launch.incoming = "defer"
    argv = build(domain, ctx).argv()
    assert argv.index("-incoming") < next(i for i, word in enumerate(argv) if "virtio-balloon" in word)
