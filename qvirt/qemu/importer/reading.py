"""From a command line to a domain: only the order lives here.

Nothing of this machine is touched: what the emulator can, whether a file is there and what format it has are
told by the caller.
"""

import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from qvirt.errors import QvirtError
from qvirt.model.devices import Devices
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Boot, Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.video import Video, VideoModel
from qvirt.model.domain import Domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.context import BuildContext
from qvirt.qemu.importer.account import Account, Outcome
from qvirt.qemu.importer.boarded import read_board
from qvirt.qemu.importer.buses import Buses, is_pci
from qvirt.qemu.importer.config import ReadConfig, expand
from qvirt.qemu.importer.controllers import q35_usb
from qvirt.qemu.importer.devices import READERS
from qvirt.qemu.importer.firmware import read_firmware
from qvirt.qemu.importer.graphics import finish_displays, read_displays
from qvirt.qemu.importer.legacy import read_objects, read_parts
from qvirt.qemu.importer.line import VARIABLES, Kind, Line, Probe
from qvirt.qemu.importer.machine import NO_UUID, read_machine
from qvirt.qemu.importer.managed import settle_rest
from qvirt.qemu.importer.old_drives import boards_own
from qvirt.qemu.importer.options import Argument, read_arguments
from qvirt.qemu.importer.parts import Part, Unfit, integer
from qvirt.qemu.importer.reader import Reading
from qvirt.qemu.importer.settle import prove
from qvirt.qemu.importer.text import emulator_first
from qvirt.record import Record
from qvirt.xml.codecs import uuid as UUID
from qvirt.xml.fields import Children

#: variables that are read
_READ = frozenset({"DISPLAY", "XAUTHORITY", "TZ", "CEPH_ARGS"})
#: parts that a document may owe its refusal to
_MOST_EXCLUDED = 16


class Imported(Record):
    """The outcome: a document that can be defined, and the account of every argument.

    devices: every device of the command line in QEMU's order, and its element; None for one without XML.
    """

    domain: Domain
    account: Account
    devices: list[tuple[Part, Device | None]]


class Surroundings(Record):
    """What the caller knows of this machine.

    caps: the emulator's. context: the context in which a document is completed and built. probe: the format
    of an image, None where it cannot be looked at. kind: what a path is: "block", "file" for anything else,
    "missing", "" where nobody knows. kvm: the
    program's name asks for KVM. offers_kvm: guests may use it here, where the emulator can. read: the text
    of a configuration file, None where it cannot be read.
    """

    caps: EmulatorCaps
    context: Callable[[Domain], BuildContext]
    probe: Probe = lambda path: None
    kind: Kind = lambda path: ""
    kvm: bool = False
    offers_kvm: bool = True
    read: ReadConfig = lambda path: None


def import_command_line(argv: Sequence[str], env: Mapping[str, str], around: Surroundings) -> Imported:
    """Return the domain that a QEMU's command line and environment describe.

    The document names the emulator of ``around.caps``; what has no XML stands in its ``<qemu:…>`` elements.
    Raises InvalidArg for a command line that cannot be read, and the error of the document's completion where
    even the plainest one is refused.
    """
    env, words = emulator_first(env, argv)
    arguments = expand(read_arguments(words[1:]), around.read)
    excluded: dict[str, str] = {}
    reason = ""
    for _ in range(_MOST_EXCLUDED):
        line = _read(arguments, env, around, excluded)
        try:
            prove(line, around.context)
        except (QvirtError, ValueError) as error:
            reason = str(error)
            culprit = _culprit(line, arguments, env, around, excluded)
            if culprit is None:
                break
            excluded = {**excluded, culprit: reason}
            continue
        return _finish(line)
    return _plainest(arguments, env, around, reason)


def _plainest(
    arguments: list[Argument], env: Mapping[str, str], around: Surroundings, reason: str
) -> Imported:
    """Hand all devices over, since no document with them in XML is taken."""
    line = _read(arguments, env, around, {}, as_board=reason)
    try:
        prove(line, around.context)
    except (QvirtError, ValueError):
        if not line.domain.devices.graphics:
            raise
        # a display may bring devices with it that the machine cannot have twice
        line = _read(arguments, env, around, {}, as_board=reason, keeps_displays=True)
        prove(line, around.context)
    return _finish(line)


