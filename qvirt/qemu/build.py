"""Domain -> CommandLine: only the order of the switches lives here.

The order is libvirt's, so that two command lines can be compared by eye.
"""

import json
from collections.abc import Iterator
from itertools import chain

from qvirt.model.domain import Domain
from qvirt.model.qemu_namespace import QemuOverrideDevice
from qvirt.qemu.boot import boot_switches, power_switches, smbios_switches
from qvirt.qemu.clock import clock_environment, rtc_switches
from qvirt.qemu.context import BuildContext
from qvirt.qemu.cpu import cpu_switches
from qvirt.qemu.devices.base import handler
from qvirt.qemu.devices.controller import legacy_usb_switches
from qvirt.qemu.devices.interface import native as native_interface
from qvirt.qemu.devices.placement import zpci_switch
from qvirt.qemu.features import secure_loader_switches, tseg_switches, vmcoreinfo_switches
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.launch_security import launch_security_switches, sandbox_switches
from qvirt.qemu.loader import choose_firmware, firmware_switches, rom_switches
from qvirt.qemu.machine import machine_switches, no_acpi
from qvirt.qemu.memory import align_memory, memory_switches, overcommit_switches
from qvirt.qemu.numa import check_placement, numa_switches
from qvirt.qemu.smp import iothread_switches, main_loop_switches, smp_switches
from qvirt.qemu.switches import Chardev, CommandLine, Device, KeyValue, Object, Option, Switch

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
)
#: controllers come by type: a bus must be there before what sits on it
CONTROLLER_ORDER = ("pci", "usb", "scsi", "ide", "sata", "virtio-serial", "ccid")
_CONTROLLER_RANKS = {type: rank for rank, type in enumerate(CONTROLLER_ORDER)}
AFTER_INCOMING = ("memballoons", "rngs", "nvrams")
LAST_DEVICES = ("panics", "shmems", "vsocks", "cryptos")

_COMPAT = {
    "omit": {"deprecated-output": "hide"},
    "reject": {"deprecated-output": "hide", "deprecated-input": "reject"},
    "crash": {"deprecated-output": "hide", "deprecated-input": "crash"},
}


def build(domain: Domain, ctx: BuildContext, *, placed: bool = True) -> CommandLine:
    """Return the command line that starts the domain, which must be complete and have its aliases.

    Changes the document where a start decides: the firmware chosen, memory sizes rounded up. ``placed``:
    somebody must say on which host nodes. Raises ConfigUnsupported and what the choice of a firmware raises.
    """
    if placed:
        check_placement(domain)
    choose_firmware(domain, ctx)
    align_memory(domain)
    switches = list(chain(_machine(domain, ctx), _devices(domain, ctx), _last(domain, ctx)))
    if domain.qemu_override is not None:
        _override(switches, domain.qemu_override.devices)
    return CommandLine(domain.devices.emulator or "", switches, _environment(domain, ctx))


def native_domain(domain: Domain) -> Domain:
    """Make a complete domain what ``domxml-to-native`` sees, and return it: every interface on a tap.

    Of an interface only model, MAC, script and boot order stay; it needs a new address.
    """
    domain.devices.interfaces = [native_interface(nic) for nic in domain.devices.interfaces]
    return domain


