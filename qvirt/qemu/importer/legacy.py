"""Every spelling made one: what a command line says of devices, as parts a modern one would name.

``-hda``, ``-net nic``, ``-serial`` and their kin become the frontend and the backend they stand for, in the
order in which QEMU makes them, since that decides who gets which slot.
"""

import re

from qvirt.qemu.importer.gone import INSTEAD_OF_RAMFB
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument, collect, nest, split_opts, to_props
from qvirt.qemu.importer.parts import Part, Props, integer, switch, without
from qvirt.qemu.keyval import JsonValue

_PLAIN = ("netdev", "chardev", "object", "fsdev", "audiodev", "tpmdev", "mon")
_SHORT_DRIVES: dict[str, tuple[str, int]] = {
    "hda": ("", 0),
    "hdb": ("", 1),
    "hdc": ("", 2),
    "hdd": ("", 3),
    "fda": ("floppy", 0),
    "fdb": ("floppy", 1),
    "cdrom": ("", 2),
    "sd": ("sd", -1),
    "mtdblock": ("mtd", -1),
    "pflash": ("pflash", -1),
    "": ("", 0),
}
VGA = {
    "std": "VGA",
    "cirrus": "cirrus-vga",
    "vmware": "vmware-svga",
    "qxl": "qxl-vga",
    "virtio": "virtio-vga",
}
_SCREENS = frozenset(
    [
        "VGA",
        "isa-vga",
        "cirrus-vga",
        "isa-cirrus-vga",
        "vmware-svga",
        "qxl-vga",
        "virtio-vga",
        "virtio-vga-gl",
        "ati-vga",
        "vhost-user-vga",
    ]
)
_SOUND = {
    "sb16": "sb16",
    "es1370": "ES1370",
    "ac97": "AC97",
    "adlib": "adlib",
    "gus": "gus",
    "cs4231a": "cs4231a",
    "hda": "intel-hda",
}
_USB = {
    "tablet": "usb-tablet",
    "mouse": "usb-mouse",
    "keyboard": "usb-kbd",
    "wacom-tablet": "usb-wacom-tablet",
    "braille": "usb-braille",
    "ccid": "usb-ccid",
}
#: what ``-net nic,model=`` calls cards that have another name as a device
CARDS = {"virtio": "virtio-net-pci", "ne2k_isa": "ne2k_isa", "e1000-82540em": "e1000"}
#: names of devices that stand for the kind that fits the machine
_DEVICE_ALIASES = {
    "virtio-blk": "virtio-blk-", "virtio-net": "virtio-net-", "virtio-balloon": "virtio-balloon-",
    "virtio-serial": "virtio-serial-", "virtio-scsi": "virtio-scsi-", "virtio-rng": "virtio-rng-",
    "virtio-gpu": "virtio-gpu-", "virtio-gpu-gl": "virtio-gpu-gl-", "virtio-keyboard": "virtio-keyboard-",
    "virtio-mouse": "virtio-mouse-", "virtio-tablet": "virtio-tablet-",
    "virtio-input-host": "virtio-input-host-",
    "virtio-9p": "virtio-9p-", "vhost-user-fs": "vhost-user-fs-", "vhost-vsock": "vhost-vsock-",
    "virtio-crypto": "virtio-crypto-", "virtio-iommu": "virtio-iommu-",
}  # fmt: skip


#: where drives go whose bus is not said, where that is not IDE
_DEFAULT_BUS = {"virt": "virtio", "s390": "virtio"}
#: serial ports that keep QEMU from making one by itself
_SERIALS = frozenset({"isa-serial", "sclpconsole", "sclplmconsole"})


#: cards whose 3D a GPU of the host draws, and the properties that are about it
_DRAWING = frozenset({"virtio-gpu-gl-pci", "virtio-gpu-gl-device", "virtio-vga-gl"})
_NEEDS_GPU = ("blob", "venus", "hostmem")


def _virtio(line: Line, name: str) -> str:
    return f"virtio-{name}-{'ccw' if line.family == 's390' else 'pci'}"


def read_objects(line: Line) -> None:
    """Read what devices rest on, which has one spelling only."""
    for argument in line.given(*_PLAIN):
        props, json = to_props(argument)
        line.parts.add(Part(argument.name, props, (argument,), json))
    for argument in line.given("blockdev"):
        props, json = to_props(argument)
        line.parts.add(Part("blockdev", props if json else nest(props), (argument,), json))


