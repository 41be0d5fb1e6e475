"""Devices as elements: for each QEMU type of device, what of it XML can say.

What a reader leaves unsaid is not lost: the finished document is built again, and each property that comes
out otherwise becomes an override (``settle``).
"""

import re
from collections.abc import Callable

from qvirt.model.devices.address import (
    DimmAddress,
    DriveAddress,
    IsaAddress,
    UsbAddress,
    VirtioMmioAddress,
    VirtioSerialAddress,
)
from qvirt.model.devices.char import (
    Channel,
    ChannelTarget,
    Console,
    ConsoleTarget,
    Parallel,
    Serial,
    SerialTarget,
)
from qvirt.model.devices.controller import (
    Controller,
    ControllerDriver,
    ControllerType,
    Master,
    PciControllerModel,
    PciControllerTarget,
)
from qvirt.model.devices.device import Boot, Device, Rom
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice, DiskTarget
from qvirt.model.devices.filesystem import Filesystem, FilesystemSource, FilesystemTarget
from qvirt.model.devices.hostdev import (
    Hostdev,
    HostdevSource,
    MdevHostAddress,
    PciHostAddress,
    ProductId,
    UsbHostAddress,
    VendorId,
)
from qvirt.model.devices.input import Input, InputSource
from qvirt.model.devices.iommu import Iommu
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.memory import Memory, MemorySize, MemorySource, MemoryTarget
from qvirt.model.devices.panic import Panic
from qvirt.model.devices.redirdev import Redirdev
from qvirt.model.devices.rng import Rate, Rng, RngBackend
from qvirt.model.devices.smartcard import Smartcard
from qvirt.model.devices.sound import Codec, Sound
from qvirt.model.devices.tpm import Tpm, TpmBackend, TpmHostDevice
from qvirt.model.devices.video import Acceleration, Resolution, Video, VideoModel
from qvirt.model.devices.vsock import Cid, Vsock
from qvirt.model.devices.watchdog import Watchdog
from qvirt.model.storage_source import SourceType, StorageSource
from qvirt.model.vcpu import Iothread
from qvirt.qemu.devices.controller import SCSI_DEVICES, USB_DEVICES
from qvirt.qemu.devices.disk import FRONTEND, VIRTIO_BLK
from qvirt.qemu.devices.filesystem import SECURITY_MODELS
from qvirt.qemu.devices.iommu import INTEL as INTEL_IOMMU
from qvirt.qemu.devices.memballoon import PROPS as BALLOON
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS
from qvirt.qemu.importer.buses import Bus, Buses, PciBus
from qvirt.qemu.importer.chars import take_chardev
from qvirt.qemu.importer.disks import take_image
from qvirt.qemu.importer.line import Line, new_id
from qvirt.qemu.importer.parts import Part, Props, Unfit, integer, size, switch, without

_TRANSPORT = re.compile(r"(.*?)-(pci|ccw|device)(-transitional|-non-transitional)?$")


class Reading:
    """One device being read: the line, the buses so far, and the parts it takes with it."""

    def __init__(self, line: Line, buses: Buses, part: Part) -> None:
        self.line = line
        self.buses = buses
        self.part = part
        self.used: list[Part] = []
        #: properties the device must have whatever the document makes of it
        self.forced: Props = {}

    def keep_netdev(self, backend: Part, reason: str) -> None:
        """Hand a netdev to QEMU as it is, and plug the card into it."""
        self.forced["netdev"] = new_id(backend.id or "")
        self.line.pass_part(backend, reason)

    def place(self, dev: Device) -> None:
        """Give a device on PCI or virtio's other transports its address."""
        match = _TRANSPORT.match(self.part.driver)
        if match is not None and match[2] == "device":
            if self.line.family != "virt":
                raise Unfit("virtio-mmio is no bus of this machine")
            dev.address = VirtioMmioAddress()
        else:
            dev.address = self.buses.place_pci(self.part)

    def common(self, dev: Device) -> None:
        """Read what any device may say: its place in the boot order, its ROM."""
        order = self.part.props.get("bootindex")
        if order is not None:
            dev.boot = Boot(order=integer(order, "bootindex"))
        romfile, bar = self.part.text("romfile"), self.part.text("rombar")
        if romfile == "":
            dev.rom = Rom(enabled=False)
        elif romfile is not None:
            dev.rom = Rom(file=romfile)
        if bar in ("0", "1"):
            dev.rom.bar = bar == "1"

    def virtio_model(self) -> str:
        """Return libvirt's word for the kind of virtio."""
        match = _TRANSPORT.match(self.part.driver)
        return "virtio" + (match[3] or "" if match is not None else "")

    def usb_address(self, dev: Device) -> None:
        """Give a device on USB its bus; the port only when it was said."""
        bus = self.buses.find(self.part, "usb")
        port = self.part.text("port")
        if port is not None or self.part.text("bus") is not None:
            dev.address = UsbAddress(bus=bus.controller, port=port)


