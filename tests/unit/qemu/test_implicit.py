"""Devices that are there without being asked for, by machine."""

import pytest

from qvirt.errors import QvirtError
from qvirt.model.domain import Domain
from tests.support.pure import completed
from tests.unit.qemu.addresses.documents import UUID, guest


def other(arch: str, machine: str, devices: str = "") -> Domain:
    """Return a guest of another architecture."""
    return completed(
        f"<domain type='qemu'><name>guest</name><uuid>{UUID}</uuid><memory unit='MiB'>512</memory>"
        f"<os><type arch='{arch}' machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    )


def shown(domain: Domain) -> dict[str, list[str]]:
    devices = domain.devices
    return {
        "controllers": [f"{c.type} {c.index} {c.model}" for c in devices.controllers],
        "inputs": [f"{dev.type} {dev.bus}" for dev in devices.inputs],
        "balloon": [dev.model for dev in devices.memballoons],
        "panic": [str(dev.model) for dev in devices.panics],
    }


def test_pc() -> None:
    assert shown(guest("")) == {
        "controllers": ["usb 0 piix3-uhci", "pci 0 pci-root"],
        "inputs": ["mouse ps2", "keyboard ps2"],
        "balloon": ["virtio"],
        "panic": [],
    }


def test_q35() -> None:
    found = shown(guest("<memballoon model='none'/>", "q35"))
    assert found["controllers"][:3] == ["usb 0 qemu-xhci", "sata 0 None", "pci 0 pcie-root"]


def test_pseries() -> None:
    found = shown(other("ppc64", "pseries"))
    assert found["controllers"] == ["usb 0 qemu-xhci", "pci 0 pci-root"]
    assert found["inputs"] == []
    assert found["panic"] == ["pseries"]


def test_s390() -> None:
    found = shown(other("s390x", "s390-ccw-virtio"))
    assert found["controllers"] == ["pci 0 pci-root"]
    assert found["panic"] == ["s390"]


def test_arm_board() -> None:
    assert "pci 0 pcie-root" in shown(other("aarch64", "virt"))["controllers"]


@pytest.mark.parametrize(
    ("devices", "controller"),
    [
        ("<disk type='file'><source file='/x'/><target dev='sdi' bus='scsi'/></disk>", "scsi 1 lsilogic"),
        (
            "<disk type='file' device='floppy'><source file='/x'/><target dev='fda' bus='fdc'/></disk>",
            "fdc 0 None",
        ),
        ("<channel type='pty'><target type='virtio' name='a'/></channel>", "virtio-serial 0 None"),
        ("<smartcard mode='host'/>", "ccid 0 None"),
    ],
)
def test_devices_bring_their_controllers(devices: str, controller: str) -> None:
    assert controller in shown(guest(devices))["controllers"]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            "<memballoon model='none'/>" * 2,
            "internal error: only a single memory balloon device is supported",
        ),
        ("<watchdog model='ib700'/>" * 2, "internal error: only a single watchdog device is supported"),
        ("<panic model='isa'/>" * 2, "XML error: Multiple panic devices with model 'isa'"),
    ],
)
def test_some_devices_come_alone(devices: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        guest(devices)
    assert caught.value.message == message
