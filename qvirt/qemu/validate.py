"""Domain-level validation, in libvirt's order: combinations it refuses, with its own sentences."""

from qvirt.errors import ConfigUnsupported
from qvirt.model.domain import Domain
from qvirt.qemu.boot import check_bios, check_power
from qvirt.qemu.clock import check_clock
from qvirt.qemu.context import Context
from qvirt.qemu.cpu import check_cpu
from qvirt.qemu.devices.disk_rules import check_duplicates
from qvirt.qemu.features import check_features
from qvirt.qemu.launch_security import check_launch_security
from qvirt.qemu.loader import check_firmware_choice, check_loader
from qvirt.qemu.machine import check_machine
from qvirt.qemu.memory import check_memory
from qvirt.qemu.numa import check_numa
from qvirt.qemu.smp import check_iothreads, check_vcpus


def validate_domain(ctx: Context) -> None:
    """Raise ConfigUnsupported or XmlError for what cannot run; changes nothing."""
    domain = ctx.domain
    if domain.bootloader or domain.bootloader_args:
        raise ConfigUnsupported("bootloader is not supported by QEMU")
    check_machine(ctx)
    check_lifecycle(domain)
    check_loader(domain, ctx)
    if domain.genid is not None and not ctx.caps.has_device("vmgenid"):
        raise ConfigUnsupported("QEMU binary does not support vmgenid")
    check_features(domain, ctx)
    check_power(domain, ctx)
    check_vcpus(domain, ctx)
    check_iothreads(domain)
    check_memory(domain, ctx)
    check_clock(domain, ctx)
    check_cpu(domain, ctx)
    check_numa(domain, ctx)
    check_bios(domain)
    check_launch_security(domain, ctx)
    tune = domain.__dict__.get("cputune")
    if domain.type != "kvm" and tune is not None and (tune.cachetunes or tune.memorytunes):
        raise ConfigUnsupported("cachetune is only supported for KVM domains")


def validate_whole(ctx: Context) -> None:
    """Raise XmlError, XmlDetail or ConfigUnsupported for what does not fit together whatever the emulator is.

    Asked last, when the emulator and each device for itself have nothing to say against the domain.
    """
    check_duplicates(ctx.domain)
    check_firmware_choice(ctx.domain)


def check_lifecycle(domain: Domain) -> None:
    """Refuse reactions of the guest's end that the driver cannot carry out."""
    poweroff, reboot, crash = domain.on_poweroff, domain.on_reboot, domain.on_crash
    if "preserve" in (poweroff, reboot):
        raise ConfigUnsupported(
            "qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'"
        )
    if "rename-restart" in (poweroff, reboot, crash):
        raise ConfigUnsupported(
            "qemu driver doesn't support the 'rename-restart' action for 'on_reboot'/'on_poweroff'/'on_crash'"
        )
    if poweroff == "restart" and reboot == "destroy":
        raise ConfigUnsupported(
            "qemu driver doesn't support 'onReboot' set to 'destroy and 'onPoweroff' set to 'reboot'"
        )