Reader = Callable[[Reading], Device]


# ------------------------------------------------------------ disks

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def disk_name(prefix: str, number: int) -> str:
    """Return a drive's name: ``sda`` for 0, ``sdaa`` for 26."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = _LETTERS[digit] + text
    return prefix + text


def _target(r: Reading, disk: Disk, bus: DiskBus, prefix: str, number: int | None = None) -> None:
    """Name the drive: the number given, or the next that is free."""
    if number is None or not r.buses.take(f"name:{prefix}", number):
        number = 0
        while not r.buses.take(f"name:{prefix}", number):
            number += 1
    disk.target = DiskTarget(dev=disk_name(prefix, number), bus=bus)


def _disk(r: Reading, device: DiskDevice = DiskDevice.DISK) -> Disk:
    disk = Disk(device=device)
    r.used += take_image(r.line, r.part, disk)
    if disk.device == DiskDevice.CDROM:
        disk.readonly = True
    FRONTEND.read(disk, dict(r.part.props))
    for key, field in (("werror", "error_policy"), ("rerror", "rerror_policy")):
        value = r.part.text(key)
        if value is not None and value != "auto":
            setattr(disk.driver, field, {"enospc": "enospace"}.get(value, value))
    if r.part.flag("write-cache") is False and disk.driver.cache is None:
        disk.driver.cache = "writethrough"
    r.common(disk)
    return disk


def _ide(r: Reading) -> Device:
    device = DiskDevice.CDROM if r.part.driver == "ide-cd" else DiskDevice.DISK
    if r.part.driver == "ide-drive":
        drive = r.line.parts.find("drive", r.part.props.get("drive"))
        device = DiskDevice.CDROM if drive is not None and drive.props.get("media") == "cdrom" else device
    bus, name = _ide_bus(r)
    disk = _disk(r, device)
    if bus.kind == "sata":
        disk.address = DriveAddress(controller=bus.controller, bus=0, target=0, unit=bus.number)
        _target(r, disk, DiskBus.SATA, "sd", bus.number if not bus.controller else None)
        return disk
    unit = r.part.number("unit")
    if unit is None:
        unit = 0 if r.buses.take(name, 0) else 1
    r.buses.take(name, unit)
    disk.address = DriveAddress(controller=0, bus=bus.number, target=0, unit=unit)
    _target(r, disk, DiskBus.IDE, "hd", bus.number * 2 + unit)
    return disk


def _ide_bus(r: Reading) -> tuple[Bus, str]:
    said = r.part.text("bus")
    if said is not None:
        bus = r.buses.named(said)
        if bus is None or bus.kind not in ("ide", "sata"):
            raise Unfit(f"its bus '{said}' is not in the XML")
        if bus.kind == "sata":
            r.buses.take(said, 0)
        return bus, said
    for name, bus in reversed(r.buses.others.items()):
        if bus.kind == "sata" and r.buses.take(name, 0):
            return bus, name
        if bus.kind == "ide" and len(r.buses.taken.get(name, ())) < 2:
            return bus, name
    raise Unfit("there is no room on an IDE bus")


def _scsi_disk(r: Reading) -> Device:
    bus = r.buses.find(r.part, "scsi")
    device = {"scsi-cd": DiskDevice.CDROM, "scsi-block": DiskDevice.LUN}.get(r.part.driver, DiskDevice.DISK)
    disk = _disk(r, device)
    name = f"scsi{bus.controller}"
    channel, lun = r.part.number("channel") or 0, r.part.number("lun") or 0
    target = r.part.number("scsi-id")
    if target is None:
        target = 0
        while not r.buses.take(name, (channel, target, lun)):
            target += 1
    else:
        r.buses.take(name, (channel, target, lun))
    disk.address = (
        DriveAddress(controller=bus.controller, bus=0, target=0, unit=target)
        if bus.number
        else DriveAddress(controller=bus.controller, bus=channel, target=target, unit=lun)
    )
    _target(r, disk, DiskBus.SCSI, "sd")
    return disk


def _virtio_disk(r: Reading) -> Device:
    disk = _disk(r)
    disk.model = _model_unless_plain(r)
    VIRTIO_BLK.read(disk, without(r.part.props, ("iothread",)))
    disk.driver.iothread = iothread(r, r.part.text("iothread"))
    VIRTIO_OPTIONS.read(disk.driver, dict(r.part.props))
    r.place(disk)
    _target(r, disk, DiskBus.VIRTIO, "vd")
    return disk


def _model_unless_plain(r: Reading) -> str | None:
    model = r.virtio_model()
    return model if model != "virtio" else None


def iothread(r: Reading, name: str | None) -> int | None:
    """Return the number of an iothread, which becomes one of the domain's."""
    if name is None:
        return None
    part = r.line.parts.find("object", name)
    if part is None or part.text("qom-type") != "iothread":
        raise Unfit(f"its iothread '{name}' is nowhere defined")
    if set(part.props) - {"id", "qom-type"}:
        raise Unfit(f"its iothread '{name}' says what XML cannot")
    threads = r.line.domain.iothreadids.iothreads
    place = r.line.threads.get(name)
    if place is None:
        place = r.line.threads[name] = len(threads) + 1
        threads.append(Iothread(id=place))
        r.line.domain.iothreads = len(threads)
        part.settled = "xml"
        r.line.to_xml(part.given, f"<iothread id='{place}'/>")
    return place