def read_parts(line: Line) -> None:
    """Read devices, drives and backends of a machine whose devices XML can name."""
    _ports(line)
    onboard = _drives(line)
    screens, cards = _screens(line), _networks(line)
    first = [*onboard, *screens, *cards, *_sounds(line), *_usb_devices(line)]
    for part in first:
        line.parts.add(part)
    for argument in line.given("device"):
        props, json = to_props(argument)
        part = line.parts.add(Part("device", props, (argument,), json))
        _unalias(line, part)
        if part.driver in _DRAWING and not line.has_gpu:
            part.props = without(part.props, _NEEDS_GPU)
            part.props["driver"] = part.driver.replace("-gl", "")
            line.note("no GPU of this host can draw for the guest: its screen does without 3D", [argument])
        if part.driver == "ramfb" and line.is_old_riscv:
            part.props = {"driver": INSTEAD_OF_RAMFB}
            line.note("QEMU draws no ramfb on this machine; it gets another screen", [argument])
        if part.driver == "pci-assign":
            part.props["driver"] = "vfio-pci"
            line.note("the kernel's old device assignment is gone; VFIO is what came after it", [argument])
    for argument in line.given("pcidevice"):
        host = dict(split_opts(argument.value or "")).get("host")
        line.parts.add(Part("device", {"driver": "vfio-pci", "host": host}, (argument,)))
    for argument in line.given("virtfs"):
        _virtfs(line, argument)
    for argument in line.given("balloon"):
        if argument.value != "none":
            props = collect(split_opts(argument.value or "", "type"))
            props.pop("type", None)
            line.parts.add(Part("device", {"driver": _virtio(line, "balloon"), **props}, (argument,)))
        else:
            line.drop([argument], "no balloon is what there is without one")
    for argument in line.given("watchdog"):
        line.parts.add(Part("device", {"driver": argument.value}, (argument,)))
    for argument in line.given("virtioconsole"):
        chardev = legacy_chardev(line, argument, argument.value or "", "virtcon")
        if chardev is not None:
            line.parts.add(Part("device", {"driver": _virtio(line, "serial")}, (argument,)))
            line.parts.add(Part("device", {"driver": "virtconsole", "chardev": chardev.id}, (argument,)))


def _unalias(line: Line, part: Part) -> None:
    base = _DEVICE_ALIASES.get(part.driver)
    if base is not None:
        part.props["driver"] = base + ("ccw" if line.arch == "s390x" else "pci")


def _has_device(line: Line, names: frozenset[str]) -> bool:
    for argument in line.given("device"):
        props, _ = to_props(argument)
        if str(props.get("driver")) in names:
            return True
    for argument in line.given("global"):
        value = argument.value or ""
        driver = dict(split_opts(value)).get("driver") if "driver=" in value else value.partition(".")[0]
        if driver in names:
            return True
    return False


# ------------------------------------------------------------ drives


def _drives(line: Line) -> list[Part]:
    """Read the drives; return the devices the machine makes for them, those of virtio last of all."""
    taken: dict[str, set[tuple[int, int]]] = {}
    made: list[Part] = []
    late: list[Part] = []
    for argument in line.given("drive", *_SHORT_DRIVES):
        props = _drive_props(argument)
        _drive(line, props, (argument,), taken, made, late)
    has_ide = line.family == "pc" or (line.family == "q35" and line.machine_switch("sata") is not False)
    if line.defaults:
        if has_ide and not _has_device(line, frozenset({"ide-cd", "ide-hd", "scsi-cd", "scsi-hd"})):
            _default_drive(line, {"if": "ide", "index": "2", "media": "cdrom"}, taken, made, late)
        if line.family == "pc" and not _has_device(line, frozenset({"isa-fdc", "floppy"})):
            _default_drive(line, {"if": "floppy", "index": "0"}, taken, made, late)
    line.late = late
    return made


def _default_drive(
    line: Line, props: Props, taken: dict[str, set[tuple[int, int]]], made: list[Part], late: list[Part]
) -> None:
    where = _place(line, props, dict(taken))
    if where not in taken.get(str(props["if"]), set()):
        _drive(line, props, (), taken, made, late)


def _drive_props(argument: Argument) -> Props:
    if argument.name == "drive":
        return collect(split_opts(argument.value or ""))
    bus, index = _SHORT_DRIVES[argument.name]
    props: Props = {"file": argument.value or ""}
    if bus:
        props["if"] = bus
    if index >= 0:
        props["index"] = str(index)
    if argument.name == "cdrom":
        props["media"] = "cdrom"
    if argument.name in ("mtdblock", "pflash", "sd"):
        props["format"] = "raw"
    return props


