"""What controllers, inputs, host devices, filesystems and platform devices refuse, in libvirt's words."""

import pytest

from qvirt.errors import QvirtError
from tests.unit.qemu.addresses.documents import guest

USB = "<hostdev mode='subsystem' type='usb'><source>{}</source></hostdev>"
PCI = (
    "<hostdev mode='subsystem' type='pci'><driver name='vfio'/><source><address bus='1'/></source>{}"
    "</hostdev>"
)
MDEV = (
    "<hostdev mode='subsystem' type='mdev' model='vfio-pci' {}><source>"
    "<address uuid='53764d0e-85a0-42b4-af5c-2046b460b1dc'/></source></hostdev>"
)
SHARED = "<filesystem {}>{}<source dir='/x'/><target dir='y'/></filesystem>"


@pytest.mark.parametrize(
    ("devices", "machine", "message"),
    [
        ("<controller type='usb' model='x'/>", "pc", "unsupported configuration: Unknown model type 'x'"),
        ("<controller type='sata' model='x'/>", "q35", "unsupported configuration: Unknown model type 'x'"),
        (
            "<controller type='ide' index='0'/>",
            "q35",
            "unsupported configuration: IDE controllers are unsupported for this QEMU binary or machine type",
        ),
        (
            "<controller type='usb' model='qemu-xhci' ports='16'/>",
            "pc",
            "unsupported configuration: 'qemu-xhci' controller only supports up to '15' ports",
        ),
        (
            "<controller type='scsi' model='lsilogic'><driver queues='2'/></controller>",
            "pc",
            "unsupported configuration: 'queues' is only supported by virtio-scsi controller",
        ),
        (
            "<controller type='scsi' model='virtio-scsi'><driver iothread='4'/></controller>",
            "pc",
            "unsupported configuration: controller iothread '4' not defined in iothreadid",
        ),
        (
            "<controller type='virtio-serial'><driver iothread='1'/></controller>",
            "pc",
            "XML error: 'iothread' attribute only supported for virtio scsi controllers",
        ),
        (
            "<controller type='pci' index='1' model='pci-bridge'><target chassisNr='256'/></controller>",
            "pc",
            "unsupported configuration: PCI controller chassisNr '256' out of range - must be 1-255",
        ),
        (
            "<controller type='pci' index='1' model='pci-bridge'><target busNr='5'/></controller>",
            "pc",
            "unsupported configuration: Option 'busNr' is not valid for PCI controller with index '1', "
            "model 'pci-bridge' and modelName 'pci-bridge'",
        ),
        (
            "<controller type='pci' index='1' model='pcie-expander-bus'/>",
            "pc",
            "unsupported configuration: pcie-expander-bus controllers are not supported with this machine "
            "type",
        ),
        ("<input/>", "pc", "internal error: missing input device type"),
        ("<input type='x'/>", "pc", "unsupported configuration: unknown input device type 'x'"),
        (
            "<input type='tablet' bus='ps2'/>",
            "pc",
            "internal error: ps2 bus does not support tablet input device",
        ),
        (
            "<input type='mouse' bus='virtio' model='virtio-transitional'/>",
            "pc",
            "unsupported configuration: virtio (non-)transitional models are not supported for input "
            "type=mouse",
        ),
        ("<hub type='x'/>", "pc", "unsupported configuration: unknown hub device type 'x'"),
        ("<watchdog model='x'/>", "pc", "unsupported configuration: unknown watchdog model 'x'"),
        (
            "<watchdog model='diag288'/>",
            "pc",
            "unsupported configuration: diag288 model of watchdog is allowed for s390 and s390x only",
        ),
        (
            "<panic model='pseries'/>",
            "pc",
            "unsupported configuration: only pSeries guests support panic device of model 'pseries'",
        ),
        (
            "<iommu model='intel'/>",
            "pc",
            "unsupported configuration: IOMMU device: 'intel' is only supported with Q35 machines",
        ),
        (
            "<iommu model='intel'><driver eim='on'/></iommu>",
            "q35",
            "unsupported configuration: IOMMU eim requires interrupt remapping to be enabled",
        ),
        (USB.format("<vendor id='0x1'/>"), "pc", "internal error: missing product"),
        (
            USB.format("<address bus='1' device='2'/>") * 2,
            "pc",
            "XML error: Hostdev already exists in the domain configuration",
        ),
        (
            PCI.format("<address type='usb' bus='0' port='1'/>"),
            "pc",
            "internal error: PCI host devices must use 'pci' or 'unassigned' address type",
        ),
        (
            PCI.format("<rom enabled='no' bar='on'/>"),
            "pc",
            "unsupported configuration: ROM tuning is not supported when ROM is disabled",
        ),
        (
            MDEV.format("display='on'"),
            "pc",
            "unsupported configuration: graphics device is needed for attribute value 'display=on' in "
            "<hostdev>",
        ),
        (
            "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='x'/></hostdev>",
            "pc",
            "XML error: malformed 'wwpn' value",
        ),
        (
            SHARED.format("fmode='600'", ""),
            "pc",
            "unsupported configuration: fmode and dmode must be used with accessmode=mapped",
        ),
        (
            SHARED.format("", "<driver type='virtiofs'/>"),
            "pc",
            "unsupported configuration: 'virtiofs' requires shared memory",
        ),
        ("<filesystem><source dir='/x'/></filesystem>", "pc", "missing target information for device /x"),
        ("<lease><lockspace>s</lockspace></lease>", "pc", "XML error: Missing 'key' element for lease"),
    ],
)
def test_refusals(devices: str, machine: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        guest(devices, machine)
    assert caught.value.message.partition(" (line")[0] == message