def _usb_disk(r: Reading) -> Device:
    disk = _disk(r)
    drive = r.line.parts.find("drive", r.part.props.get("drive"))
    if drive is not None and drive.props.get("media") == "cdrom":
        disk.device = DiskDevice.CDROM
    r.usb_address(disk)
    if r.part.flag("removable") is not None:
        disk.target.removable = r.part.flag("removable")
    removable = disk.target.removable
    _target(r, disk, DiskBus.USB, "sd")
    disk.target.removable = removable
    return disk


def _floppy(r: Reading) -> Device:
    unit = r.part.number("unit")
    if unit is None:
        unit = 0 if r.buses.take("fdc", 0) else 1
    r.buses.take("fdc", unit)
    disk = _disk(r, DiskDevice.FLOPPY)
    disk.address = DriveAddress(controller=0, bus=0, target=0, unit=unit)
    _target(r, disk, DiskBus.FDC, "fd", unit)
    return disk


def _vhost_user_disk(r: Reading) -> Device:
    disk = Disk(type=SourceType.VHOSTUSER)
    chardev = r.line.parts.find("chardev", r.part.props.get("chardev"))
    if chardev is None or chardev.text("path") is None or chardev.flag("server"):
        raise Unfit("its chardev is no socket to connect to")
    disk.source = StorageSource(type="unix", path=chardev.text("path"))
    again = chardev.number("reconnect")
    if again:
        from qvirt.model.storage_source import Reconnect

        disk.source.reconnect = Reconnect(enabled=True, timeout=again)
    disk.driver.type = "raw"
    VIRTIO_BLK.read(disk, without(r.part.props, ("iothread",)))
    VIRTIO_OPTIONS.read(disk.driver, dict(r.part.props))
    r.common(disk)
    r.place(disk)
    _target(r, disk, DiskBus.VIRTIO, "vd")
    r.used.append(chardev)
    return disk


# ------------------------------------------------------------ controllers