def _units(line: Line, bus: str) -> int:
    if bus == "ide":
        return 1 if line.family == "q35" else 2
    return {"scsi": 7, "floppy": 2}.get(bus, 0)


def _place(line: Line, props: Props, taken: dict[str, set[tuple[int, int]]]) -> tuple[int, int]:
    """Return bus and unit of a drive, by QEMU's rules."""
    kind = str(props.get("if"))
    units = _units(line, kind)
    index = props.get("index")
    used = taken.setdefault(kind, set())
    if index is not None:
        number = integer(index, "index")
        return divmod(number, units) if units else (0, number)
    bus = integer(props.get("bus", "0"), "bus")
    if props.get("unit") is not None:
        return bus, integer(props["unit"], "unit")
    unit = 0
    while (bus, unit) in used:
        unit += 1
        if units and unit >= units:
            bus, unit = bus + 1, unit - units
    return bus, unit


def _drive(
    line: Line,
    props: Props,
    given: tuple[Argument, ...],
    taken: dict[str, set[tuple[int, int]]],
    made: list[Part],
    late: list[Part],
) -> None:
    kind = props.get("if")
    if kind is None:
        kind = props["if"] = "none" if line.makes_nothing else _DEFAULT_BUS.get(line.family, "ide")
    number = sum(len(places) for places in taken.values()) + len(line.parts.of("drive"))
    if kind == "none":
        props.setdefault("id", f"drive{number}")
        line.parts.add(Part("drive", props, given))
        return
    bus, unit = _place(line, props, taken)
    taken.setdefault(str(kind), set()).add((bus, unit))
    id = str(props.setdefault("id", f"{kind}{bus}-{unit}"))
    drive = line.parts.add(Part("drive", props, given))
    device = _drive_device(line, drive, str(kind), bus, unit, id)
    if device is None:
        return
    serial = props.pop("serial", None)
    if serial is not None:
        device["serial"] = serial
    for name in ("addr", "werror-dev"):
        if name in props and kind == "virtio":
            device[name] = props.pop(name)
    part = Part("device", device, given)
    if kind == "virtio":
        late.append(part)
    elif kind == "scsi" and not any(known.id == f"scsi{bus}" for known in made):
        made.append(Part("device", {"driver": "lsi53c895a", "id": f"scsi{bus}"}, given))
        made.append(part)
    else:
        made.append(part)


def _drive_device(line: Line, drive: Part, kind: str, bus: int, unit: int, id: str) -> Props | None:
    """Return the device for a drive, None where the machine has no device for it (flash)."""
    is_cd = drive.props.get("media") == "cdrom"
    match kind:
        case "ide" if line.family in ("virt", "s390"):
            return {"driver": _virtio(line, "blk"), "drive": id}
        case "ide":
            return {
                "driver": "ide-cd" if is_cd else "ide-hd",
                "bus": f"ide.{bus}",
                "unit": str(unit),
                "drive": id,
            }
        case "scsi":
            driver = "scsi-cd" if is_cd else "scsi-hd"
            return {"driver": driver, "bus": f"scsi{bus}.0", "scsi-id": str(unit), "drive": id}
        case "floppy":
            return {"driver": "floppy", "unit": str(unit), "drive": id}
        case "virtio":
            return {"driver": _virtio(line, "blk"), "drive": id}
        case "usb":
            return {"driver": "usb-storage", "drive": id}
        case "xen":
            return None
        case _:
            return None


# ------------------------------------------------------------ screens


def _screens(line: Line) -> list[Part]:
    given = line.given("vga", "std-vga", "cirrusvga", "vmwarevga")
    word: str | None = None
    for argument in given:
        word = {"std-vga": "std", "cirrusvga": "cirrus", "vmwarevga": "vmware"}.get(
            argument.name, argument.value
        )
    if word is None:
        if not line.defaults or line.family not in ("pc", "q35") or _has_device(line, _SCREENS):
            return []
        word = "cirrus" if _is_old_pc(line) else "std"
    word = word.partition(",")[0]
    if word == "none":
        line.to_xml(given, "no <video>")
        return []
    driver = VGA.get(word)
    if driver is None:
        line.pass_on(given, ["-vga", word], "no XML")
        return []
    if word == "virtio" and line.family == "virt":
        driver = "virtio-gpu-pci"
    return [Part("device", {"driver": driver}, tuple(given))]


