"""USB devices are found in sysfs by what they are and where they are."""

from pathlib import Path

import pytest

from qvirt.errors import InternalError, OperationFailed
from qvirt.host.usb import UsbDevice, find, list_devices
from qvirt.model.devices import parse_device
from qvirt.model.devices.hostdev import Hostdev

TWINS = [UsbDevice(1, 9, 0x1234, 0xBEEF), UsbDevice(2, 3, 0x1234, 0xBEEF)]
OTHER = UsbDevice(2, 10, 0xABCD, 1)
KIND = "<vendor id='0x1234'/><product id='0xbeef'/>"


def meant(source: str) -> Hostdev:
    dev = parse_device(f"<hostdev mode='subsystem' type='usb'><source>{source}</source></hostdev>")
    assert isinstance(dev, Hostdev)
    return dev


def test_list(tmp_path: Path) -> None:
    assert list_devices(tmp_path) == []
    folder = tmp_path / "sys/bus/usb/devices"
    for one in (OTHER, *TWINS):
        entry = folder / f"{one.bus}-{one.device}"
        entry.mkdir(parents=True)
        for name, text in (("busnum", one.bus), ("devnum", one.device)):
            (entry / name).write_text(f"{text}\n")
        (entry / "idVendor").write_text(f"{one.vendor:04x}\n")
        (entry / "idProduct").write_text(f"{one.product:04x}\n")
    (folder / "2-10:1.0").mkdir()
    (folder / "3-1").mkdir()  # being pulled out
    assert list_devices(tmp_path) == [*TWINS, OTHER]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("<vendor id='0xabcd'/><product id='0x0001'/>", OTHER),
        ("<address bus='1' device='9'/>", TWINS[0]),
        (KIND + "<address bus='2' device='3'/>", TWINS[1]),
    ],
)
def test_find(source: str, found: UsbDevice) -> None:
    assert find(meant(source), [*TWINS, OTHER]) == found


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        (KIND, OperationFailed, "Multiple USB devices for 1234:beef, use <address> to specify one"),
        (KIND + "<address bus='2' device='10'/>", InternalError, "device 1234:beef bus:2 device:10"),
        ("<address bus='9' device='9'/>", InternalError, "Did not find USB device bus:9 device:9"),
    ],
)
def test_not_found(source: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        find(meant(source), [*TWINS, OTHER])