def _pci_bridge(model: str) -> Reader:
    def read(r: Reading) -> Device:
        dev = Controller(type=ControllerType.PCI, model=model)
        dev.pci_model = PciControllerModel(name=r.part.driver)
        dev.address = r.buses.place_pci(r.part)
        dev.index = r.buses.next("pci")
        target = dev.target = PciControllerTarget()
        for key, field in (
            ("chassis_nr", "chassis_nr"),
            ("chassis", "chassis"),
            ("port", "port"),
            ("bus_nr", "bus_nr"),
        ):
            if r.part.props.get(key) is not None:
                setattr(target, field, integer(r.part.props[key], key))
        if model == "pci-bridge" and target.chassis_nr is None:
            target.chassis_nr = dev.index
        if model == "pcie-root-port":
            target.chassis = dev.index if target.chassis is None else target.chassis
            target.port = 0 if target.port is None else target.port
        if r.part.flag("hotplug") is not None:
            target.hotplug = r.part.flag("hotplug")
        if r.part.id is not None:
            r.buses.pci[r.part.id] = PciBus(dev.index, first=1 if model == "pci-bridge" else 0)
        return dev

    return read


def _usb_controller(r: Reading) -> Device:
    model = next(name for name, device in USB_DEVICES.items() if device == r.part.driver)
    dev = Controller(type=ControllerType.USB, model=model)
    master = r.part.text("masterbus")
    dev.address = r.buses.place_pci(r.part)
    if master is not None:
        bus = r.buses.named(master)
        if bus is None:
            raise Unfit(f"its master '{master}' is not in the XML")
        dev.index = bus.controller
        dev.master = Master(startport=r.part.number("firstport") or 0)
        return dev
    dev.index = r.buses.next("usb")
    if model in ("nec-xhci", "qemu-xhci"):
        p2, p3 = r.part.number("p2"), r.part.number("p3")
        if p2 is not None and p2 == p3 and p2 <= 15:
            dev.ports = p2
    r.buses.others[f"{r.part.id or f'usb-bus.{dev.index}'}" + (".0" if r.part.id else "")] = Bus(
        "usb", dev.index
    )
    return dev


def q35_usb(buses: Buses) -> list[Part]:
    """Return the controllers that ``-usb`` gives a Q35: an EHCI and its companions."""
    found = [
        Part("device", {"driver": "ich9-usb-ehci1", "id": "q35-ehci", "addr": "1d.7", "multifunction": "on"})
    ]
    for number in range(3):
        props = {"driver": f"ich9-usb-uhci{number + 1}", "addr": f"1d.{number}", "masterbus": "q35-ehci.0",
                 "firstport": str(number * 2)}  # fmt: skip
        if not number:
            props["multifunction"] = "on"
        found.append(Part("device", dict(props)))
    return found


def _scsi_controller(r: Reading) -> Device:
    driver = r.part.driver
    model = {"lsi53c895a": "lsilogic"}.get(driver) or next(
        (name for name, device in SCSI_DEVICES.items() if device == driver), None
    )
    if model is None:
        model = {"virtio": "virtio-scsi"}.get(r.virtio_model(), r.virtio_model())
    dev = Controller(type=ControllerType.SCSI, model=model)
    driver_node = dev.driver = ControllerDriver()
    for key, field in (
        ("num_queues", "queues"),
        ("cmd_per_lun", "cmd_per_lun"),
        ("max_sectors", "max_sectors"),
    ):
        if r.part.props.get(key) is not None:
            setattr(driver_node, field, integer(r.part.props[key], key))
    if r.part.flag("ioeventfd") is not None:
        driver_node.ioeventfd = r.part.flag("ioeventfd")
    VIRTIO_OPTIONS.read(driver_node, dict(r.part.props))
    driver_node.iothread = iothread(r, r.part.text("iothread"))
    r.place(dev)
    dev.index = r.buses.next("scsi")
    name = f"{r.part.id}.0" if r.part.id else f"scsi.{dev.index}"
    r.buses.others[name] = Bus("scsi", dev.index, 1 if model == "lsilogic" else 0)
    return dev


def _virtio_serial(r: Reading) -> Device:
    dev = Controller(type=ControllerType.VIRTIO_SERIAL)
    model = r.virtio_model()
    if model != "virtio":
        dev.model = model
    if r.part.props.get("max_ports") is not None:
        dev.ports = r.part.number("max_ports")
    if r.part.props.get("vectors") is not None:
        dev.vectors = r.part.number("vectors")
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    dev.index = r.buses.next("virtio-serial")
    name = f"{r.part.id}.0" if r.part.id else f"virtio-serial-bus.{dev.index}"
    r.buses.others[name] = Bus("virtio-serial", dev.index)
    return dev


