"""What libvirt has recorded of emulators: it ends a guest whose status file does not say what its QEMU can.

Its own cache has the words; where it never looked at an emulator they follow from what we found, as far as
device types go.
"""

from pathlib import Path
from typing import Final

from lxml import etree

from qvirt.qemu.caps import EmulatorCaps
from qvirt.xml.fields import escape, quoted

#: words that are QEMU's names of types
_TYPES: Final = (
    "VGA", "am53c974", "bochs-display", "cirrus-vga", "dbus-vmstate", "dc390", "e1000", "gpex-pcihost",
    "hda-duplex", "hda-micro", "hda-output", "i8042", "ich9-ahci", "ich9-intel-hda", "ich9-usb-ehci1",
    "input-linux", "intel-iommu", "ioh3420", "iothread", "isa-serial", "ivshmem-doorbell", "ivshmem-plain",
    "mch", "megasas", "memory-backend-memfd", "mptsas1068", "nec-usb-xhci", "nvdimm", "pc-dimm", "pci-bridge",
    "pci-ohci", "pci-serial", "pcie-pci-bridge", "pcie-root-port", "piix3-usb-uhci", "piix4-usb-uhci",
    "pr-manager-helper", "pvpanic", "pvscsi", "pxb", "pxb-pcie", "qemu-xhci", "qxl", "ramfb", "rng-builtin",
    "rng-egd", "rng-random", "rtl8139", "scsi-block", "thread-context", "tpm-crb", "tpm-emulator",
    "tpm-passthrough", "tpm-tis", "usb-audio", "usb-ehci", "usb-hub", "usb-kbd", "usb-redir", "usb-serial",
    "usb-storage", "vfio-pci", "vhost-scsi", "vhost-user-blk", "vhost-user-gpu", "vhost-user-vga",
    "virtio-gpu-gl-pci", "virtio-iommu-pci", "virtio-mem-pci", "virtio-mmio", "virtio-pmem-pci",
    "virtio-scsi-pci", "virtio-vga", "virtio-vga-gl", "vmcoreinfo", "vmgenid", "vmware-svga",
    "x3130-upstream", "xio3130-downstream",
)  # fmt: skip
#: word -> the type whose presence it tells
_MEANT: Final = {
    "dmi-to-pci-bridge": "i82801b11-bridge",
    "lsi": "lsi53c895a",
    "vhost-user-fs": "vhost-user-fs-pci",
    "vhost-vsock": "vhost-vsock-pci",
    "virtio-gpu": "virtio-gpu-pci",
    "virtio-keyboard": "virtio-keyboard-pci",
    "virtio-mouse": "virtio-mouse-pci",
    "virtio-net": "virtio-net-pci",
    "virtio-rng": "virtio-rng-pci",
    "virtio-tablet": "virtio-tablet-pci",
}


class Recorded:
    """The element ``<qemuCaps>`` of status files, by emulator. cache: QEMU's share of the caches."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "capabilities"
        self._known: dict[str, str] = {}

    def known(self, caps: EmulatorCaps) -> str | None:
        """Return an emulator's element if it was made before."""
        return self._known.get(caps.emulator)

    def make(self, caps: EmulatorCaps) -> str:
        """Return an emulator's element. Blocking."""
        words = self._cached(caps) or [
            *(word for word in _TYPES if word in caps.types),
            *(word for word, type in _MEANT.items() if type in caps.types),
        ]
        flags = "".join(f"<flag name='{quoted(word)}'/>" for word in words)
        text = self._known[caps.emulator] = f"<qemuCaps>{flags}</qemuCaps>"
        return text

    def _cached(self, caps: EmulatorCaps) -> list[str]:
        """Return the words of the youngest record for the emulator in its present version."""
        try:
            files = sorted(self._folder.glob("*.xml"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in files:
                with path.open("rb") as file:
                    if f"<emulator>{escape(caps.emulator)}</emulator>".encode() not in file.read(4096):
                        continue
                root = etree.parse(path, etree.XMLParser(resolve_entities=False, no_network=True)).getroot()
                if root.findtext("version") == str(caps.version_number):
                    return [el.get("name", "") for el in root.iterfind("flag")]
        except (OSError, etree.XMLSyntaxError):
            return []  # somebody else's cache, which is being written or thrown away
        return []
