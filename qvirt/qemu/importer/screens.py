"""Graphics cards, input devices, sound cards."""

from qvirt.model.devices.device import Device
from qvirt.model.devices.input import Input, InputSource
from qvirt.model.devices.sound import Codec, Sound
from qvirt.model.devices.video import Acceleration, Resolution, Video, VideoModel
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS
from qvirt.qemu.importer.parts import Part, Unfit, size
from qvirt.qemu.importer.reader import Reader, Reading

VIDEO = {
    "VGA": "vga",
    "cirrus-vga": "cirrus",
    "vmware-svga": "vmvga",
    "qxl-vga": "qxl",
    "qxl": "qxl",
    "virtio-vga": "virtio",
    "virtio-vga-gl": "virtio",
    "virtio-gpu-pci": "virtio",
    "virtio-gpu-gl-pci": "virtio",
    "virtio-gpu-device": "virtio",
    "virtio-gpu-gl-device": "virtio",
    "virtio-gpu-ccw": "virtio",
    "virtio-gpu-gl-ccw": "virtio",
    "bochs-display": "bochs",
    "ramfb": "ramfb",
}
_SECONDARY = frozenset({"qxl", "virtio-gpu-pci", "virtio-gpu-gl-pci", "virtio-gpu-device"})


def read_video(r: Reading) -> Device:
    driver = r.part.driver
    kind = VIDEO[driver]
    videos = r.line.domain.devices.videos
    primary = not videos
    if primary and driver in _SECONDARY and (r.line.family != "virt" or r.line.is_riscv):
        raise Unfit("in XML the first screen is one the guest boots with")
    if not primary and driver not in _SECONDARY:
        raise Unfit("in XML only the first screen can be of this kind")
    model = VideoModel(type=kind)
    if driver.endswith(("-gl", "-gl-pci")):
        model.acceleration = Acceleration(accel3d=True)
    heads = r.part.number("max_outputs")
    if heads:
        model.heads = heads
    if kind == "qxl":
        for key, field, unit in (
            ("ram_size", "ram", "b"),
            ("vram_size", "vram", "b"),
            ("vgamem_mb", "vgamem", "m"),
        ):
            if r.part.props.get(key) is not None:
                setattr(model, field, size(r.part.props[key], key, unit) >> 10)
    elif kind in ("vga", "vmvga") and r.part.props.get("vgamem_mb") is not None:
        model.vram = (r.part.number("vgamem_mb") or 0) << 10
    width, height = r.part.number("xres"), r.part.number("yres")
    if width and height and kind in ("vga", "qxl", "virtio", "bochs"):
        model.resolution = Resolution(x=width, y=height)
    dev = Video(model=model)
    if kind == "virtio":
        VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    if kind == "ramfb":
        return dev
    r.place(dev)
    return dev


def usb_input(kind: str) -> Reader:
    def read(r: Reading) -> Device:
        dev = Input(type=kind, bus="usb")
        r.usb_address(dev)
        return dev

    return read


def virtio_input(kind: str) -> Reader:
    def read(r: Reading) -> Device:
        dev = Input(type=kind, bus="virtio")
        if kind == "passthrough":
            dev.source = InputSource(evdev=r.part.text("evdev"))
        VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
        r.place(dev)
        return dev

    return read


def sound(model: str) -> Reader:
    def read(r: Reading) -> Device:
        dev = Sound(model=model)
        if model == "usb":
            r.usb_address(dev)
        elif model not in ("sb16", "pcspk"):
            dev.address = r.buses.place_pci(r.part)
        if model in ("ich6", "ich9"):
            dev.codecs = _codecs(r)
            if not dev.codecs:
                raise Unfit("in XML an HDA card has a codec")
        _audio(r, r.part)
        return dev

    return read


def _codecs(r: Reading) -> list[Codec]:
    """Take the codecs on the card: those that name its bus, or no bus where it is the first."""
    found: list[Codec] = []
    cards = [part for part in r.line.parts.of("device") if part.driver in ("intel-hda", "ich9-intel-hda")]
    place = cards.index(r.part)
    for part in r.line.parts.of("device"):
        if (
            not part.driver.startswith("hda-")
            or part.settled
            or part.driver[4:] not in ("duplex", "micro", "output")
        ):
            continue
        bus = part.text("bus")
        if (bus is None and place == 0) or (bus is not None and bus.partition(".")[0] == r.part.id):
            if set(part.props) - {"driver", "id", "bus", "cad", "audiodev"}:
                raise Unfit("its codec says what XML cannot")
            found.append(Codec(type=part.driver[4:]))
            r.used.append(part)
            _audio(r, part)
    return found


def _audio(r: Reading, part: Part) -> None:
    """Take the audiodev; what plays the sound is one for the whole domain."""
    named = r.line.parts.find("audiodev", part.props.get("audiodev"))
    if named is not None and not named.settled:
        r.used.append(named)
