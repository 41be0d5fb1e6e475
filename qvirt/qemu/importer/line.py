"""One command line while it is being read: what is known, what is made, what became of each argument."""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.model.os import Os, OsType
from qvirt.model.qemu_namespace import QemuArg, QemuCommandline, QemuEnv
from qvirt.qemu.boards import Board, board
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.importer.account import Account, Outcome
from qvirt.qemu.importer.gone import is_gone
from qvirt.qemu.importer.options import OPTS, Argument, collect, split_opts, to_props
from qvirt.qemu.importer.parts import Part, Parts, Props, switch, typed, without
from qvirt.qemu.keyval import JsonValue, format_keyval, format_pairs
from qvirt.record import Record, field

#: tells the format of an image, or None where the file is not there
Probe = Callable[[str], str | None]
#: tells what a path is: "block", "file" for anything else, "missing", "" where nobody knows
Kind = Callable[[str], str]


class Line(Record, frozen=False):
    """The state of one import.

    family: what is known of the machine: "pc", "q35", "virt", "s390", "microvm" have theirs in XML; "" is
    a board whose devices are only its own to name. defaults: ``-nodefaults`` was not given. nodes: which
    part became which device. late: the disks QEMU adds after all other devices. excluded: parts, by
    `key`, that must not become XML, and what a document with them is refused with. hugepages: they are
    mounted here. spice_tls: it is set up. has_gpu: there is a render node. in_session: guests run as the
    user whose session it is. overrides: properties a device must have, by its place in nodes. aliases:
    the names devices of the XML may be called by; wanted: those that are.
    """

    caps: EmulatorCaps
    arguments: list[Argument]
    env: Mapping[str, str]
    probe: Probe
    kind: Kind
    account: Account
    domain: Domain = field(default_factory=lambda: Domain(os=Os(type=OsType(value="hvm"))))
    parts: Parts = field(default_factory=Parts)
    machine: Props = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    family: str = ""
    kvm: bool = False
    offers_kvm: bool = True
    defaults: bool = True
    extra: list[tuple[tuple[Argument, ...], list[str]]] = field(default_factory=list)
    nodes: list[tuple[Part, Device]] = field(default_factory=list)
    late: list[Part] = field(default_factory=list)
    excluded: Mapping[str, str] = field(default_factory=dict)
    hugepages: bool = True
    spice_tls: bool = False
    has_gpu: bool = False
    in_session: bool = False
    overrides: dict[int, Props] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)

    # ------------------------------------------------------------ arguments

    def given(self, *names: str) -> list[Argument]:
        """Return the arguments of some switches, in their order."""
        return [argument for argument in self.arguments if argument.name in names]

    def last(self, *names: str) -> Argument | None:
        """Return the one that counts of arguments that replace each other."""
        found = self.given(*names)
        return found[-1] if found else None

    def merged(self, name: str, implied: str | None) -> tuple[dict[str, str], list[Argument]]:
        """Return the properties of a switch that may be given in pieces, the later ones winning."""
        props: dict[str, str] = {}
        found = self.given(name)
        for argument in found:
            props.update(split_opts(argument.value or "", implied))
        return props, found

    # ------------------------------------------------------------ outcomes

    def to_xml(self, given: Iterable[Argument], text: str) -> None:
        """Say that arguments became XML; without any, there is nothing to say."""
        listed = list(given)
        if listed:
            self.account.add(listed, Outcome.XML, text)

    def drop(self, given: Iterable[Argument], reason: str) -> None:
        """Say that arguments have no meaning under management; without any, there is nothing to say."""
        listed = list(given)
        if listed:
            self.account.add(listed, Outcome.DROPPED, reason)

    def note(self, text: str, given: Iterable[Argument] = ()) -> None:
        """Say something the user should know."""
        self.account.note(text, given)

    def pass_on(self, given: Iterable[Argument], words: list[str], reason: str) -> None:
        """Hand words to QEMU as they are."""
        listed = tuple(given)
        self.extra.append((listed, words))
        self.account.add(listed, Outcome.COMMANDLINE, f"{' '.join(words)} ({reason})")

    def pass_part(self, part: Part, reason: str) -> None:
        """Hand a part to QEMU under a name that cannot be one of ours, with what it refers to."""
        if part.settled:
            return
        if part.kind == "device" and is_gone(self.caps, part.driver):
            part.settled = "dropped"
            self.drop(part.given, f"this emulator has no device '{part.driver}'")
            return
        part.settled = "commandline"
        if part.kind == "device":
            self._drop_unknown(part)
        for named in self._referred(part.props):
            if not named.settled and named.kind != "device":
                self.pass_part(named, f"for {part.id or part.driver or part.kind}")
        props = {key: self._renamed(part.kind, key, value) for key, value in part.props.items()}
        if part.kind == "drive" and part.props.get("if") not in _ONBOARD:
            props = {"if": "none", **without(props, ("if", "index", "bus", "unit", "media", "boot"))}
            if part.props.get("media") == "cdrom":
                props["read-only"] = "on"
            elif is_folder_to_read(part):
                props["snapshot"] = "on"  # QEMU before 2.10 took what the guest wrote, and refused it later
        is_json = part.json
        if part.kind == "device" and not is_json and self._comes_late(part):
            props, is_json = {key: typed(key, value) for key, value in props.items()}, True
            part.json = True  # so is what sits on it
        self.pass_on(part.given, words_of(Part(part.kind, props, part.given, is_json)), reason)

    def _drop_unknown(self, part: Part) -> None:
        """Leave out the properties that this emulator's device does not have."""
        known = self.caps.properties.get(part.driver)
        if known is None:
            return
        for key in list(part.props):
            if key not in known and key.replace("_", "-") not in known and key not in _OF_ANY_DEVICE:
                self.note(f"this emulator's {part.driver} has no {key}", part.given)
                del part.props[key]

    def _comes_late(self, part: Part) -> bool:
        """Tell whether a device sits on one of the XML's: QEMU makes those written as JSON last."""
        named = self.parts.named("bus", part.props.get("bus"))
        if named is not None:
            return named.settled == "xml" or named.json
        return part.driver.startswith(_BUSED)

    def _referred(self, props: JsonValue, key: str = "") -> Iterator[Part]:
        """Yield the parts that a part's properties name."""
        if isinstance(props, dict):
            for name, value in props.items():
                yield from self._referred(value, name)
        elif isinstance(props, list):
            for value in props:
                yield from self._referred(value, key)
        else:
            named = self.parts.named(key, props)
            if named is not None:
                yield named

    def _renamed(self, kind: str, key: str, value: JsonValue) -> JsonValue:
        """Return a property's value with every name in it as it is now."""
        if isinstance(value, dict):
            return {name: self._renamed(kind, name, item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._renamed(kind, key, item) for item in value]
        if not isinstance(value, str):
            return value
        if key in ("id", "node-name"):
            return new_id(value, kind)
        named = self.parts.named(key, value)
        if named is None or named.id is None:
            return value
        return value.replace(named.id, self.name_of(named), 1)

    def name_of(self, part: Part) -> str:
        """Return the name by which a part goes now."""
        if part.kind == "object" and part.id in self.threads:
            return f"iothread{self.threads[part.id]}"
        alias = self.aliases.get(part.id or "") if part.kind == "device" else None
        if alias is not None:
            self.wanted.add(part.id or "")
            return alias
        return new_id(part.id or "", part.kind)

    def keep_machine(self, keys: Iterable[str], reason: str) -> None:
        """Hand properties of the machine to QEMU as they are, in one switch."""
        said: list[tuple[str, JsonValue]] = []
        for key in keys:
            value = self.machine.pop(key, None)
            if value is None:
                continue
            named = self.parts.named(key, value)
            if named is not None:
                self.pass_part(named, f"for the machine's {key}")
                value = self.name_of(named)
            said.append((self.spelled.get(key, key), value))
        if said:
            self.pass_on(self.given("machine"), ["-machine", format_pairs(said, None)], reason)

    # ------------------------------------------------------------ the machine

    @property
    def arch(self) -> str:
        """libvirt's name of the architecture."""
        return self.domain.os.type.arch or self.caps.arch

    @property
    def is_riscv(self) -> bool:
        """Tell whether the machine is RISC-V's."""
        return self.arch in ("riscv64", "riscv32")

    @property
    def makes_nothing(self) -> bool:
        """Tell whether the machine makes no devices of ``-net`` and of drives that name no device."""
        return self.is_riscv or self.family == "microvm"

    @property
    def is_old_riscv(self) -> bool:
        """Tell whether RISC-V's machine lacks properties for its flash, and a ramfb."""
        return self.is_riscv and self.caps.version < _RISCV_IS_WHOLE

    @property
    def machine_type(self) -> str:
        """The machine's full name."""
        return self.domain.os.type.machine or ""

    @property
    def board(self) -> Board:
        """What the machine has by default."""
        return board(self.caps.target, self.machine_type)

    @property
    def nographic(self) -> bool:
        """Tell whether the serial port was to be on the terminal."""
        return bool(self.given("nographic"))

    def names_device(self, types: frozenset[str]) -> bool:
        """Tell whether a device of these types is on the command line, or made different by it."""
        for argument in self.given("device"):
            props, _ = to_props(argument)
            if str(props.get("driver")) in types:
                return True
        for argument in self.given("global"):
            value = argument.value or ""
            driver = dict(split_opts(value)).get("driver") if "driver=" in value else value.partition(".")[0]
            if driver in types:
                return True
        return False

    def virtio(self, name: str) -> str:
        """Return the device type of a kind of virtio on the machine's own bus."""
        return f"virtio-{name}-{'ccw' if self.family == 's390' else 'pci'}"

    def machine_switch(self, name: str) -> bool | None:
        """Return a property of the machine that is on or off."""
        return switch(self.machine.get(name))

    def write_commandline(self) -> None:
        """Put the words that are handed on, and the variables, into the document."""
        words = [word for _, listed in self.extra for word in listed]
        if not words and not self._variables():
            return
        self.domain.qemu_commandline = QemuCommandline(
            args=[QemuArg(value=word) for word in words],
            envs=[QemuEnv(name=name, value=value) for name, value in self._variables().items()],
        )

    def _variables(self) -> dict[str, str]:
        """Return the variables that QEMU or its libraries look at; the rest are a login's own."""
        return {
            name: value
            for name, value in self.env.items()
            if name.startswith(VARIABLES) and name not in _SAID_IN_XML
        }


#: the release in which RISC-V's board has fw_cfg with DMA, and names its flash as others do
_RISCV_IS_WHOLE = (8, 1, 0)
#: variables that became elements
_SAID_IN_XML = frozenset({"QEMU_AUDIO_DRV"})
#: beginnings of the variables that mean something to QEMU and its libraries
VARIABLES = (
    "QEMU_",
    "SDL_",
    "PULSE_",
    "SPICE_",
    "LIBISCSI_",
    "MALLOC_",
    "MESA_",
    "LIBGL_",
    "G_MESSAGES",
    "TSAN_",
)


_LONGEST_NAME = 31
#: names the daemon gives to devices, their backends, block nodes and objects
_OURS = re.compile(
    r"(?:host|char|obj|mem|drive-|fsdev-|tpm-|chr-vu-|libvirt-|ua-|import-|pr-helper|monitor|masterKey|ram-node)|"
    r"(?:net|fs|sound|hostdev|redir|video|input|parallel|serial|channel|console|hub|shmem|smartcard|watchdog|"
    r"balloon|rng|tpm|vsock|iommu|crypto|audio|iothread|vmgenid|lsec|dimm|nvdimm|virtiopmem|virtiomem|epc|usb|ide|"
    r"sata|scsi|fdc|ccid|virtio-serial|virtio-disk|usb-disk|pci|isa)[0-9]*(?:[-.][0-9.-]*)?(?:-codec[0-9]+)?$|nvram$|"
    r"mach-virt\.ram$|[a-z0-9_]+\.ram$"
)
#: the same for kinds of parts that have their names to themselves
_OURS_BY_KIND = {
    "netdev": re.compile(r"host|import-"),
    "chardev": re.compile(r"char|chr-vu-|import-"),
    "tpmdev": re.compile(r"tpm-|import-"),
}
#: drives that are the board's own
_ONBOARD = ("pflash", "mtd", "sd")
#: what any device may be told
_OF_ANY_DEVICE = frozenset({"driver", "id", "bus"})
#: beginnings of the types of devices that sit on another device's bus
_BUSED = ("virtserialport", "virtconsole", "usb-", "scsi-", "hda-", "ccid-", "u2f-", "nvme-ns")


def new_id(name: str, kind: str = "device") -> str:
    """Return the name that a part which is handed on goes by: none that the daemon would give its kind."""
    if not _OURS_BY_KIND.get(kind, _OURS).match(name):
        return name
    made = f"import-{name}"
    # a block node's name has no room for more
    return made if len(made) <= _LONGEST_NAME else f"import-{zlib.crc32(name.encode()):08x}"


def is_folder_to_read(drive: Part) -> bool:
    """Tell whether a drive is a folder that the guest may not write to, on a disk it may write to."""
    words = (drive.text("file") or "").split(":")
    return (
        words[0] == "fat"
        and "rw" not in words
        and not drive.flag("readonly")
        and "snapshot" not in drive.props
    )


def words_of(part: Part) -> list[str]:
    """Return the switch and value that make a part."""
    if part.json:
        return [f"-{part.kind}", json.dumps(part.props, separators=(",", ":"))]
    implied = OPTS.get(part.kind)
    pairs: list[tuple[str, JsonValue]] = []
    for key, value in part.props.items():
        if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
            pairs.extend((key, item) for item in value)
        else:
            pairs.append((key, value))
    if implied is not None and (not pairs or pairs[0][0] != implied):
        pairs.sort(key=lambda pair: pair[0] != implied)
    if any(isinstance(value, (dict, list)) for _, value in pairs):
        return [f"-{part.kind}", format_keyval(part.props, implied)]
    return [f"-{part.kind}", format_pairs(pairs, implied)]


__all__ = ["Argument", "Line", "collect", "words_of"]
