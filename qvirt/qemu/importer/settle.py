"""The proof: what the document becomes is built once more and compared with what was asked for.

A property of a device that comes out otherwise becomes a ``<qemu:override>``, one of the machine or the CPU
is said again where the last word counts. A document that is refused says so here, before anybody sees it.
"""

import json
import re
from typing import TYPE_CHECKING

from qvirt.model.devices.device import Device as DeviceNode
from qvirt.model.devices.hostdev import UsbHostAddress
from qvirt.model.domain import parse_domain
from qvirt.model.qemu_namespace import QemuFrontend, QemuOverride, QemuOverrideDevice, QemuProperty
from qvirt.qemu.build import build
from qvirt.qemu.complete import complete
from qvirt.qemu.importer.account import Outcome
from qvirt.qemu.importer.parts import ON_OFF_AUTO, Part, Props, switch
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import CommandLine, Device, KeyValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from qvirt.model.domain import Domain
    from qvirt.qemu.context import BuildContext
    from qvirt.qemu.importer.line import Line

#: properties that say where a device is or what is behind it, not what it is
_PLACE = frozenset(
    [
        "driver",
        "id",
        "bus",
        "addr",
        "unit",
        "drive",
        "netdev",
        "chardev",
        "rng",
        "fsdev",
        "memdev",
        "iothread",
        "tpmdev",
        "audiodev",
        "masterbus",
        "index",
        "mac",
        "port",
        "nr",
        "scsi-id",
        "channel",
        "lun",
        "cad",
        "bootindex",
        "evdev",
        "multifunction",
        "romfile",
        "rombar",
        "name",
        "guest-cid",
        "host",
        "sysfsdev",
        "vendorid",
        "productid",
        "hostbus",
        "hostaddr",
        "slot",
        "node",
    ]
)
#: properties libvirt states that QEMU's own default is not; without an original they are taken out again
_TAKEN_OUT = frozenset({"max_outputs", "vram64_size_mb"})
#: properties that are on, off or auto, which JSON has as words
_WORDS = ON_OFF_AUTO
_SIZE = re.compile(r"(?i)^([0-9]+)([kmgt])b?$")


def prove(line: "Line", context: "Callable[[Domain], BuildContext]") -> None:
    """Read and build the document, and write what came out otherwise into it.

    Raises what reading, completing and building it raise.
    """
    twin = parse_domain(line.domain.to_xml(), validate=True)
    ctx = context(twin)
    originals = dict(zip(_listed(line.domain), _listed(twin), strict=True))
    complete(twin, ctx)
    for dev in twin.devices.hostdevs:
        if dev.is_subsystem("usb") and dev.source is not None and dev.source.address is None:
            dev.source.address = UsbHostAddress(bus=1, device=1)  # a start looks it up
    assign_aliases(twin, ctx)
    command = build(twin, ctx)
    made: dict[int, Device] = {}
    for record in command.switches:
        if isinstance(record, Device) and record.origin is not None:
            made.setdefault(id(record.origin), record)
    changes: list[QemuOverrideDevice] = []
    for place, (part, node) in enumerate(line.nodes):
        device = made.get(id(originals[_Key(node)].node))
        found = _differences(part, device.props if device is not None else None)
        known = line.caps.properties.get(part.driver)
        for key in [key for key in found if known is not None and key not in known]:
            line.note(f"this emulator's {part.driver} has no {key}={_shown(found.pop(key))}", part.given)
        found |= line.overrides.get(place, {})
        if found:
            changes.append(_override(line, part, node, found))
    if changes:
        line.domain.qemu_override = QemuOverride(devices=changes)
    _machine(line, command)
    _cpu(line, command)


