"""Which family a machine type belongs to, and what such a machine has built in."""

from qvirt.model.domain import Domain

_X86 = frozenset({"i686", "x86_64"})
_ARM = frozenset({"armv6l", "armv7l", "aarch64"})
_RISCV = frozenset({"riscv32", "riscv64"})
_PPC = frozenset({"ppc", "ppc64", "ppc64le"})
_S390 = frozenset({"s390", "s390x"})


def is_x86(domain: Domain) -> bool:
    """Tell whether the guest is a PC of 32 or 64 bits."""
    return domain.os.type.arch in _X86


def is_s390(domain: Domain) -> bool:
    """Tell whether the guest is an IBM Z."""
    return domain.os.type.arch in _S390


def is_arm(domain: Domain) -> bool:
    """Tell whether the guest is an ARM of 32 or 64 bits."""
    return domain.os.type.arch in _ARM


def is_q35(domain: Domain) -> bool:
    """Tell whether the machine has Intel's Q35 chipset (PCI Express)."""
    machine = domain.os.type.machine or ""
    return is_x86(domain) and (machine == "q35" or machine.startswith("pc-q35"))


def is_i440fx(domain: Domain) -> bool:
    """Tell whether the machine has Intel's 440FX chipset (conventional PCI)."""
    machine = domain.os.type.machine or ""
    return is_x86(domain) and (machine == "pc" or machine.startswith(("pc-0.", "pc-1.", "pc-i440", "rhel")))


def is_pseries(domain: Domain) -> bool:
    """Tell whether the machine is a paravirtual POWER server."""
    machine = domain.os.type.machine or ""
    return domain.os.type.arch in _PPC and (machine == "pseries" or machine.startswith("pseries-"))


def is_s390_ccw(domain: Domain) -> bool:
    """Tell whether the machine has a channel subsystem."""
    return is_s390(domain) and (domain.os.type.machine or "").startswith("s390-ccw")


def is_arm_virt(domain: Domain) -> bool:
    """Tell whether the machine is QEMU's own ARM board."""
    return is_arm(domain) and _is_virt(domain)


def is_riscv_virt(domain: Domain) -> bool:
    """Tell whether the machine is QEMU's own RISC-V board."""
    return domain.os.type.arch in _RISCV and _is_virt(domain)


def _is_virt(domain: Domain) -> bool:
    machine = domain.os.type.machine or ""
    return machine == "virt" or machine.startswith("virt-")


def root_model(domain: Domain) -> str | None:
    """Return the model of the PCI controller of index 0, None when there is none."""
    for controller in domain.devices.controllers:
        if controller.type == "pci" and controller.index == 0:
            return controller.model
    return None


def has_builtin_ide(domain: Domain) -> bool:
    """Tell whether the first IDE controller is part of the machine."""
    machine = domain.os.type.machine or ""
    return is_i440fx(domain) or machine in ("malta", "sun4u", "g3beige", "mac99")


def has_builtin_fdc(domain: Domain) -> bool:
    """Tell whether the machine has a floppy controller without asking; Q35 lost it in QEMU 2.4."""
    machine = domain.os.type.machine or ""
    if not is_q35(domain):
        return True
    return machine.startswith(("pc-q35-1.", "pc-q35-2.0", "pc-q35-2.1", "pc-q35-2.2", "pc-q35-2.3"))


def supports_pci(domain: Domain) -> bool:
    """Tell whether the machine has a PCI bus at all."""
    if is_x86(domain):
        return True
    if is_arm(domain) and (domain.os.type.machine or "") == "versatilepb":
        return True
    if is_arm(domain):
        return is_arm_virt(domain)
    if domain.os.type.arch in _RISCV:
        return is_riscv_virt(domain)
    if is_s390(domain):
        return root_model(domain) is not None
    return True


def has_builtin_esp(domain: Domain) -> bool:
    """Tell whether the machine has a SCSI controller of its own, as Sun's 32-bit workstations do."""
    return domain.os.type.arch == "sparc" and domain.os.type.machine != "leon3_generic"


def has_legacy_usb(domain: Domain) -> bool:
    """Tell whether QEMU's ``-usb`` is asked for on the machine."""
    return not (is_q35(domain) or is_arm_virt(domain) or is_riscv_virt(domain) or is_s390(domain))


def has_many_pci_buses(domain: Domain) -> bool:
    """Tell whether the machine's PCI buses are numbered; a single one is plain ``pci``."""
    is_numbered = is_x86(domain) or is_s390(domain) or domain.os.type.arch in _PPC
    return is_numbered or is_arm_virt(domain) or is_riscv_virt(domain)
