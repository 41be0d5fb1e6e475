"""What an emulator prints about itself, read as facts: ``-help``, ``-device ?`` and ``-M ?``.

Emulators older than the monitor's questions say all they say in these texts.
"""

import re
from collections.abc import Iterator

from qvirt.qemu.caps import Machine
from qvirt.qemu.dialect.ages import unsaid
from qvirt.qemu.dialect.facts import DialectCaps, dialect_caps
from qvirt.record import Record

#: devices whose properties are asked for, beside the list of devices
ASKED_DEVICES = (
    "virtio-blk-pci", "virtio-net-pci", "virtio-scsi-pci", "scsi-disk", "scsi-hd", "ide-drive", "ide-hd",
    "usb-storage", "usb-redir", "usb-host", "pci-assign", "PIIX4_PM", "qxl-vga", "qxl", "VGA", "isa-serial",
)  # fmt: skip

_SWITCH = re.compile(r"^-([A-Za-z0-9][\w-]*(?:/-[\w-]+)*)")
_PARAMETER = re.compile(r"(?:^|[\[,|{(\s])([a-z][\w.-]*)(?:=|(?=[\],|\[]))")
_CHOICE = re.compile(r"([a-z][\w-]*)=([\w-]+(?:\|[\w-]+)+)")
_VERSION = re.compile(r"version (\d+)\.(\d+)(?:\.(\d+))?(?: \(([^)]*)\))?")


class Help(Record):
    """What ``-help`` says. kvm: the number of a kvm-NN build, 0 of another fork for KVM, None otherwise."""

    version: tuple[int, int, int]
    package: str
    kvm: int | None
    facts: frozenset[str]

    @property
    def version_number(self) -> int:
        """The version as libvirt counts it."""
        major, minor, micro = self.version
        return major * 1_000_000 + minor * 1000 + micro


def parse_help(text: str) -> Help:
    """Read ``-help``. Raises ValueError for what is not QEMU's."""
    found = _VERSION.search(text.partition("\n")[0])
    if found is None or not text.startswith("QEMU"):
        raise ValueError("this is not the help of a QEMU: its first line names no version")
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    package = found[4] or ""
    number = re.match(r"kvm-(\d+)", package)
    kvm = int(number[1]) if number else 0 if "kvm" in package else None
    facts = {fact for name, lines in _entries(text) for fact in _facts(name, lines)}
    if "accel=accel1" in text or "accel=" in text:
        facts.add("-machine:accel")
    if "-net:vhost" in facts:
        facts.add("-netdev:vhost")
    facts |= unsaid(version)
    if version < (0, 13, 0) and "libvirt" not in text:
        # there, but not finished; a build that backports them says for whom
        facts -= {"-qmp", "-netdev", "-nodefconfig"}
    if kvm is None and "-enable-kvm" not in facts:
        facts -= {"-no-kvm"}
    return Help(version, package, kvm, frozenset(facts))


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every switch with its lines."""
    name = ""
    lines: list[str] = []
    for line in text.splitlines():
        found = _SWITCH.match(line)
        if found is not None:
            if name:
                yield name, lines
            name, lines = found[1], [line]
        elif line and not line.startswith((" ", "[", "\t")):
            if name:
                yield name, lines
            name, lines = "", []
        elif name:
            lines.append(line)
    if name:
        yield name, lines


def _facts(name: str, lines: list[str]) -> Iterator[str]:
    names = [part.lstrip("-") for part in name.split("/")]
    syntax = [lines[0][1 + len(name) :]]
    for line in lines[1:]:
        if not re.match(r"\s*\[", line) and not re.match(r"\s+[a-z_]+=", line):
            break
        syntax.append(line.strip())
    for switch in names:
        yield f"-{switch}"
        for line in syntax:
            for parameter in _PARAMETER.findall(line):
                yield f"-{switch}:{parameter}"
            for key, values in _CHOICE.findall(line):
                for value in values.split("|"):
                    yield f"-{switch}:{key}={value}"
            for choices in re.findall(r"\[([\w-]+(?:\|[\w-]+)+)\]", line):
                for value in choices.split("|"):
                    yield f"-{switch}:{value}"


def parse_devices(text: str) -> frozenset[str]:
    """Read ``-device ?`` and ``-device TYPE,?``: types a user may add, their aliases, and properties."""
    facts: set[str] = set()
    for line in text.splitlines():
        if line.startswith("name ") and "no-user" not in line:
            facts.update(re.findall(r'(?:name|alias) "([^"]+)"', line))
        elif found := re.match(r"\s*([\w-]+\.[\w-]+)=", line):
            facts.add(found[1])
    return frozenset(facts)


def parse_machines(text: str) -> tuple[Machine, ...]:
    """Read ``-M ?``."""
    machines: list[Machine] = []
    aliases: dict[str, str] = {}
    for line in text.splitlines():
        found = re.match(r"([\w.-]+)\s+(\S.*)$", line)
        if found is None or line.startswith("Supported machines"):
            continue
        target = re.search(r"\(alias of ([\w.-]+)\)", line)
        if target is not None:
            aliases[target[1]] = found[1]
            continue
        machines.append(
            Machine(found[1], is_default="(default)" in line, cpu_max=255, numa_mem_supported=True)
        )
    return tuple(
        Machine(m.name, aliases.get(m.name), m.is_default, m.cpu_max, numa_mem_supported=True)
        for m in machines
    )


def help_caps(emulator: str, help: str, devices: str = "", machines: str = "") -> DialectCaps:
    """Return the capabilities that an emulator's texts speak of. Raises ValueError."""
    said = parse_help(help)
    known = parse_devices(devices)
    facts = set(said.facts | known)
    facts |= {fact for fact in _BY_DEVICE if _BY_DEVICE[fact] in known}
    return dialect_caps(
        facts,
        emulator=emulator,
        version=said.version,
        target=_target(emulator, help),
        machines=parse_machines(machines),
        kvm=said.kvm is not None or "-enable-kvm" in facts,
    )


#: facts that the properties of one device tell of all
_BY_DEVICE = {
    "@multifunction": "virtio-net-pci.multifunction",
    "@rom": "virtio-net-pci.rombar",
    "@usb-ports": "usb-storage.port",
    "virtio-blk-pci.bootindex": "virtio-blk-pci.bootindex",
}


def _target(emulator: str, help: str) -> str:
    """Return QEMU's name of the architecture: from the emulator's name, as none of the texts says it."""
    name = emulator.rpartition("/")[2]
    usage = re.search(r"usage: (\S+)", help)
    for text in (name, usage[1] if usage else ""):
        found = re.search(r"qemu-system-(\w+)", text)
        if found is not None:
            return found[1]
    return "x86_64" if "kvm" in name else "i386"
