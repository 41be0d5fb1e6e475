"""What an older emulator takes, as short words, and the capabilities the builder sees behind them.

A fact is written as it would be on a command line:

    -rtc                    the switch is there
    -drive:format           the switch takes the parameter
    virtio-scsi-pci         the device type is built in
    virtio-blk-pci.scsi     the device has the property
    @primary-video          something no text of the emulator says, named below
"""

from collections.abc import Iterable, Mapping

from qvirt.qemu.caps import AccelFacts, EmulatorCaps, Machine
from qvirt.record import field

UNSAID: Mapping[str, str] = {
    "@primary-video": "-device makes the first graphics card, too; before it is -vga's alone",
    "@usb-ports": "USB devices have ports that can be chosen",
    "@drive-units": "libvirt wrote bus and unit of a -drive, not its index",
    "@cpu-on-off": "CPU features are written name=on, not +name",
    "@json": "-device, -netdev and -object take JSON",
    "@long-options": "a flag is written name=on: short forms such as 'server,nowait' are deprecated",
    "@pci.0": "the first PCI bus of POWER machines is called pci.0, not pci",
    "@multifunction": "a PCI device can be one of several functions of a slot",
    "@rom": "PCI devices take rombar and romfile",
    "@iommu_platform": "virtio devices take iommu_platform",
    "@ats": "virtio devices take ats",
    "@host-domain": "a PCI device of the host is named with its domain",
    "@disable-legacy": "virtio devices can do without I/O ports, so they go into PCI Express slots",
    "@monitor-socket": "libvirt had the monitor on a socket, not on a pty",
    "@silent-cpu": "libvirt names the CPU only if there is something to say of it",
    "@memory-up": "libvirt rounded the guest's memory up to MiB, not down",
    "@whole-frontends": "a disk's device is told all that is not about its image",
    "@typed": "somebody types the line, and leaves out what is the default; true of no release",
    "@set-action": "what happens at reboot and shutdown can be set later, by the monitor",
}
"""Facts that neither ``-help`` nor ``-device ?`` shows: an emulator's version stands for them."""


class DialectCaps(EmulatorCaps, slots=False):
    """The facts of an emulator that cannot answer QMP's questions, or of one that is only imagined."""

    facts: frozenset[str] = field(default=frozenset())

    @property
    def plugs_first_card(self) -> bool:
        """Tell whether the first graphics card is a ``-device``."""
        return "@primary-video" in self.facts

    @property
    def has_modern_virtio(self) -> bool:
        """Tell whether virtio devices go into PCI Express slots."""
        return "@disable-legacy" in self.facts

    def has_device(self, type: str) -> bool:
        """Tell whether a device is built in; a PIIX3 has its USB controller, -device or not."""
        return type in self.types or (type == "piix3-usb-uhci" and self.target in ("i386", "x86_64"))

    def machine(self, name: str) -> Machine | None:
        """Return the machine type; where none are listed, every name is taken."""
        if self.machines:
            return super().machine(name)
        return Machine(name, cpu_max=1024, numa_mem_supported=True)

    def machine_has(self, machine: str, property: str) -> bool:
        """Tell whether ``-machine`` takes a property."""
        return f"-machine:{property}" in self.facts

    def has_option(self, option: str) -> bool:
        """Tell whether the emulator has a switch."""
        return f"-{option.removeprefix('-')}" in self.facts

    def option_has(self, option: str, parameter: str) -> bool:
        """Tell whether a switch takes a parameter."""
        return f"-{option.removeprefix('-')}:{parameter}" in self.facts

    def device_has(self, type: str, property: str) -> bool:
        """Tell whether a device has a property; one whose properties nobody listed has none of interest."""
        return f"{type}.{property}" in self.facts

    def says(self, fact: str) -> bool:
        """Tell whether a fact holds."""
        return fact in self.facts

    def has_command(self, command: str) -> bool:
        """Tell whether the monitor has a command, by the switch that goes with it."""
        return _COMMANDS.get(command, "") in self.facts


HARDWARE = frozenset(
    {
        "AC97", "ES1370", "VGA", "cirrus-vga", "e1000", "i6300esb", "ib700", "isa-parallel", "isa-serial",
        "lsi", "lsi53c895a", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "sb16", "usb-host", "usb-mouse",
        "usb-tablet", "virtio-balloon-pci", "virtio-blk-pci", "virtio-net-pci", "vmware-svga",
    }
)  # fmt: skip
"""What emulators had before ``-device`` could name it."""

_COMMANDS = {"query-spice": "-spice"}


def dialect_caps(
    facts: Iterable[str],
    *,
    emulator: str,
    version: tuple[int, int, int],
    target: str,
    machines: tuple[Machine, ...] = (),
    kvm: bool = True,
) -> DialectCaps:
    """Make the capabilities that a set of facts stands for."""
    known = frozenset(facts)
    if "-device" not in known:
        known |= HARDWARE
    properties: dict[str, set[str]] = {}
    options: dict[str, set[str]] = {}
    types: set[str] = set()
    for fact in known:
        if fact.startswith("@"):
            continue
        if fact.startswith("-"):
            name, _, parameter = fact[1:].partition(":")
            options.setdefault(name, set()).update({parameter} if parameter else ())
        else:
            name, _, parameter = fact.partition(".")
            if parameter:
                properties.setdefault(name, set()).add(parameter)
            else:
                types.add(name)
    accels = {"tcg": AccelFacts()}
    if kvm:
        accels["kvm"] = AccelFacts()
    return DialectCaps(
        emulator=emulator,
        version=version,
        package="",
        target=target,
        machines=machines,
        types=frozenset(types),
        properties={name: frozenset(said) for name, said in properties.items()},
        options={name: frozenset(said) for name, said in options.items()},
        commands=frozenset(),
        migration_capabilities=frozenset(),
        tpm_models=known & {"tpm-tis", "tpm-crb"},
        tpm_types=frozenset(kind for kind in ("passthrough", "emulator") if f"tpm-{kind}" in known),
        accels=accels,
        schema_packed=b"",
        facts=known,
    )
