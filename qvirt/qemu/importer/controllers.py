"""Controllers: PCI bridges, USB, SCSI, SATA, virtio-serial, card readers."""

from qvirt.model.devices.controller import (
    Controller,
    ControllerDriver,
    ControllerType,
    Master,
    PciControllerModel,
    PciControllerTarget,
)
from qvirt.model.devices.device import Device
from qvirt.qemu.devices.controller import SCSI_DEVICES, USB_DEVICES
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS
from qvirt.qemu.importer.buses import Bus, Buses, PciBus
from qvirt.qemu.importer.parts import Part, Unfit, integer
from qvirt.qemu.importer.reader import Reader, Reading, iothread


def pci_bridge(model: str) -> Reader:
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


def read_usb_controller(r: Reading) -> Device:
    model = next(name for name, device in USB_DEVICES.items() if device == r.part.driver)
    dev = Controller(type=ControllerType.USB, model=model)
    master = r.part.text("masterbus")
    dev.address = r.buses.place_pci(r.part)
    if master is not None:
        bus = r.buses.named(master)
        if bus is None:
            raise Unfit(f"its master '{master}' is not in the XML")
        dev.index = bus.controller
        r.line.wanted.add(master.rpartition(".")[0])  # the guest's USB bus keeps its name
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


def read_scsi_controller(r: Reading) -> Device:
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


def read_virtio_serial(r: Reading) -> Device:
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


def read_ahci(r: Reading) -> Device:
    dev = Controller(type=ControllerType.SATA)
    dev.address = r.buses.place_pci(r.part)
    dev.index = r.buses.next("sata")
    for number in range(6):
        r.buses.others[f"{r.part.id or f'ahci{dev.index}'}.{number}"] = Bus("sata", dev.index, number)
    return dev


def read_ccid(r: Reading) -> Device:
    dev = Controller(type=ControllerType.CCID)
    r.usb_address(dev)
    dev.index = r.buses.next("ccid")
    r.buses.others[f"{r.part.id or 'ccid-bus'}.0"] = Bus("ccid", dev.index)
    return dev