def _is_old_pc(line: Line) -> bool:
    version = re.fullmatch(r"pc-(?:i440fx-|q35-)?([0-9]+)\.([0-9]+).*", line.machine_type)
    return version is not None and (int(version[1]), int(version[2])) < (2, 2)


# ------------------------------------------------------------ networks


def _networks(line: Line) -> list[Part]:
    """Read ``-net``, ``-nic``, ``-redir``; return the cards the machine makes."""
    cards: list[Part] = []
    hubs: dict[int, tuple[list[Part], list[Part]]] = {}
    given = line.given("net", "nic")
    if line.makes_nothing:
        for argument in given:
            line.pass_on([argument], list(argument.words), "this machine makes no card of it")
        return cards
    forwards = _redirections(line)
    counter = 0
    for argument in given:
        props = collect(split_opts(argument.value or "", "type"))
        type = props.get("type")
        if type == "none":
            line.to_xml([argument], "no <interface>")
            continue
        if not type:
            line.drop([argument], "it names no kind of network")
            continue
        if argument.name == "nic":
            counter += 1
            cards += _nic(line, argument, props, counter)
            continue
        hub = integer(props.pop("vlan", "0"), "vlan")
        members = hubs.setdefault(hub, ([], []))
        if type == "nic":
            members[0].append(Part("device", _card(line, props), (argument,)))
        else:
            name = props.pop("name", None)
            part = Part("netdev", {**props, "id": f"net{len(members[1])}.{hub}"}, (argument,))
            del name
            if type == "channel":
                line.drop([argument], "-net channel was a channel to the guest's network, gone since 0.12")
                continue
            members[1].append(part)
    defaulted = line.defaults and not given and not line.given("netdev")
    if defaulted and line.family:
        hubs[0] = (
            [Part("device", _card(line, {}), ())],
            [Part("netdev", {"type": "user", "id": "net0.0"}, ())],
        )
    for number, (nics, backends) in sorted(hubs.items()):
        cards += _plug(line, number, nics, backends, forwards)
        forwards = [] if backends else forwards
    for argument, _ in forwards:
        line.drop([argument], "there is no user network to forward from")
    return cards


def _redirections(line: Line) -> list[tuple[Argument, str]]:
    found: list[tuple[Argument, str]] = []
    for argument in line.given("redir"):
        protocol, _, rest = (argument.value or "").partition(":")
        host, _, guest = rest.partition(":")
        address, _, port = guest.rpartition(":")
        found.append((argument, f"{protocol}::{host}-{address}:{port}"))
    return found


def _plug(
    line: Line, number: int, nics: list[Part], backends: list[Part], forwards: list[tuple[Argument, str]]
) -> list[Part]:
    """Plug cards into backends: directly, or into a hub where there are several or QEMU keeps the network.

    QEMU has a hub in between always. A tap and a socket are the daemon's to make, and one card sees no hub.
    """
    user = next((part for part in backends if part.props["type"] == "user"), None)
    if user is not None and forwards:
        known = user.props.get("hostfwd")
        listed: list[JsonValue] = known if isinstance(known, list) else [known] if known else []
        user.props["hostfwd"] = [*listed, *(text for _, text in forwards)]
        user.given = (*user.given, *(argument for argument, _ in forwards))
    for part in backends:
        line.parts.add(part)
    if len(nics) == 1 and len(backends) == 1 and user is None:
        nics[0].props["netdev"] = backends[0].id
        return nics
    if not nics:
        for part in backends:
            part.settled = "dropped"
            line.drop(part.given, "no card is plugged into it")
        return []
    if not backends:
        for part in nics:
            line.note("the card is plugged into nothing", part.given)
        return nics
    for place, part in enumerate((*nics, *backends)):
        port: Props = {"type": "hubport", "id": f"hub{number}port{place}", "hubid": str(number)}
        if part.kind == "netdev":
            port["netdev"] = part.id
        else:
            part.props["netdev"] = port["id"]
        line.parts.add(Part("netdev", port, part.given))
    return nics


def _card(line: Line, props: Props) -> Props:
    """Return a card's properties from those of ``-net nic``."""
    default = {"q35": "e1000e", "virt": "virtio-net-pci", "s390": "virtio-net-ccw"}.get(line.family, "e1000")
    if line.family == "q35" and re.match(r"pc-q35-(?:2\.([0-9]|1[01])|1\.\d)(?:\.|$)", line.machine_type):
        default = "e1000"
    model = str(props.get("model", default))
    card: Props = {"driver": CARDS.get(model, model)}
    if model == "virtio" and line.arch == "s390x":
        card["driver"] = "virtio-net-ccw"
    for old, new in (
        ("macaddr", "mac"),
        ("mac", "mac"),
        ("addr", "addr"),
        ("vectors", "vectors"),
        ("netdev", "netdev"),
    ):
        if old in props:
            card[new] = props[old]
    if isinstance(props.get("id"), str):
        card["id"] = props["id"]
    return card