def _ahci(r: Reading) -> Device:
    dev = Controller(type=ControllerType.SATA)
    dev.address = r.buses.place_pci(r.part)
    dev.index = r.buses.next("sata")
    for number in range(6):
        r.buses.others[f"{r.part.id or f'ahci{dev.index}'}.{number}"] = Bus("sata", dev.index, number)
    return dev


def _ccid(r: Reading) -> Device:
    dev = Controller(type=ControllerType.CCID)
    r.usb_address(dev)
    dev.index = r.buses.next("ccid")
    r.buses.others[f"{r.part.id or 'ccid-bus'}.0"] = Bus("ccid", dev.index)
    return dev


# ------------------------------------------------------------ characters


def _serial_port(r: Reading) -> Device:
    """A port of ``-serial``: the machine's own kind."""
    dev = Serial()
    place = r.part.number("index") or 0
    if r.line.family == "virt":
        if place:
            raise Unfit("XML names this board's first port only")
        dev.target = SerialTarget(port=0)
    else:
        if place > 3:
            raise Unfit("a PC has four serial ports")
        dev.target = SerialTarget(type="isa-serial", port=place)
        r.buses.take("isa-serial", place)
    r.used += take_chardev(r.line, r.part, dev)
    return dev


def _isa_serial(r: Reading) -> Device:
    place = r.part.number("index")
    if place is None:
        place = next(number for number in range(8) if r.buses.take("isa-serial", number))
    dev = Serial(target=SerialTarget(type="isa-serial", port=place))
    r.used += take_chardev(r.line, r.part, dev)
    _isa(r, dev)
    return dev


def _isa(r: Reading, dev: Device) -> None:
    base, irq = r.part.number("iobase"), r.part.number("irq")
    if base is not None or irq is not None:
        dev.address = IsaAddress(iobase=base, irq=irq)


def _other_serial(r: Reading) -> Device:
    kind = {"usb-serial": "usb-serial", "pci-serial": "pci-serial", "isa-debugcon": "isa-debug"}[
        r.part.driver
    ]
    dev = Serial(target=SerialTarget(type=kind))
    r.used += take_chardev(r.line, r.part, dev)
    if kind == "usb-serial":
        r.usb_address(dev)
    elif kind == "pci-serial":
        dev.address = r.buses.place_pci(r.part)
    else:
        _isa(r, dev)
    return dev


def _parallel(r: Reading) -> Device:
    dev = Parallel()
    r.used += take_chardev(r.line, r.part, dev)
    return dev


def _port(r: Reading, is_console: bool) -> VirtioSerialAddress:
    bus = r.buses.find(r.part, "virtio-serial")
    name = f"virtio-serial{bus.controller}"
    number = r.part.number("nr")
    if number is None:
        number = 0 if is_console else 1
        while not r.buses.take(name, number):
            number += 1
    else:
        r.buses.take(name, number)
    return VirtioSerialAddress(controller=bus.controller, bus=0, port=number)


def _channel(r: Reading) -> Device:
    dev = Channel(target=ChannelTarget(type="virtio", name=r.part.text("name")))
    r.used += take_chardev(r.line, r.part, dev)
    dev.address = _port(r, False)
    return dev


def _console(r: Reading) -> Device:
    dev = Console(target=ConsoleTarget(type="virtio"))
    r.used += take_chardev(r.line, r.part, dev)
    dev.address = _port(r, True)
    if not r.line.domain.devices.serials and not r.line.domain.devices.consoles:
        dev.target.port = 0
    return dev


def _redirdev(r: Reading) -> Device:
    dev = Redirdev(bus="usb")
    r.used += take_chardev(r.line, r.part, dev)
    r.usb_address(dev)
    r.common(dev)
    return dev


def _smartcard(r: Reading) -> Device:
    r.buses.find(r.part, "ccid")
    dev = Smartcard(mode="passthrough")
    r.used += take_chardev(r.line, r.part, dev)
    return dev


# ------------------------------------------------------------ screens, input, sound

_VIDEO = {
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
    "bochs-display": "bochs",
    "ramfb": "ramfb",
}
_SECONDARY = frozenset({"qxl", "virtio-gpu-pci", "virtio-gpu-gl-pci", "virtio-gpu-device"})


