"""The plain dialect: today's emulator in the words one would type; `by_hand` has what a start says instead.

It says ``key=value`` where a start says JSON, and ``-drive`` where it says block nodes.
"""

from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.dialect.ages import Version, parse_age
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.record import Record, fields

NAME = "plain"

#: what is not said though the emulator takes it, or went from it long ago
_UNSAID = frozenset(
    {
        "@json", "@host-domain", "-blockdev", "-machine:pflash0", "-machine:pflash1", "-drive:serial",
        "-drive:boot", "-drive:addr", "-spice:seamless-migration", "-mem-prealloc", "-realtime:mlock",
        "-localtime", "-startdate", "-rtc-td-hack", "-no-kqemu", "-no-kvm", "-nodefconfig", "-sdl",
        "-soundhw", "-usbdevice", "-std-vga", "-vmwarevga", "pci-assign", "virtio-blk-pci.scsi",
    }
)  # fmt: skip
#: architectures whose emulators have -no-acpi
_HAVE_NO_ACPI = frozenset({"i686", "x86_64", "aarch64"})


class Plain(Record):
    """The plain dialect, where a release could stand."""


def parse_dialect(text: str) -> Version | Plain:
    """Read what ``--dialect`` names: a release, or ``plain``. Raises InvalidArg."""
    return Plain() if text == NAME else parse_age(text)


class PlainCaps(DialectCaps, slots=False):
    """An emulator that was asked, and what of its words is typed by hand."""

    def says(self, fact: str) -> bool:
        """Tell whether a fact holds and is made use of."""
        if fact in _UNSAID or fact.endswith(".virgl"):
            return False  # a card that draws has a type of its own
        if fact == "-no-acpi":
            return self.arch in _HAVE_NO_ACPI
        if fact.startswith(("@", "-")):
            return True
        type, _, property = fact.partition(".")
        known = self.properties.get(type)
        return type in self.types and (not property or known is None or property in known)

    def machine_has(self, machine: str, property: str) -> bool:
        """Tell whether a machine type has a property."""
        return EmulatorCaps.machine_has(self, machine, property)

    def has_option(self, option: str) -> bool:
        """Tell whether the command line has an option."""
        return EmulatorCaps.has_option(self, option)

    def option_has(self, option: str, parameter: str) -> bool:
        """Tell whether a switch takes a parameter."""
        return EmulatorCaps.option_has(self, option, parameter)

    def device_has(self, type: str, property: str) -> bool:
        """Tell whether a device type has a property."""
        return EmulatorCaps.device_has(self, type, property)

    def has_command(self, command: str) -> bool:
        """Tell whether the monitor has a command."""
        return EmulatorCaps.has_command(self, command)


def plain_caps(caps: EmulatorCaps) -> PlainCaps:
    """Return an emulator's capabilities as the plain dialect sees them."""
    return PlainCaps(**{name: getattr(caps, name) for name in fields(EmulatorCaps)}, facts=frozenset())