def _culprit(
    line: Line,
    arguments: list[Argument],
    env: Mapping[str, str],
    around: Surroundings,
    excluded: Mapping[str, str],
) -> str | None:
    """Return the first part with which the document is refused, sought by halves; None if it is without."""
    keys = [part.key for part, _ in line.nodes]

    def is_taken(count: int) -> bool:
        trial = _read(arguments, env, around, {**excluded, **dict.fromkeys(keys[count:], "")})
        try:
            prove(trial, around.context)
        except (QvirtError, ValueError):
            return False
        return True

    if not is_taken(0):
        return None
    taken, refused = 0, len(keys)
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if is_taken(middle):
            taken = middle
        else:
            refused = middle
    return keys[refused - 1]


def _read(
    arguments: list[Argument],
    env: Mapping[str, str],
    around: Surroundings,
    excluded: Mapping[str, str],
    as_board: str | None = None,
    keeps_displays: bool = False,
) -> Line:
    """Read everything once; as_board: why no device is to be XML; keeps_displays: nor is a display."""
    line = Line(
        caps=around.caps,
        arguments=arguments,
        env=env,
        probe=around.probe,
        kind=around.kind,
        account=Account(arguments=arguments),
        kvm=around.kvm,
        offers_kvm=around.offers_kvm,
        excluded=excluded,
    )
    line.defaults = not line.given("nodefaults")
    line.to_xml(line.given("nodefaults"), "nothing is added by default")
    line.domain.devices.emulator = around.caps.emulator
    settings = around.context(line.domain)
    line.hugepages = bool(settings.host.hugepage_mounts)
    line.has_gpu = bool(settings.host.render_nodes)
    line.in_session = bool(settings.host.uid)
    line.spice_tls = settings.settings.spice_tls
    read_objects(line)
    read_machine(line)
    read_displays(line, f"XML is refused with: {as_board}" if keeps_displays else "")
    if line.family and as_board is None:
        read_parts(line)
        _number_boots(line)
        _devices(line)
        read_firmware(line)
        _left_over(line)
    elif as_board is not None:
        read_board(line, f"XML is refused with: {as_board}")
    else:
        read_board(line)
    finish_displays(line)
    settle_rest(line)
    _unsaid(line)
    return line


_LISTS = {field.target: field.name for field in Devices.fields if isinstance(field, Children)}


def _devices(line: Line) -> None:
    """Read the devices in the order QEMU makes them."""
    _genid(line)
    buses = Buses(line.family)
    waiting = [*line.parts.of("device"), *line.late]
    for part in line.late:
        line.parts.add(part)
    while waiting:
        part = waiting.pop(0)
        if part.settled:
            continue
        if part.driver == "q35-usb":
            for made in reversed(q35_usb(buses)):
                made.given = part.given
                waiting.insert(0, made)
            part.settled = "xml"
            continue
        if part.driver.startswith("hda-") and _has_card_below(part, waiting):
            waiting.append(part)  # its card is further down
            continue
        _device(line, buses, part)


def _genid(line: Line) -> None:
    """Read the device that is an element of the domain; one that QEMU makes up anew is not."""
    for part in line.parts.of("device"):
        guid = part.text("guid") or ""
        if part.driver != "vmgenid" or not line.caps.has_device("vmgenid") or line.domain.genid is not None:
            continue
        if set(part.props) <= {"driver", "guid", "id"} and guid != "auto":
            with suppress(ValueError):  # QEMU says what is wrong with it
                line.domain.genid = UUID.parse(guid)
                part.settled = "xml"
                line.to_xml(part.given, "<genid>")


def _has_card_below(part: Part, waiting: list[Part]) -> bool:
    return any(other.driver in ("intel-hda", "ich9-intel-hda") for other in waiting)


