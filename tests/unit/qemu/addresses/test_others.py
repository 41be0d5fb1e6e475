"""Drive, virtio serial, memory slot and other addresses."""

import pytest

from qvirt.errors import QvirtError
from qvirt.model.devices.address import (
    CcwAddress,
    DimmAddress,
    DriveAddress,
    PciAddress,
    SpaprVioAddress,
    VirtioMmioAddress,
    VirtioSerialAddress,
)
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.drive import disk_index
from tests.support.pure import completed
from tests.unit.qemu.addresses.documents import controllers, guest


def disk(target: str, bus: str, address: str = "") -> str:
    device = "floppy" if bus == "fdc" else "disk"
    return (
        f"<disk type='file' device='{device}'><source file='/{target}'/>"
        f"<target dev='{target}' bus='{bus}'/>{address}</disk>"
    )


def channel(name: str, address: str = "") -> str:
    return f"<channel type='pty'><target type='virtio' name='{name}'/>{address}</channel>"


def drive(dev: Device) -> tuple[int | None, ...]:
    where = dev.address
    assert isinstance(where, DriveAddress)
    return (where.controller, where.bus, where.target, where.unit)


def port(dev: Device) -> tuple[int | None, int | None]:
    where = dev.address
    assert isinstance(where, VirtioSerialAddress)
    return (where.controller, where.port)


@pytest.mark.parametrize(
    ("name", "index"),
    [("vda", 0), ("vdz", 25), ("vdaa", 26), ("sdab1", 27), ("hdc", 2), ("foo", -1), ("vd", -1)],
)
def test_target_names_stand_for_numbers(name: str, index: int) -> None:
    assert disk_index(name) == index


@pytest.mark.parametrize(
    ("target", "bus", "machine", "expected"),
    [
        ("hda", "ide", "pc", (0, 0, 0, 0)),
        ("hdd", "ide", "pc", (0, 1, 0, 1)),
        ("sdh", "scsi", "pc", (1, 0, 0, 0)),
        ("sdg", "sata", "q35", (1, 0, 0, 0)),
        ("fdb", "fdc", "pc", (0, 0, 0, 1)),
    ],
)
def test_disks_sit_where_their_names_say(
    target: str, bus: str, machine: str, expected: tuple[int, ...]
) -> None:
    domain = guest(disk(target, bus), machine)
    assert drive(domain.devices.disks[0]) == expected
    assert controllers(domain, bus)[-1].startswith(str(expected[0]))


def test_scsi_host_devices_take_what_the_disks_leave() -> None:
    hostdev = (
        "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/>"
        "<address bus='0' target='0' unit='0'/></source></hostdev>"
    )
    domain = guest(hostdev + disk("sda", "scsi") + disk("sdc", "scsi"))
    assert drive(domain.devices.hostdevs[0]) == (0, 0, 0, 1)


def test_channels_begin_with_port_1() -> None:
    domain = guest(channel("a") + channel("b"))
    assert [port(dev) for dev in domain.devices.channels] == [(0, 1), (0, 2)]


def test_a_full_virtio_serial_controller_gets_company() -> None:
    domain = guest("<controller type='virtio-serial' ports='2'/>" + channel("a") + channel("b"))
    assert [port(dev) for dev in domain.devices.channels] == [(0, 1), (1, 1)]
    assert [line.split()[0] for line in controllers(domain, "virtio-serial")] == ["0", "1"]


def test_consoles_that_name_the_bus_are_counted() -> None:
    console = "<console type='pty'><target type='virtio'/><address type='virtio-serial'/></console>"
    domain = guest("<console type='pty'><target type='virtio'/></console>" + console + channel("a"))
    assert port(domain.devices.channels[0]) == (0, 2)


MODULE = "<memory model='dimm'><target><size unit='MiB'>256</size><node>0</node></target>{}</memory>"
NUMA = (
    "<maxMemory slots='2' unit='GiB'>4</maxMemory>",
    "<cpu><numa><cell id='0' cpus='0-1' memory='512' unit='MiB'/></numa></cpu>",
)