def _video(r: Reading) -> Device:
    driver = r.part.driver
    kind = _VIDEO[driver]
    videos = r.line.domain.devices.videos
    primary = not videos
    if primary and driver in _SECONDARY and r.line.family != "virt":
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


def _usb_input(kind: str) -> Reader:
    def read(r: Reading) -> Device:
        dev = Input(type=kind, bus="usb")
        r.usb_address(dev)
        return dev

    return read


def _virtio_input(kind: str) -> Reader:
    def read(r: Reading) -> Device:
        dev = Input(type=kind, bus="virtio")
        if kind == "passthrough":
            dev.source = InputSource(evdev=r.part.text("evdev"))
        VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
        r.place(dev)
        return dev

    return read


def _sound(model: str) -> Reader:
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


# ------------------------------------------------------------ the rest


def _balloon(r: Reading) -> Device:
    dev = Memballoon(model=r.virtio_model())
    if r.line.domain.devices.memballoons:
        raise Unfit("XML has one balloon")
    BALLOON.read(dev, dict(r.part.props))
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    return dev


def _rng(r: Reading) -> Device:
    dev = Rng(model=r.virtio_model())
    backend = r.line.parts.find("object", r.part.props.get("rng"))
    if backend is None:
        dev.backends = [RngBackend(model="builtin")]
    elif backend.settled:
        raise Unfit("its source belongs to another device already")
    else:
        kind = backend.text("qom-type")
        if kind == "rng-random":
            dev.backends = [RngBackend(model="random", path=backend.text("filename") or "/dev/urandom")]
        elif kind == "rng-builtin":
            dev.backends = [RngBackend(model="builtin")]
        else:
            egd = RngBackend(model="egd")
            r.used += take_chardev(r.line, backend, egd)
            dev.backends = [egd]
        r.used.append(backend)
    most, period = r.part.number("max-bytes"), r.part.number("period")
    if most:
        dev.rate = Rate(bytes=most, period=period)
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    return dev


def _ninep(r: Reading) -> Device:
    backend = r.line.parts.find("fsdev", r.part.props.get("fsdev"))
    if backend is None or backend.settled:
        raise Unfit("its fsdev is nowhere defined")
    if backend.text("fsdriver") != "local":
        raise Unfit(f"fsdev '{backend.text('fsdriver')}' has no XML")
    strange = set(backend.props) - {
        "fsdriver", "id", "path", "security_model", "readonly", "writeout", "multidevs", "fmode", "dmode"
    }  # fmt: skip
    if strange:
        raise Unfit(f"its fsdev says {', '.join(sorted(strange))}, which has no XML")
    model = backend.text("security_model") or "none"
    modes = {"mapped-xattr": "mapped", **{qemu: word for word, qemu in SECURITY_MODELS.items()}}
    if model not in modes:
        raise Unfit(f"security model '{model}' has no XML")
    dev = Filesystem(type="mount", accessmode=modes[model])
    dev.source = FilesystemSource(dir=backend.text("path"))
    dev.target = FilesystemTarget(dir=r.part.text("mount_tag"))
    dev.readonly = bool(backend.flag("readonly"))
    dev.multidevs = backend.text("multidevs")
    if backend.text("writeout") == "immediate":
        dev.driver.wrpolicy = "immediate"
    for key in ("fmode", "dmode"):
        value = backend.text(key)
        if value is not None:
            setattr(dev, key, int(value, 8))
    kind = r.virtio_model()
    if kind != "virtio":
        dev.model = kind
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    r.used.append(backend)
    return dev


def _watchdog(r: Reading) -> Device:
    dev = Watchdog(model=r.part.driver, action=r.part.text("action"))
    said = r.line.given("watchdog-action")
    dev.action = (said[-1].value if said else None) or "reset"
    r.line.to_xml(said, "<watchdog action=…>")
    if r.part.driver == "i6300esb":
        dev.address = r.buses.place_pci(r.part)
    return dev


def _panic(r: Reading) -> Device:
    dev = Panic(model="isa")
    if r.line.domain.devices.panics:
        raise Unfit("XML has one of a kind")
    base = r.part.number("ioport")
    if base is not None:
        dev.address = IsaAddress(iobase=base)
    return dev