def _device(line: Line, buses: Buses, part: Part) -> None:
    reader = READERS.get(part.driver)
    reading = Reading(line, buses, part)
    try:
        if reader is None:
            raise Unfit(f"'{part.driver}' has no XML")
        if part.key in line.excluded:
            raise Unfit(f"as XML it is refused: {line.excluded[part.key]}")
        node = reader(reading)
    except (Unfit, QvirtError, ValueError) as problem:
        if is_pci(part.driver) and not part.json:
            try:
                buses.occupy(part)
            except Unfit:
                line.note(f"the address of {part.driver} cannot be read", part.given)
        if line.family == "s390" and part.driver.endswith("-ccw") and not part.json:
            part.props.setdefault("devno", f"fe.0.{buses.place_ccw(part).devno:04x}")
        _pass_device(line, part, str(problem))
        return
    name = _LISTS[type(node)]
    getattr(line.domain.devices, name).append(node)
    line.nodes.append((part, node))
    if reading.forced:
        line.overrides[len(line.nodes) - 1] = reading.forced
    part.settled = "xml"
    text = f"<{node.tag}>"
    line.account.add(
        part.given, Outcome.XML, text if part.given else f"{text} {part.driver}, which QEMU adds by itself"
    )
    if part.id is not None:
        line.aliases[part.id] = f"ua-{re.sub('[^A-Za-z0-9_-]', '-', part.id)}"
    for used in reading.used:
        used.settled = "xml"
        line.to_xml(used.given, text)


def _pass_device(line: Line, part: Part, reason: str) -> None:
    """Hand a device over under the name QEMU has for it."""
    drive = line.parts.find("drive", part.props.get("drive"))
    own = boards_own(drive, part) if drive is not None and not drive.settled else None
    if drive is not None and own is not None:
        part.settled = drive.settled = "commandline"
        line.pass_on(part.given, own, reason)
        return
    if part.driver != "serial-port":
        line.pass_part(part, reason)
        return
    chardev = line.parts.find("chardev", part.props.get("chardev"))
    part.settled = "commandline"
    if chardev is None:
        return
    if chardev.given == part.given and len(part.given) == 1:  # -serial had a word for both
        chardev.settled = "commandline"
        line.pass_on(part.given, ["-serial", (part.given[0].value or "").removeprefix("mon:")], reason)
        return
    line.pass_part(chardev, "for the port")
    line.pass_on(part.given, ["-serial", f"chardev:{line.name_of(chardev)}"], reason)


def _left_over(line: Line) -> None:
    """Hand over the parts nothing in XML took; drop those that nothing uses."""
    for kind, listed in line.parts.listed.items():
        for part in listed:
            if part.settled:
                continue
            if kind == "mon" or kind == "audiodev":
                continue
            if kind == "chardev" and _is_monitors(line, part):
                line.drop(part.given, "a monitor's line; the daemon has its own")
                part.settled = "dropped"
            elif kind == "object" and part.text("qom-type") == "throttle-group":
                line.drop(part.given, "no disk is limited by it")
                part.settled = "dropped"
            else:
                line.pass_part(part, "no device in XML uses it")


def _is_monitors(line: Line, part: Part) -> bool:
    named = any(other.props.get("chardev") == part.id for other in line.parts.of("mon"))
    return named and not any(other.props.get("chardev") == part.id for other in line.parts.of("device"))


def _unsaid(line: Line) -> None:
    """Say no to what libvirt would add by itself."""
    domain = line.domain
    devices = domain.devices
    if domain.uuid is None:
        line.extra.append(((), ["-uuid", NO_UUID]))
        line.account.add(
            (), Outcome.COMMANDLINE, f"-uuid {NO_UUID}: the guest sees none, as before; the domain gets one"
        )
    if not devices.memballoons:
        devices.memballoons.append(Memballoon(model="none"))
    if devices.graphics and not devices.videos:
        devices.videos.append(Video(model=VideoModel(type="none")))
    if not any(dev.type is ControllerType.USB for dev in devices.controllers) and line.arch != "s390x":
        devices.controllers.append(Controller(type=ControllerType.USB, index=0, model="none"))
    if domain.max_memory is not None and (domain.cpu is None or domain.cpu.numa is None):
        domain.max_memory = None
        given = line.given("m")
        line.pass_on(given, ["-m", given[-1].value or ""], "XML has memory slots beside NUMA nodes only")
    _boot_orders(line)
    for name in sorted(line.wanted):
        for part, node in line.nodes:
            if part.id == name and node.alias.name is None:
                node.alias.name = line.aliases[name]