def test_memory_modules_take_free_slots() -> None:
    modules = MODULE.format("") + MODULE.format("<address type='dimm' slot='0'/>")
    found = [dev.address for dev in guest(modules, more="".join(NUMA)).devices.memory]
    assert [where.slot for where in found if isinstance(where, DimmAddress)] == [1, 0]


@pytest.mark.parametrize(
    ("devices", "more", "message"),
    [
        (
            channel("a", "<address type='virtio-serial' controller='0' bus='0' port='1'/>") * 2,
            "",
            "XML error: virtio serial port 1 on controller 0 is already occupied",
        ),
        (
            "<controller type='virtio-serial' ports='2'/>"
            + channel("a", "<address type='virtio-serial' controller='0' bus='0' port='2'/>"),
            "",
            "XML error: virtio serial controller 0 does not have port 2",
        ),
        (
            MODULE.format("<address type='dimm' slot='2'/>"),
            "".join(NUMA),
            "unsupported configuration: memory device slot '2' exceeds slots count '2'",
        ),
        (
            MODULE.format("<address type='dimm' slot='1'/>") * 2,
            "".join(NUMA),
            "unsupported configuration: memory device slot '1' is already being used by another memory "
            "device",
        ),
        (
            "<sound model='ich6'><address type='unassigned'/></sound>",
            "",
            "unsupported configuration: address of type 'unassigned' is supported only for hostdevs",
        ),
        (
            "<sound model='ich6'><address type='foo'/></sound>",
            "",
            "unsupported configuration: unknown address type 'foo'",
        ),
        (
            "<sound model='ich6'><address slot='4'/></sound>",
            "",
            "internal error: No type specified for device address",
        ),
    ],
)
def test_refusals(devices: str, more: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        guest(devices, more=more)
    assert caught.value.message.startswith(message)


def other(arch: str, machine: str, devices: str) -> Domain:
    return completed(
        f"<domain type='qemu'><name>guest</name><memory unit='MiB'>512</memory><os>"
        f"<type arch='{arch}' machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    )


VIRTIO = (
    "<disk type='file'><source file='/x'/><target dev='vda' bus='virtio'/></disk>"
    "<interface type='user'><model type='virtio'/>{}</interface><memballoon model='virtio'/>"
)


def test_virtio_devices_of_s390_are_in_the_channel_subsystem() -> None:
    domain = other("s390x", "s390-ccw-virtio", VIRTIO.format(""))
    found = [*domain.devices.disks, *domain.devices.interfaces, *domain.devices.memballoons]
    assert [dev.address for dev in found] == [CcwAddress(cssid=0xFE, ssid=0, devno=n) for n in range(3)]


def test_pci_functions_of_s390_have_identifiers() -> None:
    domain = other("s390x", "s390-ccw-virtio", VIRTIO.format("<address type='pci'/>"))
    where = domain.devices.interfaces[0].address
    assert isinstance(where, PciAddress)
    assert where.zpci is not None
    assert (where.slot, where.zpci.uid, where.zpci.fid) == (1, 1, 0)


def test_boards_keep_to_memory_mapped_slots_once_one_is_used() -> None:
    mapped = VIRTIO.format("<address type='virtio-mmio'/>")
    disk = other("aarch64", "virt", mapped).devices.disks[0]
    assert isinstance(disk.address, VirtioMmioAddress)
    assert isinstance(other("aarch64", "virt", VIRTIO.format("")).devices.disks[0].address, PciAddress)


def test_pseries_has_a_bus_of_its_own() -> None:
    domain = other("ppc64", "pseries", "<serial type='pty'/><serial type='pty'/>")
    assert [dev.address for dev in domain.devices.serials] == [
        SpaprVioAddress(reg=0x30000000),
        SpaprVioAddress(reg=0x30001000),
    ]
