"""PCI addresses: where devices go by themselves, what is kept, what is refused."""

import pytest

from qvirt.errors import QvirtError
from qvirt.qemu.addresses.pci import _PLANS
from qvirt.qemu.dialect.ages import age_caps, parse_age
from tests.support.pure import completed
from tests.unit.qemu.addresses.documents import controllers, document, guest, spot

NIC = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='{}'/>{}</interface>"


def nic(model: str = "virtio", address: str = "") -> str:
    return NIC.format(model, address)


def pci(bus: int, slot: int, function: int = 0) -> str:
    return f"<address type='pci' domain='0' bus='{bus}' slot='{slot}' function='{function}'/>"


def test_pc_keeps_slot_1_for_the_chipset_and_slot_2_for_the_first_card() -> None:
    domain = guest(nic() + "<video><model type='vga'/></video>")
    devices = domain.devices
    assert controllers(domain, "usb") == ["0 piix3-uhci 00:01.2"]
    assert spot(devices.videos[0]) == "00:02.0"
    assert spot(devices.interfaces[0]) == "00:03.0"
    assert spot(devices.memballoons[0]) == "00:04.0"


def test_slot_2_goes_to_others_when_there_is_no_card() -> None:
    assert spot(guest(nic()).devices.interfaces[0]) == "00:02.0"


def test_a_card_moves_when_its_slot_is_taken() -> None:
    domain = guest(nic(address=pci(0, 2)) + "<video><model type='vga'/></video>")
    assert spot(domain.devices.videos[0]) == "00:03.0"


def test_q35_gets_a_port_for_each_device_and_one_to_spare() -> None:
    domain = guest(nic(), "q35")
    assert controllers(domain) == [
        "0 pcie-root -",
        "1 pcie-root-port 00:01.0+",
        "2 pcie-root-port 00:01.1",
        "3 pcie-root-port 00:01.2",
        "4 pcie-root-port 00:01.3",
    ]
    assert spot(domain.devices.interfaces[0]) == "01:00.0"
    assert controllers(domain, "usb") == ["0 qemu-xhci 02:00.0"]
    assert controllers(domain, "sata") == ["0 None 00:1f.2"]


def test_no_port_to_spare_once_somebody_manages_the_ports() -> None:
    devices = "<controller type='pci' index='1' model='pcie-root-port'/><memballoon model='none'/>"
    assert controllers(guest(devices, "q35")) == ["0 pcie-root -", "1 pcie-root-port 00:01.0"]


def test_conventional_devices_bring_a_bridge_and_its_port() -> None:
    domain = guest(nic("rtl8139") + "<memballoon model='none'/>", "q35")
    assert controllers(domain)[1:3] == ["1 pcie-root-port 00:01.0+", "2 pcie-to-pci-bridge 01:00.0"]
    assert spot(domain.devices.interfaces[0]) == "02:01.0"


@pytest.mark.parametrize(
    ("model", "conventional"),
    [
        ("virtio", False),
        ("virtio-non-transitional", False),
        ("virtio-transitional", True),
        ("e1000", True),
        ("e1000e", False),
        ("vmxnet3", True),
    ],
)
def test_the_model_decides_between_pci_and_pci_express(model: str, conventional: bool) -> None:
    domain = guest(nic(model), "q35")
    bridges = [line for line in controllers(domain) if "pcie-to-pci-bridge" in line]
    assert bool(bridges) is conventional


def test_ports_fill_the_functions_of_a_slot_before_the_next() -> None:
    domain = guest(nic() * 9, "q35")
    ports = [line.split()[2] for line in controllers(domain) if "root-port" in line]
    assert ports[:9] == [
        "00:01.0+", "00:01.1", "00:01.2", "00:01.3", "00:01.4", "00:01.5", "00:01.6", "00:01.7", "00:02.0+",
    ]  # fmt: skip


def test_a_bridge_comes_when_the_root_bus_is_full() -> None:
    domain = guest(nic() * 40)
    assert [line.split()[1] for line in controllers(domain)] == ["pci-root", "pci-bridge", "pci-bridge"][:2]
    assert len({spot(dev) for dev in domain.devices.interfaces}) == 40


def test_companions_share_the_slot_of_their_controller() -> None:
    models = ("ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3")
    devices = "".join(f"<controller type='usb' model='{model}'/>" for model in models)
    assert controllers(guest(devices), "usb") == [
        "0 ich9-ehci1 00:02.7",
        "0 ich9-uhci1 00:02.0+",
        "0 ich9-uhci2 00:02.1",
        "0 ich9-uhci3 00:02.2",
    ]
    assert controllers(guest(devices, "q35"), "usb")[1] == "0 ich9-uhci1 00:1d.0+"


