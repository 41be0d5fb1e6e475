"""``<devices>``: every device kind, one file each, in libvirt's order of output."""

from typing import Any

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.audio import Audio
from qvirt.model.devices.char import Channel, Console, Parallel, Serial, number_isa_ports
from qvirt.model.devices.controller import Controller, insert_controller
from qvirt.model.devices.crypto import Crypto
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk, insert_disk, sort_disks
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.graphics import Graphics
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.devices.hub import Hub
from qvirt.model.devices.input import Input
from qvirt.model.devices.interface import Interface
from qvirt.model.devices.iommu import Iommu
from qvirt.model.devices.lease import Lease
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.memory import Memory
from qvirt.model.devices.nvram import Nvram
from qvirt.model.devices.panic import Panic
from qvirt.model.devices.redirdev import Redirdev, Redirfilter
from qvirt.model.devices.rng import Rng
from qvirt.model.devices.shmem import Shmem
from qvirt.model.devices.smartcard import Smartcard
from qvirt.model.devices.sound import Sound
from qvirt.model.devices.tpm import Tpm
from qvirt.model.devices.video import Video
from qvirt.model.devices.vsock import Vsock
from qvirt.model.devices.watchdog import Watchdog
from qvirt.xml.codecs import string
from qvirt.xml.document import parse_element, read
from qvirt.xml.fields import Children, Field, children, text
from qvirt.xml.node import Node, Reader

#: more than any machine has places for; what is worked out for each pair of devices must end in time
MAX_DEVICES = 4096


class Devices(Node, tag="devices"):
    """All devices of a domain."""

    emulator: str | None = text(string)
    disks: list[Disk] = children(Disk)
    controllers: list[Controller] = children(Controller)
    leases: list[Lease] = children(Lease)
    filesystems: list[Filesystem] = children(Filesystem)
    interfaces: list[Interface] = children(Interface)
    smartcards: list[Smartcard] = children(Smartcard)
    serials: list[Serial] = children(Serial)
    parallels: list[Parallel] = children(Parallel)
    consoles: list[Console] = children(Console)
    channels: list[Channel] = children(Channel)
    inputs: list[Input] = children(Input)
    tpms: list[Tpm] = children(Tpm)
    graphics: list[Graphics] = children(Graphics)
    sounds: list[Sound] = children(Sound)
    audios: list[Audio] = children(Audio)
    videos: list[Video] = children(Video)
    hostdevs: list[Hostdev] = children(Hostdev)
    redirdevs: list[Redirdev] = children(Redirdev)
    redirfilters: list[Redirfilter] = children(Redirfilter)
    hubs: list[Hub] = children(Hub)
    watchdogs: list[Watchdog] = children(Watchdog)
    memballoons: list[Memballoon] = children(Memballoon)
    rngs: list[Rng] = children(Rng)
    nvrams: list[Nvram] = children(Nvram)
    panics: list[Panic] = children(Panic)
    shmems: list[Shmem] = children(Shmem)
    memory: list[Memory] = children(Memory)
    iommus: list[Iommu] = children(Iommu)
    vsocks: list[Vsock] = children(Vsock)
    cryptos: list[Crypto] = children(Crypto)

    def check(self) -> None:
        count = sum(len(self.__dict__[name]) for name in _LISTS if name in self.__dict__)
        if count > MAX_DEVICES:
            raise XmlError(f"a domain of {count} devices is more than the {MAX_DEVICES} that are taken")
        if len(self.disks) > 1:
            self.disks = sort_disks(self.disks)
        number_isa_ports(self.serials)
        if self.consoles and self.serials and self.consoles[0].target.type in (None, "serial"):
            self.consoles[0].forget_own()

    def write_field(self, field: Field, value: Any, out: list[str], indent: str) -> None:
        """Write one list; the console that is the first serial port under another name is written from it."""
        if field.name == "redirfilters" and value:
            value = [known for known in value if known.usbdevs]  # one without rules says nothing
        elif field.name == "consoles" and value and value[0].target.type == "serial" and self.serials:
            Console.of_serial(self.serials[0]).write(out, indent)
            value = value[1:]
        super().write_field(field, value, out, indent)

    def list_of(self, dev: Device) -> list[Device]:
        """Return the list that devices of this kind are in."""
        kin: list[Device] = getattr(self, KINDS[dev.tag][0])
        return kin

    def add(self, dev: Device) -> None:
        """Put a device where libvirt puts it: disks and controllers by their numbers, others at the end."""
        if isinstance(dev, Disk):
            insert_disk(self.disks, dev)
        elif isinstance(dev, Controller):
            insert_controller(self.controllers, dev)
        else:
            self.list_of(dev).append(dev)

    def remove(self, dev: Device) -> None:
        """Take out this very device; harmless when it is not there."""
        kin = self.list_of(dev)
        kin[:] = [known for known in kin if known is not dev]

    def replace(self, old: Device, new: Device) -> None:
        """Put a device in the place of another one of its kind."""
        kin = self.list_of(old)
        kin[:] = [new if known is old else known for known in kin]

    def all(self) -> list[Device]:
        """Return every device, kind by kind, in the order of output."""
        values = self.__dict__
        return [dev for name in _LISTS if name in values for dev in values[name]]


_LISTS = tuple(field.name for field in Devices.fields if isinstance(field, Children))

#: element -> the list its devices are in, their class
KINDS: dict[str, tuple[str, type[Device]]] = {
    field.target.tag: (field.name, field.target)
    for field in Devices.fields
    if isinstance(field, Children) and issubclass(field.target, Device)
}


#: what is a device to no call that attaches, detaches or updates one
_NOT_ALONE = frozenset({"redirfilter"})


def parse_device(text: str, *, names_only: bool = False) -> Device:
    """Read the document of one device.

    names_only: it has to say no more than which device of a domain it means. Raises XmlDetail, XmlError,
    ConfigUnsupported, NoSource.
    """
    source = "(device_definition)"
    root = parse_element(text, source)
    tag = str(root.tag)
    if tag not in KINDS or tag in _NOT_ALONE:
        raise ConfigUnsupported(f"unknown device type '{tag}'", domain=ErrorDomain.DOMAIN)
    return read(root, KINDS[tag][1], source, Reader(names_only=names_only))