def _nic(line: Line, argument: Argument, props: Props, number: int) -> list[Part]:
    """Read ``-nic``: a backend and a card at once."""
    card = _card(line, {key: props.pop(key) for key in ("model", "mac", "macaddr", "addr") if key in props})
    if card["driver"].startswith("virtio-net"):  # type: ignore[union-attr]
        card["vectors"] = "0"  # QEMU gives such a card no MSI-X
    id = str(props.pop("id", f"nic{number}"))
    line.parts.add(Part("netdev", {**props, "id": id}, (argument,)))
    return [Part("device", {**card, "netdev": id}, (argument,))]


# ------------------------------------------------------------ sound, USB, 9p


def _sounds(line: Line) -> list[Part]:
    made: list[Part] = []
    for argument in line.given("soundhw", "audio"):
        words = (argument.value or "").split(",")
        if argument.name == "audio":
            props = dict(split_opts(argument.value or "", "driver"))
            model = props.pop("model", None)
            line.parts.add(Part("audiodev", {**props, "id": "audio0"}, (argument,)))
            words = [model] if model else []
        if words == ["all"]:
            words = list(_SOUND)
        for word in words:
            if word == "pcspk":
                made.append(Part("device", {"driver": "pcspk"}, (argument,)))
            elif word in _SOUND:
                made.append(Part("device", {"driver": _SOUND[word]}, (argument,)))
                if word == "hda":
                    made.append(Part("device", {"driver": "hda-duplex"}, (argument,)))
            else:
                line.drop([argument], f"'{word}' is no sound card")
    return made


def _usb_devices(line: Line) -> list[Part]:
    made: list[Part] = []
    wanted = [*line.given("usb", "usbdevice")]
    if wanted or line.machine_switch("usb"):
        if line.family == "q35":
            made.append(Part("device", {"driver": "q35-usb"}, tuple(line.given("usb"))))
        elif line.family == "pc":
            made.append(Part("device", {"driver": "piix3-usb-uhci", "addr": "1.2"}, tuple(line.given("usb"))))
        else:
            line.drop(line.given("usb"), "this machine has no USB of its own to switch on")
    for argument in line.given("usbdevice"):
        word, _, rest = (argument.value or "").partition(":")
        if word in _USB:
            made.append(Part("device", {"driver": _USB[word]}, (argument,)))
        elif word == "disk":
            options, colon, path = rest.partition(":")
            props: Props = {
                "if": "none",
                "id": f"usbdisk{argument.number}",
                "file": path if colon and "=" in options else rest,
            }
            if colon and options.startswith("format="):
                props["format"] = options.removeprefix("format=")
            line.parts.add(Part("drive", props, (argument,)))
            made.append(Part("device", {"driver": "usb-storage", "drive": props["id"]}, (argument,)))
        elif word == "host":
            made.append(Part("device", _usb_host(rest), (argument,)))
        elif word == "serial":
            chardev = legacy_chardev(
                line, argument, rest.lstrip(":").partition(":")[2] or rest.lstrip(":"), "usbserial"
            )
            if chardev is not None:
                made.append(Part("device", {"driver": "usb-serial", "chardev": chardev.id}, (argument,)))
        elif word == "net":
            line.parts.add(Part("netdev", {"type": "user", "id": f"usbnet{argument.number}"}, (argument,)))
            made.append(
                Part("device", {"driver": "usb-net", "netdev": f"usbnet{argument.number}"}, (argument,))
            )
        else:
            line.drop([argument], f"QEMU has no USB device '{word}' any more")
    return made


def _usb_host(text: str) -> Props:
    if "." in text:
        bus, _, address = text.partition(".")
        return {"driver": "usb-host", "hostbus": bus, "hostaddr": address}
    vendor, _, product = text.partition(":")
    return {"driver": "usb-host", "vendorid": f"0x{vendor}", "productid": f"0x{product}"}


def _virtfs(line: Line, argument: Argument) -> None:
    props = collect(split_opts(argument.value or "", "fsdriver"))
    tag = props.pop("mount_tag", None)
    id = str(props.setdefault("id", str(tag)))
    line.parts.add(Part("fsdev", props, (argument,)))
    line.parts.add(
        Part("device", {"driver": _virtio(line, "9p"), "fsdev": id, "mount_tag": tag}, (argument,))
    )


