"""USB ports: which device gets which, and the hubs that are added."""

import pytest

from qvirt.errors import QvirtError
from tests.unit.qemu.addresses.documents import guest, spot

TABLET = "<input type='tablet' bus='usb'>{}</input>"


def tablet(bus: int | None = None, port: str | None = None) -> str:
    if bus is None:
        return TABLET.format("")
    said = f" port='{port}'" if port is not None else ""
    return TABLET.format(f"<address type='usb' bus='{bus}'{said}/>")


def places(devices: str) -> list[str]:
    return [spot(dev) for dev in guest(devices).devices.inputs if dev.bus == "usb"]


def test_ports_are_given_in_order() -> None:
    assert places(tablet() * 2) == ["0/1", "0/2"]


def test_a_hub_comes_when_ports_run_out() -> None:
    domain = guest(tablet() * 3)
    assert [spot(hub) for hub in domain.devices.hubs] == ["0/1"]
    assert [spot(dev) for dev in domain.devices.inputs if dev.bus == "usb"] == ["0/2", "0/1.1", "0/1.2"]


def test_given_ports_are_kept_and_gaps_filled() -> None:
    assert places(tablet() + tablet(0, "1")) == ["0/2", "0/1"]


def test_a_device_may_ask_for_a_bus() -> None:
    devices = "<controller type='usb' index='0'/><controller type='usb' index='1' model='qemu-xhci'/>"
    assert places(devices + tablet(1)) == ["1/1"]


def test_ports_behind_a_hub() -> None:
    hub = "<hub type='usb'><address type='usb' bus='0' port='1'/></hub>"
    assert places(hub + tablet(0, "1.8") + tablet()) == ["0/1.8", "0/2"]


def test_xhci_has_as_many_ports_as_it_says() -> None:
    devices = "<controller type='usb' model='qemu-xhci' ports='8'/>" + tablet() * 8
    domain = guest(devices)
    assert domain.devices.hubs == []


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (tablet(0, "1") * 2, "XML error: Duplicate USB address bus 0 port 1"),
        (tablet(0, "9"), "XML error: requested USB port 9 not present on USB bus 0"),
        (tablet(0, "1.1"), "XML error: there is no hub at port 1 in USB address bus: 0 port: 1.1"),
        (tablet(3, "1"), "XML error: Missing USB bus 3"),
        (tablet(3), "XML error: USB bus 3 requested but no controller with that index is present"),
        (tablet(0, "1.x"), "internal error: Cannot parse <address> 'port' attribute"),
        (
            "<controller type='usb' model='none'/>" + tablet(),
            "unsupported configuration: Can't add USB input device. USB bus is disabled",
        ),
        (
            "<controller type='usb' index='0' model='ich9-uhci2'/>",
            "No master USB controller specified",
        ),
        (
            "<controller type='usb' model='none'/><controller type='usb' index='1'/>",
            "Can't add another USB controller: USB is disabled for this domain",
        ),
    ],
)
def test_refusals(devices: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        guest(devices)
    assert caught.value.message == message
