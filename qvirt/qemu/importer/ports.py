"""Serial and parallel ports, channels, consoles, and what else is a character device in front."""

from qvirt.model.devices.address import (
    IsaAddress,
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
from qvirt.model.devices.device import Device
from qvirt.model.devices.redirdev import Redirdev
from qvirt.model.devices.smartcard import Smartcard
from qvirt.qemu.importer.chars import take_chardev
from qvirt.qemu.importer.parts import Unfit
from qvirt.qemu.importer.reader import Reading


def read_serial_port(r: Reading) -> Device:
    """A port of ``-serial``: the machine's own kind."""
    dev = Serial()
    place = r.part.number("index") or 0
    if r.line.family == "s390":
        return _sclp(r, ("sclpconsole", "sclplmconsole")[place] if place < 2 else "")
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


def read_sclp(r: Reading) -> Device:
    return _sclp(r, r.part.driver)


def _sclp(r: Reading, model: str) -> Device:
    """A mainframe's consoles: one that shows lines, one that is a terminal."""
    if not model or not r.buses.take("sclp", model):
        raise Unfit("a mainframe has one console of each kind")
    dev = Serial(target=SerialTarget(type="sclp-serial", port=len(r.line.domain.devices.serials)))
    dev.target.model.name = model
    r.used += take_chardev(r.line, r.part, dev)
    return dev


def read_isa_serial(r: Reading) -> Device:
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


def read_other_serial(r: Reading) -> Device:
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


def read_parallel(r: Reading) -> Device:
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


def read_channel(r: Reading) -> Device:
    dev = Channel(target=ChannelTarget(type="virtio", name=r.part.text("name")))
    r.used += take_chardev(r.line, r.part, dev)
    dev.address = _port(r, False)
    return dev


def read_console(r: Reading) -> Device:
    dev = Console(target=ConsoleTarget(type="virtio"))
    r.used += take_chardev(r.line, r.part, dev)
    dev.address = _port(r, True)
    if not r.line.domain.devices.serials and not r.line.domain.devices.consoles:
        dev.target.port = 0
    return dev


def read_redirdev(r: Reading) -> Device:
    dev = Redirdev(bus="usb")
    r.used += take_chardev(r.line, r.part, dev)
    r.usb_address(dev)
    r.common(dev)
    return dev


def read_smartcard(r: Reading) -> Device:
    r.buses.find(r.part, "ccid")
    dev = Smartcard(mode="passthrough")
    r.used += take_chardev(r.line, r.part, dev)
    return dev