def _iommu(r: Reading) -> Device:
    dev = Iommu(model="intel")
    INTEL_IOMMU.read(dev, dict(r.part.props))
    return dev


def _vsock(r: Reading) -> Device:
    dev = Vsock(model=_model_unless_plain(r) or "virtio")
    cid = r.part.number("guest-cid")
    dev.cid = Cid(address=cid) if cid is not None else Cid(auto=True)
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    return dev


def _dimm(r: Reading) -> Device:
    backend = r.line.parts.find("object", r.part.props.get("memdev"))
    if backend is None or backend.settled:
        raise Unfit("its memory backend is nowhere defined")
    if backend.text("qom-type") not in ("memory-backend-ram", "memory-backend-file"):
        raise Unfit(f"memory backend '{backend.text('qom-type')}' has no XML here")
    if set(backend.props) - {"qom-type", "id", "size", "mem-path", "share", "host-nodes", "policy"}:
        raise Unfit("its memory backend says what XML cannot")
    if r.line.domain.max_memory is None:
        raise Unfit("XML has memory modules beside -m slots= and maxmem= only")
    amount = size(backend.text("size") or "0", "size", "b") >> 10
    target = MemoryTarget(size=MemorySize(value=amount, unit="KiB"))
    cpu = r.line.domain.cpu
    if cpu is None or cpu.numa is None:
        raise Unfit("XML has memory modules beside NUMA nodes only")
    target.node = r.part.number("node") or 0
    dev = Memory(model="nvdimm" if r.part.driver == "nvdimm" else "dimm", target=target)
    if backend.text("mem-path") is not None:
        dev.source = MemorySource(path=backend.text("mem-path"))
    share = switch(backend.props.get("share"))
    if share is not None:
        dev.access = "shared" if share else "private"
    slot, base = r.part.number("slot"), r.part.number("addr")
    if slot is not None or base is not None:
        dev.address = DimmAddress(slot=slot, base=base)
    r.used.append(backend)
    return dev


def _tpm(r: Reading) -> Device:
    backend = r.line.parts.find("tpmdev", r.part.props.get("tpmdev"))
    if backend is None:
        raise Unfit("its tpmdev is nowhere defined")
    model = "tpm-tis" if r.part.driver == "tpm-tis-device" else r.part.driver
    dev = Tpm(model=model)
    if backend.text("type") == "passthrough":
        dev.backends = [TpmBackend(type="passthrough", device=TpmHostDevice(path=backend.text("path")))]
    else:
        raise Unfit("its emulator runs already; the daemon would start one of its own for a <tpm>")
    r.used.append(backend)
    return dev


_PCI_NAME = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$")


def _vfio(r: Reading) -> Device:
    dev = Hostdev(mode="subsystem", type="pci", managed=True)
    host, path = r.part.text("host"), r.part.text("sysfsdev")
    if host is not None:
        match = _PCI_NAME.match(host.lower())
        if match is None:
            raise Unfit(f"'{host}' is no PCI address")
        dev.source = HostdevSource(
            address=PciHostAddress(
                domain=int(match[1] or "0", 16),
                bus=int(match[2], 16),
                slot=int(match[3], 16),
                function=int(match[4]),
            )
        )
    elif path is not None:
        dev.type, dev.managed = "mdev", None
        dev.model = "vfio-pci"
        dev.source = HostdevSource(address=MdevHostAddress(uuid=path.rstrip("/").rpartition("/")[2]))
        dev.display, dev.ramfb = r.part.flag("display"), r.part.flag("ramfb")
    else:
        raise Unfit("it names no device of the host")
    dev.address = r.buses.place_pci(r.part)
    r.common(dev)
    return dev


def _usb_host(r: Reading) -> Device:
    dev = Hostdev(mode="subsystem", type="usb", managed=True)
    vendor, product = r.part.number("vendorid"), r.part.number("productid")
    bus, address = r.part.number("hostbus"), r.part.number("hostaddr")
    source = dev.source = HostdevSource()
    if vendor and product:
        source.vendor, source.product = VendorId(id=vendor), ProductId(id=product)
    elif bus is not None and address is not None:
        source.address = UsbHostAddress(bus=bus, device=address)
    else:
        raise Unfit("XML names a USB device by vendor and product, or by bus and number")
    r.usb_address(dev)
    return dev


