"""Domain -> CommandLine: only the order of the switches lives here.

The order is libvirt's, so that two command lines can be compared by eye.
"""

from collections.abc import Iterator

from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.base import handler
from qvirt.qemu.switches import Chardev, CommandLine, KeyValue, Object, Option, Switch

#: the device lists in the order libvirt puts them on the command line
DEVICE_ORDER = (
    "iommus",
    "controllers",
    "memory",
    "hubs",
    "disks",
    "filesystems",
    "interfaces",
    "smartcards",
    "serials",
    "parallels",
    "channels",
    "consoles",
    "tpms",
    "inputs",
    "audios",
    "graphics",
    "videos",
    "sounds",
    "watchdogs",
    "redirdevs",
    "hostdevs",
    "memballoons",
    "rngs",
    "nvrams",
)
LAST_DEVICES = ("panics", "shmems", "vsocks", "cryptos")


def build(domain: Domain, ctx: BuildContext) -> CommandLine:
    """Return the command line that starts the domain, which must be complete and have its aliases."""
    return CommandLine(domain.devices.emulator or "", list(_switches(domain, ctx)), {})


def native_domain(domain: Domain) -> Domain:
    """Return the domain as ``domxml-to-native`` sees it: every interface on a tap of its own."""
    return domain.copy()


def _switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    yield KeyValue("name", {"guest": domain.name, "debug-threads": True})
    yield Option("S")
    yield Object({"qom-type": "secret", "id": "masterKey0", "format": "raw", "file": f"{ctx.domain_dir}/master-key.aes"})
    machine = domain.os.type.machine
    yield KeyValue("machine", {"type": machine, "usb": False, "dump-guest-core": False, "memory-backend": "pc.ram"}, "type")
    yield Option("accel", domain.type if domain.type == "kvm" else "tcg")
    if domain.cpu and domain.cpu.model:
        yield Option("cpu", domain.cpu.model.name)
    assert domain.memory is not None and domain.vcpu is not None
    mib = domain.memory.value // 1024
    yield Option("m", str(mib))
    yield Object({"qom-type": "memory-backend-ram", "id": "pc.ram", "size": mib << 20})
    yield KeyValue("overcommit", {"mem-lock": False})
    yield KeyValue("smp", {"cpus": domain.vcpu.value, "sockets": domain.vcpu.value, "cores": 1, "threads": 1}, "cpus")
    yield Option("uuid", domain.uuid)
    yield Option("display", "none")
    yield Option("no-user-config")
    yield Option("nodefaults")
    yield Chardev("socket", {"id": "charmonitor", "path": f"{ctx.domain_dir}/monitor.sock", "server": True, "wait": False})
    yield KeyValue("mon", {"chardev": "charmonitor", "id": "monitor", "mode": "control"})
    yield KeyValue("rtc", {"base": "utc"})
    yield Option("no-shutdown")
    yield Option("no-acpi")
    yield KeyValue("boot", {"strict": True})
    for name in DEVICE_ORDER:
        yield from _devices(name, ctx)
    for name in LAST_DEVICES:
        yield from _devices(name, ctx)
    if ctx.settings.seccomp_sandbox:
        yield KeyValue("sandbox", {"enable": True, "obsolete": "deny", "elevateprivileges": "deny", "spawn": "deny", "resourcecontrol": "deny"}, "enable")
    yield KeyValue("msg", {"timestamp": True})


def _devices(name: str, ctx: BuildContext) -> Iterator[Switch]:
    for dev in getattr(ctx.domain.devices, name):
        yield from handler(dev).switches(dev, ctx)