class _Key:
    """A node by identity."""

    __slots__ = ("node",)

    def __init__(self, node: DeviceNode) -> None:
        self.node = node

    def __hash__(self) -> int:
        return id(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.node is self.node


def _listed(domain: "Domain") -> list[_Key]:
    return [_Key(node) for node in domain.devices.all()]


def _differences(part: Part, made: "Props | None | object") -> Props:
    """Return the properties that must be said beside the document; None takes one out."""
    if not isinstance(made, dict):
        return {}
    found: Props = {}
    said = {key.replace("_", "-"): key for key in made}
    for key, value in part.props.items():
        if key in _PLACE or value is None:
            continue
        ours = said.get(key.replace("_", "-"))
        if ours is None or not same(value, made[ours]):
            found[ours or key] = value
    asked = {key.replace("_", "-") for key in part.props}
    for key in _TAKEN_OUT:
        if made.get(key) is not None and key.replace("_", "-") not in asked:
            found[key] = None
    return found


def same(one: JsonValue, two: JsonValue) -> bool:
    """Tell whether two spellings of a value mean the same."""
    if one == two:
        return True
    return _plain(one) == _plain(two)


def _plain(value: JsonValue) -> JsonValue:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        state = switch(value)
        if state is not None and value in ("on", "off", "yes", "no", "true", "false"):
            return "on" if state else "off"
        try:
            return str(int(value, 0))
        except ValueError:
            pass
        scaled = _SIZE.match(value)
        if scaled is not None:
            return str(int(scaled[1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[scaled[2].lower()])
    return value


def _override(line: "Line", part: Part, node: DeviceNode, found: Props) -> QemuOverrideDevice:
    """Return the override of one device, which gets an alias that stays."""
    if node.alias.name is None:
        node.alias.name = _free_alias(line, part, node)
    line.account.add(
        part.given,
        Outcome.OVERRIDE,
        f"{node.alias.name}: "
        + ", ".join(f"{key}={'(none)' if value is None else _shown(value)}" for key, value in found.items()),
    )
    return QemuOverrideDevice(
        alias=node.alias.name,
        frontend=QemuFrontend(properties=[_property(key, value) for key, value in found.items()]),
    )


def _shown(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _free_alias(line: "Line", part: Part, node: DeviceNode) -> str:
    taken = {dev.alias.name for dev in line.domain.devices.all()}
    base = f"ua-{re.sub('[^A-Za-z0-9_-]', '-', part.id or part.driver)}"
    name, number = base, 1
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


_SWITCHES = ("on", "off", "yes", "no", "true", "false")


def _property(key: str, value: JsonValue) -> QemuProperty:
    if value is None:
        return QemuProperty(name=key, type="remove")
    state = switch(value)
    if state is not None and key in _WORDS:
        return QemuProperty(name=key, type="string", value="on" if state else "off")
    if isinstance(value, bool) or value in _SWITCHES:
        return QemuProperty(name=key, type="bool", value="true" if state else "false")
    if isinstance(value, int):
        return QemuProperty(name=key, type="unsigned" if value >= 0 else "signed", value=str(value))
    if isinstance(value, str):
        number = _plain(value)
        if isinstance(number, str) and re.fullmatch(r"-?[0-9]+", number) and not value.startswith("0x0"):
            return QemuProperty(
                name=key, type="signed" if number.startswith("-") else "unsigned", value=number
            )
        return QemuProperty(name=key, type="string", value=value)
    return QemuProperty(name=key, type="string", value=json.dumps(value))


_MACHINE_OWN = frozenset({"type", "accel", "kernel-irqchip", "usb", "secure-flash"})


#: properties that a board gets as it is made, which no list of its type's has
_OF_BOARDS = frozenset(
    {"cxl", "cxl-fmw", "hmat", "nvdimm", "nvdimm-persistence", "pcspk-audiodev", "pflash0", "pflash1"}
)


def _is_known(line: "Line", key: str) -> bool:
    """Tell whether the machine has a property, as far as is known."""
    name = key.partition(".")[0]
    if not line.family or line.family == "microvm" or key in _MACHINE_OWN or name in _OF_BOARDS:
        return True
    known = line.caps.machine_properties(line.machine_type)
    return not known or name in known


def _machine(line: "Line", command: CommandLine) -> None:
    """Say again what the machine is told otherwise than the command line had it."""
    made: Props = {}
    for record in command.switches:
        if isinstance(record, KeyValue) and record.name == "machine":
            made |= {key.replace("_", "-"): value for key, value in record.props.items()}
    said_acpi = "acpi" in line.machine
    has_hpet = any(getattr(record, "name", "") == "no-hpet" for record in command.switches)
    for key, value in list(line.machine.items()):
        if key not in line.machine:
            continue  # said with another
        if not _is_known(line, key):
            line.note(f"this emulator's {line.machine_type} has no {key}={value}", line.given("machine"))
            del line.machine[key]
            continue
        if key in _MACHINE_OWN or same(value, made.get(key)) or (key == "hpet" and has_hpet):
            continue
        name = key.partition(".")[0]
        line.keep_machine([other for other in line.machine if other.partition(".")[0] == name], "no XML")
    irqchip = line.machine.get("kernel-irqchip")
    if irqchip is not None and not same(irqchip, made.get("kernel-irqchip")):
        line.keep_machine(["kernel-irqchip"], "no XML")
    wants_acpi = line.machine_switch("acpi") is not False and not line.given("no-acpi")
    is_off = switch(made.get("acpi")) is False or any(
        getattr(x, "name", "") == "no-acpi" for x in command.switches
    )
    if is_off and wants_acpi and not said_acpi:
        line.account.add(
            (), Outcome.COMMANDLINE, "-machine acpi=auto (XML has ACPI on this machine with UEFI only)"
        )
        line.extra.append(((), ["-machine", "acpi=auto"]))
    line.to_xml(line.given("machine"), "the machine")


def _cpu(line: "Line", command: CommandLine) -> None:
    """Say the CPU again where the document makes another of it."""
    argument = line.last("cpu")
    if argument is None or any(words[0] == "-cpu" for _, words in line.extra):
        return
    if line.domain.cpu is None or line.domain.cpu.mode is None:
        made = next((r for r in command.switches if isinstance(r, KeyValue) and r.name == "cpu"), None)
        if made is None:
            line.pass_on(line.given("cpu"), ["-cpu", argument.value or ""], "no XML")