def _interface(r: Reading) -> Device:
    from qvirt.qemu.importer.networks import read_interface

    return read_interface(r)


_VIRTIO: dict[str, Reader] = {
    "virtio-blk": _virtio_disk,
    "vhost-user-blk": _vhost_user_disk,
    "virtio-scsi": _scsi_controller,
    "virtio-serial": _virtio_serial,
    "virtio-balloon": _balloon,
    "virtio-rng": _rng,
    "virtio-9p": _ninep,
    "virtio-net": _interface,
    "virtio-keyboard": _virtio_input("keyboard"),
    "virtio-mouse": _virtio_input("mouse"),
    "virtio-tablet": _virtio_input("tablet"),
    "virtio-input-host": _virtio_input("passthrough"),
    "virtio-gpu": _video,
    "virtio-gpu-gl": _video,
    "vhost-vsock": _vsock,
}
READERS: dict[str, Reader] = {
    **{f"{name}-{transport}": reader for name, reader in _VIRTIO.items() for transport in ("pci", "device")},
    **{
        f"{name}-pci-{kind}": _VIRTIO[name]
        for name in ("virtio-blk", "virtio-net", "virtio-scsi", "virtio-serial", "virtio-balloon",
                     "virtio-rng", "virtio-9p", "vhost-vsock", "vhost-user-blk")
        for kind in ("transitional", "non-transitional")
    },
    **dict.fromkeys(("ide-hd", "ide-cd", "ide-drive"), _ide),
    **dict.fromkeys(("scsi-hd", "scsi-cd", "scsi-block", "scsi-disk"), _scsi_disk),
    "usb-storage": _usb_disk,
    "floppy": _floppy,
    "pci-bridge": _pci_bridge("pci-bridge"),
    "pcie-root-port": _pci_bridge("pcie-root-port"),
    "ioh3420": _pci_bridge("pcie-root-port"),
    "i82801b11-bridge": _pci_bridge("dmi-to-pci-bridge"),
    "pcie-pci-bridge": _pci_bridge("pcie-to-pci-bridge"),
    "x3130-upstream": _pci_bridge("pcie-switch-upstream-port"),
    "xio3130-downstream": _pci_bridge("pcie-switch-downstream-port"),
    **dict.fromkeys(USB_DEVICES.values(), _usb_controller),
    **dict.fromkeys(("lsi53c895a", *SCSI_DEVICES.values()), _scsi_controller),
    **dict.fromkeys(("ahci", "ich9-ahci"), _ahci),
    "usb-ccid": _ccid,
    "serial-port": _serial_port,
    "isa-serial": _isa_serial,
    **dict.fromkeys(("usb-serial", "pci-serial", "isa-debugcon"), _other_serial),
    "isa-parallel": _parallel,
    "virtserialport": _channel,
    "virtconsole": _console,
    "usb-redir": _redirdev,
    "ccid-card-passthru": _smartcard,
    **dict.fromkeys(_VIDEO, _video),
    "usb-tablet": _usb_input("tablet"),
    "usb-mouse": _usb_input("mouse"),
    "usb-kbd": _usb_input("keyboard"),
    "AC97": _sound("ac97"),
    "ES1370": _sound("es1370"),
    "sb16": _sound("sb16"),
    "pcspk": _sound("pcspk"),
    "usb-audio": _sound("usb"),
    "intel-hda": _sound("ich6"),
    "ich9-intel-hda": _sound("ich9"),
    **dict.fromkeys(("i6300esb", "ib700"), _watchdog),
    "pvpanic": _panic,
    "intel-iommu": _iommu,
    **dict.fromkeys(("pc-dimm", "nvdimm"), _dimm),
    **dict.fromkeys(("tpm-tis", "tpm-crb", "tpm-tis-device"), _tpm),
    "vfio-pci": _vfio,
    "usb-host": _usb_host,
    **dict.fromkeys(
        ("e1000", "e1000e", "e1000-82544gc", "e1000-82545em", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3",
         "i82550", "i82551", "i82557b", "i82559er", "i82562", "i82801", "tulip"),
        _interface,
    ),
}  # fmt: skip
"""How each type of device is read; what is not here has no XML."""