def _machine(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield everything before the devices."""
    yield KeyValue(
        "name",
        {
            "guest": domain.name,
            "process": f"qemu:{domain.name}" if ctx.settings.set_process_name else None,
            "debug-threads": True,
        },
        origin=domain,
    )
    deprecation = domain.qemu_deprecation
    behavior = deprecation.behavior if deprecation is not None else ctx.settings.deprecation_behavior
    if behavior in _COMPAT:
        yield Option("compat", json.dumps(_COMPAT[behavior], separators=(",", ":")), origin=deprecation)
    yield Option("S")
    yield Object(
        {
            "qom-type": "secret",
            "id": "masterKey0",
            "format": "raw",
            "file": f"{ctx.domain_dir}/master-key.aes",
        }
    )
    yield from firmware_switches(domain)
    yield from machine_switches(domain, ctx)
    yield from tseg_switches(domain)
    yield from cpu_switches(domain, ctx)
    yield from secure_loader_switches(domain)
    yield from rom_switches(domain)
    yield from memory_switches(domain, ctx)
    yield from overcommit_switches(domain)
    yield from smp_switches(domain)
    yield from iothread_switches(domain, ctx)
    yield from numa_switches(domain, ctx)
    yield from main_loop_switches(domain, ctx)
    yield Option("uuid", domain.uuid, origin=domain)
    yield from smbios_switches(domain, ctx)
    if domain.genid is not None:
        yield Device({"driver": "vmgenid", "guid": domain.genid, "id": "vmgenid0"}, origin=domain)
    if not domain.devices.graphics:
        yield Option("display", "none")
    yield Option("no-user-config")
    yield Option("nodefaults")
    if domain.os.bios.useserial and not ctx.caps.machine_has(domain.os.type.machine or "", "graphics"):
        yield Device({"driver": "sga"}, origin=domain.os.bios)
    yield from _monitor(ctx)
    yield from rtc_switches(domain, ctx)
    yield Option("no-shutdown")
    yield from no_acpi(domain, ctx)
    yield from power_switches(domain, ctx)
    yield from boot_switches(domain, ctx)


def _monitor(ctx: BuildContext) -> Iterator[Switch]:
    props: dict[str, JsonValue] = {"id": "charmonitor"}
    if ctx.launch.monitor_fd is not None:
        props["fd"] = ctx.launch.monitor_fd
    else:
        props["path"] = f"{ctx.domain_dir}/monitor.sock"
    yield Chardev("socket", {**props, "server": True, "wait": False})
    yield KeyValue("mon", {"chardev": "charmonitor", "id": "monitor", "mode": "control"})


def _devices(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    for name in DEVICE_ORDER:
        yield from _kind(name, domain, ctx)
        if name == "controllers":
            yield from legacy_usb_switches(domain)
    if ctx.launch.incoming is not None:
        yield Option("incoming", ctx.launch.incoming)
    for name in AFTER_INCOMING:
        yield from _kind(name, domain, ctx)
    yield from vmcoreinfo_switches(domain, ctx)


def _last(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the user's own words and what follows them."""
    if domain.qemu_commandline is not None:
        for arg in domain.qemu_commandline.args:
            yield Word(arg.value, origin=arg)
    yield from sandbox_switches(ctx)
    for name in LAST_DEVICES:
        yield from _kind(name, domain, ctx)
    yield from launch_security_switches(domain, ctx)
    if ctx.settings.log_timestamp:
        yield KeyValue("msg", {"timestamp": True})


def _kind(name: str, domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    devices = domain.devices.__dict__.get(name, ())
    if not devices:
        return
    if name == "controllers":
        devices = sorted(devices, key=lambda dev: _CONTROLLER_RANKS.get(dev.type, len(_CONTROLLER_RANKS)))
    for dev in devices:
        zpci = zpci_switch(dev)
        if zpci is None:
            yield from handler(dev).switches(dev, ctx)
            continue
        for switch in handler(dev).switches(dev, ctx):
            if isinstance(switch, Device) and switch.props.get("id") == dev.alias.name:
                yield zpci
            yield switch


class Word(Option, frozen=False):
    """A word the user wrote into ``<qemu:commandline>``; nothing is known about it."""

    def to_argv(self) -> list[str]:
        return [self.name]


def _override(switches: list[Switch], wanted: list[QemuOverrideDevice]) -> None:
    """Change the properties of devices as ``<qemu:override>`` says. Raises ConfigUnsupported."""
    devices = {switch.props.get("id"): switch for switch in switches if isinstance(switch, Device)}
    for override in wanted:
        device = devices.get(override.alias)
        if device is None:
            continue  # libvirt says nothing either
        props = dict(device.props)
        for change in override.frontend.properties if override.frontend is not None else ():
            match change.type:
                case "remove":
                    props.pop(change.name, None)
                case "string":
                    props[change.name] = change.value
                case "bool":
                    props[change.name] = change.value == "true"
                case _:
                    props[change.name] = json.loads(change.value or "0")
        device.props = props


def _environment(domain: Domain, ctx: BuildContext) -> dict[str, str]:
    env = clock_environment(domain)
    for dev in domain.devices.all():
        asked = handler(dev)
        if asked.has_environment:
            env.update(asked.environment(dev, ctx))
    if domain.qemu_commandline is not None:
        env.update({variable.name: variable.value or "" for variable in domain.qemu_commandline.envs})
    return env
