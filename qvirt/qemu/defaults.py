"""Domain-level defaults: what libvirt fills in outside ``<devices>``."""

from qvirt.model.clock import Clock
from qvirt.model.cpu import Cpu, CpuModel
from qvirt.model.domain import Vcpu
from qvirt.model.memory import CurrentMemory
from qvirt.model.os import OsBoot
from qvirt.qemu.context import Context


def domain_defaults(ctx: Context) -> None:
    """Fill in the domain-level defaults."""
    domain = ctx.domain
    if domain.uuid is None:
        domain.uuid = ctx.generate_uuid()
    if domain.memory is not None and domain.current_memory is None:
        domain.current_memory = CurrentMemory(value=domain.memory.value, unit="KiB")
    if domain.vcpu is None:
        domain.vcpu = Vcpu(value=1)
    if domain.vcpu.placement is None:
        domain.vcpu.placement = "static"
    if domain.clock is None:
        domain.clock = Clock(offset="utc")
    domain.on_poweroff = domain.on_poweroff or "destroy"
    domain.on_reboot = domain.on_reboot or "restart"
    domain.on_crash = domain.on_crash or "destroy"
    os = domain.os
    os.type.arch = os.type.arch or ctx.host.arch
    machine = os.type.machine or "pc"
    os.type.machine = {"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}.get(machine, machine)
    if not os.boots and not any(getattr(dev, "boot", None) for dev in domain.devices.all()):
        os.boots.append(OsBoot(dev="hd"))
    if domain.devices.emulator is None:
        domain.devices.emulator = f"/usr/bin/qemu-system-{'i386' if os.type.arch == 'i686' else os.type.arch}"
    if domain.cpu is None:
        model = "qemu32" if os.type.arch == "i686" else "qemu64"
        domain.cpu = Cpu(mode="custom", match="exact", check_level="none", model=CpuModel(fallback="forbid", name=model))