def _number_boots(line: Line) -> None:
    """Number what boots from 1, as XML does, also what will be handed on: the order is one for both."""
    ordered = [
        part for part in (*line.parts.of("device"), *line.late) if part.props.get("bootindex") is not None
    ]
    ordered.sort(key=lambda part: integer(part.props["bootindex"], "bootindex"))
    number = 0
    for part in ordered:
        if integer(part.props["bootindex"], "bootindex") < 0:
            del part.props["bootindex"]  # which is to say that it does not boot
            continue
        number += 1
        part.props["bootindex"] = number if part.json else str(number)


def _boot_orders(line: Line) -> None:
    """Have one way to say what boots: XML knows no boot orders beside ``<os><boot>``."""
    orders = [node for _, node in line.nodes if node.boot is not None]
    handed = [
        part
        for part in line.parts.of("device")
        if part.settled == "commandline" and "bootindex" in part.props
    ]
    disk = next((node for _, node in line.nodes if isinstance(node, Disk)), None)
    if not orders and handed and disk is not None:
        disk.boot = Boot(order=len(handed) + 1)  # else it would be the first, as in any document
        orders.append(disk)
    if orders and line.domain.os.boots:
        line.note("bootindex decides what boots; -boot's order is not needed", line.given("boot"))
        line.domain.os.boots = []


def _finish(line: Line) -> Imported:
    """Write the words that are handed on, and what is known of the rest."""
    for name, value in line.env.items():
        if not name.startswith(VARIABLES) and name not in _READ:
            line.note(
                f"{name}={value} in the environment: the daemon's guests have an environment of their own"
            )
    _forwards(line)
    if line.nographic and not line.domain.devices.graphics:
        line.account.note(
            "the screen and the terminal are gone; virsh console shows a serial port of type pty"
        )
    line.write_commandline()
    nodes = {id(part): node for part, node in line.nodes}
    made = [part for part in line.parts.of("device") if part.driver != "q35-usb"]
    made += [part for part, _ in line.nodes if all(part is not known for known in made)]
    return Imported(line.domain, line.account, [(part, nodes.get(id(part))) for part in made])


#: the host's port of a forward: hostfwd=tcp:ADDRESS:PORT-, or -redir tcp:PORT:
_FORWARD = re.compile(r"hostfwd=(?:tcp|udp)?:[^:,]*:([0-9]+)-|^(?:tcp|udp):([0-9]+):")
_FIRST_OF_ALL = 1024


def _forwards(line: Line) -> None:
    """Say of which ports of the host only root may make use."""
    for argument in line.given("net", "nic", "netdev", "redir"):
        for first, second in _FORWARD.findall(argument.value or ""):
            if int(first or second) < _FIRST_OF_ALL:
                line.note(
                    f"port {first or second} of the host: QEMU may not listen there; take one from "
                    f"{_FIRST_OF_ALL} on, or let net.ipv4.ip_unprivileged_port_start begin lower",
                    [argument],
                )


def emulator_target(path: str) -> tuple[str, bool]:
    """Return the QEMU target a program's name stands for, and whether it asks for KVM."""
    name = os.path.basename(path)
    if name.endswith(".exe"):
        name = name.removesuffix(".exe").removesuffix("w")  # on Windows one without a console has a w
    if name in ("kvm", "qemu-kvm", "kvm-spice"):
        return "x86_64", True
    if name == "qemu":
        return "i386", False
    target = name.removeprefix("qemu-system-")
    if target == name:
        return "x86_64", False
    return {"i486": "i386", "i586": "i386", "i686": "i386", "arm64": "aarch64"}.get(target, target), False