# ------------------------------------------------------------ serial, parallel


def _ports(line: Line) -> None:
    """Read ``-serial``, ``-parallel`` and what stands in for them."""
    serials = line.given("serial")
    if serials and all(argument.value == "none" for argument in serials):
        line.to_xml(serials, "no <serial>")
    place = 0
    for argument in serials:
        if argument.value == "none":
            line.to_xml([argument], "no <serial>")
            continue
        chardev = legacy_chardev(line, argument, argument.value or "", f"serial{place}")
        if chardev is not None:
            line.parts.add(
                Part(
                    "device",
                    {"driver": "serial-port", "index": str(place), "chardev": chardev.id},
                    (argument,),
                )
            )
        place += 1
    if not serials and line.defaults and not _has_device(line, _SERIALS):
        kind = "stdio" if line.nographic else "vc"
        line.parts.add(Part("chardev", {"backend": kind, "id": "serial0"}, tuple(line.given("nographic"))))
        line.parts.add(
            Part(
                "device",
                {"driver": "serial-port", "index": "0", "chardev": "serial0"},
                tuple(line.given("nographic")),
            )
        )
    if line.family not in ("pc", "q35"):
        line.drop(line.given("parallel"), "this machine has no parallel port")
        return
    parallels = line.given("parallel")
    for number, argument in enumerate(parallels):
        if argument.value == "none":
            line.to_xml([argument], "no <parallel>")
            continue
        chardev = legacy_chardev(line, argument, argument.value or "", f"parallel{number}")
        if chardev is not None:
            line.parts.add(Part("device", {"driver": "isa-parallel", "chardev": chardev.id}, (argument,)))
    if not parallels and line.defaults and not _has_device(line, frozenset({"isa-parallel"})):
        kind = "null" if line.nographic else "vc"
        line.parts.add(Part("chardev", {"backend": kind, "id": "parallel0"}, ()))
        line.parts.add(Part("device", {"driver": "isa-parallel", "chardev": "parallel0"}, ()))


def legacy_chardev(line: Line, argument: Argument, text: str, id: str) -> Part | None:
    """Return the chardev that an old word for one means; None for one QEMU no longer has, which is said."""
    if text.startswith("mon:"):
        text = text.removeprefix("mon:")
        line.note("the monitor on it is the daemon's; the port stays", [argument])
    if text.startswith("chardev:"):
        name = text.removeprefix("chardev:")
        known = line.parts.find("chardev", name)
        if known is None:
            line.drop([argument], f"chardev '{name}' is nowhere defined")
        return known
    props = _chardev_props(text)
    if props is None:
        line.drop([argument], f"'{text}' is no character device")
        return None
    return line.parts.add(Part("chardev", {**props, "id": id}, (argument,)))


def _chardev_props(text: str) -> Props | None:
    word, _, rest = text.partition(":")
    first, *options = rest.split(",")
    more = collect(split_opts(",".join(options))) if options else {}
    match word:
        case "null" | "pty" | "stdio" | "msmouse" | "braille" | "testdev" | "wctablet":
            return {"backend": word}
        case "vc":
            size = re.fullmatch(r"(\d+)(C?)x(\d+)(C?)", rest)
            if size is None:
                return {"backend": "vc"}
            names = ("cols", "rows") if size[2] else ("width", "height")
            return {"backend": "vc", names[0]: size[1], names[1]: size[3]}
        case "con":
            return {"backend": "console"}
        case "file" | "pipe":
            return {"backend": word, "path": rest}
        case "unix":
            return {"backend": "socket", "path": first, **more}
        case "tcp" | "telnet" | "websocket":
            host, _, port = first.rpartition(":")
            props: Props = {"backend": "socket", "host": host, "port": port, **more}
            if word != "tcp":
                props[word] = "on"
            return props
        case "udp":
            there, _, here = rest.partition("@")
            host, _, port = there.rpartition(":")
            local, _, local_port = here.rpartition(":")
            props = {"backend": "udp", "host": host, "port": port}
            if here:
                props |= {"localaddr": local, "localport": local_port}
            return props
    if text.startswith("/dev/parport"):
        return {"backend": "parallel", "path": text}
    if text.startswith("/dev/"):
        return {"backend": "serial", "path": text}
    return None


__all__ = ["CARDS", "legacy_chardev", "read_objects", "read_parts", "switch"]
