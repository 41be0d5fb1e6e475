"""Devices as elements: for each QEMU type of device, what of it XML can say.

What a reader leaves unsaid is not lost: the finished document is built again, and each property that comes
out otherwise becomes an override (``settle``).
"""

from qvirt.qemu.devices.controller import SCSI_DEVICES, USB_DEVICES
from qvirt.qemu.importer.controllers import (
    pci_bridge,
    read_ahci,
    read_ccid,
    read_scsi_controller,
    read_usb_controller,
    read_virtio_serial,
)
from qvirt.qemu.importer.networks import read_interface
from qvirt.qemu.importer.others import (
    read_balloon,
    read_dimm,
    read_iommu,
    read_ninep,
    read_panic,
    read_rng,
    read_tpm,
    read_usb_host,
    read_vfio,
    read_virtiofs,
    read_vsock,
    read_watchdog,
)
from qvirt.qemu.importer.ports import (
    read_channel,
    read_console,
    read_isa_serial,
    read_other_serial,
    read_parallel,
    read_redirdev,
    read_sclp,
    read_serial_port,
    read_smartcard,
)
from qvirt.qemu.importer.reader import Reader
from qvirt.qemu.importer.screens import VIDEO, read_video, sound, usb_input, virtio_input
from qvirt.qemu.importer.storage import (
    read_floppy,
    read_ide,
    read_scsi_disk,
    read_usb_disk,
    read_vhost_user_disk,
    read_virtio_disk,
)

_VIRTIO: dict[str, Reader] = {
    "virtio-blk": read_virtio_disk,
    "vhost-user-blk": read_vhost_user_disk,
    "virtio-scsi": read_scsi_controller,
    "virtio-serial": read_virtio_serial,
    "virtio-balloon": read_balloon,
    "virtio-rng": read_rng,
    "virtio-9p": read_ninep,
    "virtio-net": read_interface,
    "virtio-keyboard": virtio_input("keyboard"),
    "virtio-mouse": virtio_input("mouse"),
    "virtio-tablet": virtio_input("tablet"),
    "virtio-input-host": virtio_input("passthrough"),
    "virtio-gpu": read_video,
    "virtio-gpu-gl": read_video,
    "vhost-vsock": read_vsock,
    "vhost-user-fs": read_virtiofs,
}
READERS: dict[str, Reader] = {
    **{
        f"{name}-{transport}": reader
        for name, reader in _VIRTIO.items()
        for transport in ("pci", "ccw", "device")
    },
    **{
        f"{name}-pci-{kind}": _VIRTIO[name]
        for name in ("virtio-blk", "virtio-net", "virtio-scsi", "virtio-serial", "virtio-balloon",
                     "virtio-rng", "virtio-9p", "vhost-vsock", "vhost-user-blk")
        for kind in ("transitional", "non-transitional")
    },
    **dict.fromkeys(("ide-hd", "ide-cd", "ide-drive"), read_ide),
    **dict.fromkeys(("scsi-hd", "scsi-cd", "scsi-block", "scsi-disk"), read_scsi_disk),
    "usb-storage": read_usb_disk,
    "floppy": read_floppy,
    "pci-bridge": pci_bridge("pci-bridge"),
    "pcie-root-port": pci_bridge("pcie-root-port"),
    "ioh3420": pci_bridge("pcie-root-port"),
    "i82801b11-bridge": pci_bridge("dmi-to-pci-bridge"),
    "pcie-pci-bridge": pci_bridge("pcie-to-pci-bridge"),
    "x3130-upstream": pci_bridge("pcie-switch-upstream-port"),
    "xio3130-downstream": pci_bridge("pcie-switch-downstream-port"),
    **dict.fromkeys(USB_DEVICES.values(), read_usb_controller),
    **dict.fromkeys(("lsi53c895a", *SCSI_DEVICES.values()), read_scsi_controller),
    **dict.fromkeys(("ahci", "ich9-ahci"), read_ahci),
    "usb-ccid": read_ccid,
    "serial-port": read_serial_port,
    "isa-serial": read_isa_serial,
    **dict.fromkeys(("sclpconsole", "sclplmconsole"), read_sclp),
    **dict.fromkeys(("usb-serial", "pci-serial", "isa-debugcon"), read_other_serial),
    "isa-parallel": read_parallel,
    "virtserialport": read_channel,
    "virtconsole": read_console,
    "usb-redir": read_redirdev,
    "ccid-card-passthru": read_smartcard,
    **dict.fromkeys(VIDEO, read_video),
    "usb-tablet": usb_input("tablet"),
    "usb-mouse": usb_input("mouse"),
    "usb-kbd": usb_input("keyboard"),
    "AC97": sound("ac97"),
    "ES1370": sound("es1370"),
    "sb16": sound("sb16"),
    "pcspk": sound("pcspk"),
    "usb-audio": sound("usb"),
    "intel-hda": sound("ich6"),
    "ich9-intel-hda": sound("ich9"),
    **dict.fromkeys(("i6300esb", "ib700"), read_watchdog),
    "pvpanic": read_panic,
    "intel-iommu": read_iommu,
    **dict.fromkeys(("pc-dimm", "nvdimm"), read_dimm),
    **dict.fromkeys(("tpm-tis", "tpm-crb", "tpm-tis-device"), read_tpm),
    "vfio-pci": read_vfio,
    "usb-host": read_usb_host,
    **dict.fromkeys(
        ("e1000", "e1000e", "e1000-82544gc", "e1000-82545em", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3",
         "i82550", "i82551", "i82557b", "i82559er", "i82562", "i82801", "tulip"),
        read_interface,
    ),
}  # fmt: skip
"""How each type of device is read; what is not here has no XML."""
