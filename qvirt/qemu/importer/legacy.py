"""Every spelling made one: what a command line says of devices, as parts a modern one would name.

``-hda``, ``-net nic``, ``-serial`` and their kin become the frontend and the backend they stand for, in the
order in which QEMU makes them, since that decides who gets which slot.
"""

import re

from qvirt.qemu.importer.gone import INSTEAD_OF_RAMFB
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.old_drives import read_drives
from qvirt.qemu.importer.old_networks import read_networks
from qvirt.qemu.importer.options import Argument, collect, nest, split_opts, to_props
from qvirt.qemu.importer.parts import Part, Props, switch

_PLAIN = ("netdev", "chardev", "object", "fsdev", "audiodev", "tpmdev", "mon")
_VGA = {
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


#: serial ports that keep QEMU from making one by itself
_SERIALS = frozenset({"isa-serial", "sclpconsole", "sclplmconsole"})


#: cards whose 3D a GPU of the host draws, and the properties that are about it
_DRAWING = frozenset({"virtio-gpu-gl-pci", "virtio-gpu-gl-device", "virtio-vga-gl"})


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
    onboard = read_drives(line)
    screens, cards = _screens(line), read_networks(line)
    first = [*onboard, *screens, *cards, *_sounds(line), *_usb_devices(line)]
    for part in first:
        line.parts.add(part)
    for argument in line.given("device"):
        props, json = to_props(argument)
        part = line.parts.add(Part("device", props, (argument,), json))
        _unalias(line, part)
        if part.driver in _DRAWING and not line.has_gpu:
            line.note(
                "no GPU of this host can draw for the guest: QEMU will not start with <acceleration>",
                [argument],
            )
        if part.driver == "ramfb" and line.is_old_riscv:
            part.props = {"driver": INSTEAD_OF_RAMFB}
            line.note("QEMU draws no ramfb on this machine; it gets another screen", [argument])
        if part.driver == "pci-assign":
            part.props["driver"] = "vfio-pci"
            line.note("the kernel's old device assignment is gone; VFIO is what came after it", [argument])
    if line.family == "q35" and switch(line.machine.pop("iommu", None)):
        line.parts.add(Part("device", {"driver": "intel-iommu"}, tuple(line.given("machine"))))
    for argument in line.given("pcidevice"):
        host = dict(split_opts(argument.value or "")).get("host")
        line.parts.add(Part("device", {"driver": "vfio-pci", "host": host}, (argument,)))
    for argument in line.given("virtfs"):
        _virtfs(line, argument)
    for argument in line.given("balloon"):
        if argument.value != "none":
            props = collect(split_opts(argument.value or "", "type"))
            props.pop("type", None)
            line.parts.add(Part("device", {"driver": line.virtio("balloon"), **props}, (argument,)))
        else:
            line.drop([argument], "no balloon is what there is without one")
    for argument in line.given("watchdog"):
        line.parts.add(Part("device", {"driver": argument.value}, (argument,)))
    for argument in line.given("virtioconsole"):
        chardev = legacy_chardev(line, argument, argument.value or "", "virtcon")
        if chardev is not None:
            line.parts.add(Part("device", {"driver": line.virtio("serial")}, (argument,)))
            line.parts.add(Part("device", {"driver": "virtconsole", "chardev": chardev.id}, (argument,)))


def _unalias(line: Line, part: Part) -> None:
    base = _DEVICE_ALIASES.get(part.driver)
    if base is not None:
        part.props["driver"] = base + ("ccw" if line.arch == "s390x" else "pci")


# ------------------------------------------------------------ screens


def _screens(line: Line) -> list[Part]:
    given = line.given("vga", "std-vga", "cirrusvga", "vmwarevga")
    word: str | None = None
    for argument in given:
        word = {"std-vga": "std", "cirrusvga": "cirrus", "vmwarevga": "vmware"}.get(
            argument.name, argument.value
        )
    if word is None:
        if not line.defaults or line.family not in ("pc", "q35") or line.names_device(_SCREENS):
            return []
        word = "cirrus" if _is_old_pc(line) else "std"
    word = word.partition(",")[0]
    if word == "none":
        line.to_xml(given, "no <video>")
        return []
    driver = _VGA.get(word)
    if driver is None:
        line.pass_on(given, ["-vga", word], "no XML")
        return []
    if word == "virtio" and line.family == "virt":
        driver = "virtio-gpu-pci"
    return [Part("device", {"driver": driver}, tuple(given))]


def _is_old_pc(line: Line) -> bool:
    version = re.fullmatch(r"pc-(?:i440fx-|q35-)?([0-9]+)\.([0-9]+).*", line.machine_type)
    return version is not None and (int(version[1]), int(version[2])) < (2, 2)


# ------------------------------------------------------------ sound, USB, 9p


def _sounds(line: Line) -> list[Part]:
    made: list[Part] = []
    beeper = line.machine.pop("pcspk-audiodev", None)
    if beeper is not None:
        given = tuple(line.given("machine"))
        made.append(Part("device", {"driver": "pcspk", "audiodev": beeper}, given))
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
    line.parts.add(Part("device", {"driver": line.virtio("9p"), "fsdev": id, "mount_tag": tag}, (argument,)))


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
    if not serials and line.defaults and not line.names_device(_SERIALS):
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
    if not parallels and line.defaults and not line.names_device(frozenset({"isa-parallel"})):
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