def test_function_0_is_marked_when_others_are_in_use() -> None:
    domain = guest(nic(address=pci(0, 5, 1)) + nic(address=pci(0, 5, 0)))
    assert [spot(dev) for dev in domain.devices.interfaces] == ["00:05.1", "00:05.0+"]


def test_an_empty_address_asks_for_one() -> None:
    domain = guest(nic(address="<address type='pci'/>"))
    assert spot(domain.devices.interfaces[0]) == "00:02.0"


def test_a_bus_that_is_missing_is_added() -> None:
    domain = guest(nic(address=pci(2, 4)))
    assert [line.split()[1] for line in controllers(domain)] == ["pci-root", "pci-bridge", "pci-bridge"]
    assert spot(domain.devices.interfaces[0]) == "02:04.0"


def test_controllers_record_what_the_guest_sees() -> None:
    devices = "<controller type='pci' index='1' model='pci-expander-bus'/>" + nic(address=pci(2, 1))
    found = {c.index: c for c in guest(devices).devices.controllers if c.type == "pci"}
    assert found[1].target.bus_nr == 254
    assert found[1].pci_model is not None
    assert found[1].pci_model.name == "pxb"
    assert found[2].target.chassis_nr == 2


@pytest.mark.parametrize(
    ("devices", "machine", "message"),
    [
        (nic(address=pci(0, 3)) * 2, "pc", "XML error: Attempted double use of PCI Address 0000:00:03.0"),
        (nic(address=pci(0, 1)), "pc", "XML error: Attempted double use of PCI Address 0000:00:01.0"),
        (
            nic(address=pci(1, 2)),
            "q35",
            "XML error: Invalid PCI address 0000:01:02.0. slot must be <= 0",
        ),
        (
            nic(address="<address type='pci' slot='0x20'/>"),
            "pc",
            "XML error: Invalid PCI address slot='0x20', must be <= 0x1F",
        ),
        (
            nic(address="<address type='pci' domain='1' slot='3'/>"),
            "pc",
            "XML error: Invalid PCI address 0001:00:03.0. Only PCI domain 0 is available",
        ),
        (
            "<controller type='ide' index='0'>" + pci(0, 7) + "</controller>",
            "pc",
            "internal error: Primary IDE controller must have PCI address 0:0:1.1",
        ),
        (
            "<controller type='sata' index='0'>" + pci(0, 7) + "</controller>",
            "q35",
            "internal error: Primary SATA controller must have PCI address 0:0:1f.2",
        ),
        (
            "<controller type='pci' index='1' model='pcie-switch-downstream-port'/>",
            "q35",
            "internal error: a PCI slot is needed to connect a PCI controller "
            "model='pcie-switch-downstream-port', but none is available, and it cannot be automatically "
            "added",
        ),
        (
            "<controller type='pci' index='0' model='pcie-root'/>",
            "pc",
            "XML error: The PCI controller with index='0' must be model='pci-root' for this machine type, "
            "but model='pcie-root' was found instead",
        ),
        (
            "<controller type='pci' index='1' model='pci-bridge'/>" * 2,
            "pc",
            "XML error: Multiple 'pci' controllers with index '1'",
        ),
        ("<sound model='ich6'/>", "isapc", "XML error: No PCI buses available"),
    ],
)
def test_refusals(devices: str, machine: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        guest(devices, machine)
    assert caught.value.message.startswith(message)


def test_an_old_bridge_that_is_added_stands_where_real_ones_do() -> None:
    caps = age_caps(parse_age("2.6"), emulator="/usr/bin/qemu-system-x86_64", target="x86_64")
    devices = nic("rtl8139") + "<controller type='usb' model='none'/><memballoon model='none'/>"
    domain = completed(document(devices, "q35"), caps)
    assert controllers(domain)[1:3] == ["1 dmi-to-pci-bridge 00:1e.0", "2 pci-bridge 01:00.0"]
    assert spot(domain.devices.interfaces[0]) == "02:01.0"


def test_a_plan_made_before_serves_guests_of_its_make_and_no_others() -> None:
    usb2 = "<controller type='usb' index='0' model='ich9-{}'/>"
    group = "".join(usb2.format(part) for part in ("ehci1", "uhci1", "uhci2", "uhci3"))
    makes = [nic(), nic() * 2, nic("rtl8139"), group, nic(address=pci(0, 3)), nic(address=pci(0, 4))]
    for machine in ("pc", "q35"):
        _PLANS.clear()
        first = [guest(devices, machine).to_xml() for devices in makes]
        plans = len(_PLANS)
        assert plans > 1
        assert [guest(devices, machine).to_xml() for devices in makes] == first
        assert len(_PLANS) == plans
        for devices, made in zip(makes, first, strict=True):
            _PLANS.clear()
            assert guest(devices, machine).to_xml() == made
