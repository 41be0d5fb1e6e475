"""Disks in QEMU's words, beyond what the golden documents show."""

import json
from contextlib import nullcontext

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, InvalidArg, NoStoragePool, QvirtError
from qvirt.model.domain import Domain
from qvirt.model.storage_chain import BackingStore
from qvirt.qemu.context import BuildContext, HostFacts, Launch
from qvirt.qemu.devices.base import FileResource, handler, relabelling
from qvirt.qemu.devices.blockdev import number_images, storage_node, top_node
from qvirt.qemu.devices.disk import FRONTEND, device_props, qom_name, throttle
from qvirt.qemu.devices.vfio import wanted_by
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import Switch
from tests.support.pure import completed, context


def guest(devices: str, launch: Launch | None = None, arch: str = "x86_64") -> BuildContext:
    domain: Domain = completed(
        f"<domain type='qemu'><name>guest</name><memory>262144</memory><vcpu>1</vcpu><os>"
        f"<type arch='{arch}' machine='pc'>hvm</type></os><devices>{devices}</devices></domain>"
    )
    ctx = context(domain)
    if launch is not None:
        ctx.launch = launch
    assign_aliases(domain, ctx)
    return ctx


def switches(ctx: BuildContext, disk: int = 0) -> list[Switch]:
    dev = ctx.domain.devices.disks[disk]
    return list(handler(dev).switches(dev, ctx))


def nodes(ctx: BuildContext) -> list[dict[str, object]]:
    return [json.loads(switch.to_argv()[1]) for switch in switches(ctx) if switch.option == "blockdev"]


def disk(inside: str, attributes: str = "", target: str = "<target dev='vda'/>") -> str:
    return f"<disk {attributes}>{inside}{target}</disk>"


class Vault(Launch):
    """A launch that knows one secret, and seals by turning round."""

    def secret(self, usage_type: str, uuid: str | None, usage: str | None) -> bytes:
        return f"{usage_type}/{uuid or usage}".encode()

    def seal(self, value: bytes) -> tuple[str, str]:
        return value.decode()[::-1], "iv"


@pytest.mark.parametrize(
    ("inside", "attributes", "sealed"),
    [
        (
            "<source file='/x'><encryption format='luks'><secret type='passphrase' usage='u'/></encryption>"
            "</source>",
            "",
            {"libvirt-1-format-encryption-secret0": "volume/u"},
        ),
        (
            "<auth username='me'><secret type='ceph' usage='u'/></auth><source protocol='rbd' name='p/i'/>",
            "type='network'",
            {"libvirt-1-storage-auth-secret0": "ceph/u"},
        ),
        (
            "<source protocol='http' name='i'><host name='h'/><cookies><cookie name='a'>1</cookie>"
            "<cookie name='b'>2</cookie></cookies></source>",
            "type='network'",
            {"libvirt-1-storage-httpcookie-secret0": "a=1; b=2"},
        ),
    ],
)
def test_secrets_go_sealed_and_before_their_user(
    inside: str, attributes: str, sealed: dict[str, str]
) -> None:
    made = switches(guest(disk(inside, attributes), Vault()))
    objects = {}
    used = ""
    for switch in made:
        props = json.loads(switch.to_argv()[1])
        if switch.option == "object":
            assert props["id"] not in used, "a secret must be there before the node that names it"
            objects[props["id"]] = props["data"][::-1]
        used += switch.to_argv()[1] if switch.option == "blockdev" else ""
    assert objects == sealed
    for name, value in sealed.items():
        assert name in used
        assert value not in used


def test_end_of_a_chain_is_said_as_null() -> None:
    inside = "<driver type='qcow2'/><source file='/x'/>{}"
    open_, ended = guest(disk(inside.format(""))), guest(disk(inside.format("<backingStore/>")))
    assert "backing" not in nodes(open_)[-1]
    assert nodes(ended)[-1]["backing"] is None
    (blockdev,) = [s for s in switches(ended) if "-format" in s.to_argv()[1] and s.option == "blockdev"]
    assert '"backing":null' in blockdev.to_argv()[1]


def test_raw_image_has_nothing_below() -> None:
    ctx = guest(
        disk(
            "<source file='/x'/><backingStore type='file'><format type='raw'/><source file='/y'/>"
            "</backingStore>"
        )
    )
    with pytest.raises(ConfigUnsupported, match="storage format 'raw' does not support backing store"):
        switches(ctx)


def test_numbers_go_on_after_those_given() -> None:
    ctx = guest(disk("<source file='/x'/>") + disk("<source file='/y'/>", "", "<target dev='vdb'/>"))
    first, second = ctx.domain.devices.disks
    assert (top_node(first), top_node(second)) == ("libvirt-2-format", "libvirt-1-format")
    assert number_images([first, second], 9) == 9
    first.backing_store = BackingStore()
    assert [storage_node(image) for image in first.images()] == ["libvirt-2-storage"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("<source protocol='nbd'/>", InternalError, "nbd protocol accepts only one host"),
        ("<source protocol='nbd'><host name='a'/><host name='b'/></source>", InternalError, "only one host"),
        ("<source protocol='vxhs' name='x'><host name='a'/></source>", ConfigUnsupported, "VxHS"),
        (
            "<source protocol='rbd' name='p/i' tls='yes'/>",
            ConfigUnsupported,
            "TLS transport is not supported",
        ),
        (
            "<source protocol='gluster' name='v/i'><host name='h' transport='rdma'/></source>",
            InternalError,
            "transport protocol 'rdma' is not yet supported",
        ),
        ("<source protocol='iscsi' name='iqn/abc'><host name='h'/></source>", InternalError, "lunStr 'iqn'"),
    ],
)
def test_network_sources_that_define_but_do_not_start(
    source: str, error: type[QvirtError], message: str
) -> None:
    ctx = guest(disk(source, "type='network'"))
    with pytest.raises(error, match=message):
        switches(ctx)


def test_descriptor_groups_need_somebody_who_hands_them_over() -> None:
    ctx = guest(disk("<source file='/x' fdgroup='g'/>"))
    with pytest.raises(InvalidArg, match="group 'g' was not associated"):
        switches(ctx)


def test_a_volume_must_be_looked_up_unless_it_may_be_missing() -> None:
    said = "<source pool='p' volume='v'{}/>"
    with pytest.raises(NoStoragePool, match="no storage pool with matching name 'p'"):
        switches(guest(disk(said.format(""), "type='volume'")))
    assert switches(guest(disk(said.format(" startupPolicy='optional'"), "type='volume'"))) == []


@pytest.mark.parametrize(
    ("attributes", "target", "name"),
    [
        ("", "<target dev='vda'/>", "/machine/peripheral/virtio-disk0/virtio-backend"),
        ("", "<target dev='sda' bus='usb'/>", "/machine/peripheral/usb-disk0/usb-disk0.0/legacy[0]"),
        ("", "<target dev='hda'/>", "ide0-0-0"),
        ("device='floppy'", "<target dev='fda'/>", "fdc0-0-0"),
    ],
)
def test_monitor_commands_name_the_device_that_has_the_backend(
    attributes: str, target: str, name: str
) -> None:
    ctx = guest(disk("<source file='/x'/>", attributes, target))
    assert qom_name(ctx.domain.devices.disks[0]) == name


def test_limits_are_set_on_a_running_qemu() -> None:
    tune = "<iotune><read_bytes_sec>5</read_bytes_sec><read_bytes_sec_max>9</read_bytes_sec_max>{}</iotune>"
    ctx = guest(disk("<source file='/x'/>" + tune.format("<group_name>g</group_name>")))
    assert throttle(ctx.domain.devices.disks[0]) == {
        "id": "/machine/peripheral/virtio-disk0/virtio-backend",
        "bps": 0,
        "bps_rd": 5,
        "bps_wr": 0,
        "iops": 0,
        "iops_rd": 0,
        "iops_wr": 0,
        "bps_rd_max": 9,
        "group": "g",
    }
    plain = guest(disk("<source file='/x'/>"))
    assert throttle(plain.domain.devices.disks[0]) is None


def test_plain_properties_are_read_back() -> None:
    ctx = guest(
        disk(
            "<source file='/x'/><geometry cyls='4' heads='2' secs='9' trans='lba'/>"
            "<blockio logical_block_size='512'/>"
            "<serial>a b</serial><wwn>5000c50015ea71ad</wwn><shareable/>",
            "",
            "<target dev='hda' rotation_rate='7200'/>",
        )
    )
    (dev,) = ctx.domain.devices.disks
    props = device_props(dev, ctx)
    read = type(dev)()
    FRONTEND.read(read, props)
    assert FRONTEND.render(read, ctx) == FRONTEND.render(dev, ctx)
    assert read.serial == "a b"
    assert read.wwn == "5000c50015ea71ad"
    assert not {"serial", "wwn", "cyls", "rotation_rate"} & set(props)


def test_every_image_and_socket_is_declared() -> None:
    ctx = guest(
        disk(
            "<driver type='qcow2'/><source file='/top'><seclabel relabel='no'/></source>"
            "<backingStore type='block'><format type='raw'/><source dev='/base'/><backingStore/>"
            "</backingStore>"
        )
        + disk(
            "<source protocol='nbd'><host transport='unix' socket='/nbd'/></source>",
            "type='network'",
            "<target dev='vdb'/>",
        )
    )
    declared = [
        (resource.path, resource.writable, resource.shared, relabelling(resource, "dac")[0])
        for dev in ctx.domain.devices.disks
        for resource in handler(dev).resources(dev, ctx)
        if isinstance(resource, FileResource)
    ]
    assert declared == [
        ("/top", True, False, False),
        ("/base", False, True, True),
        ("/nbd", True, True, False),
    ]


def test_an_nvme_disk_is_a_function_of_the_host() -> None:
    document = "<source type='pci' managed='yes' namespace='1'><address bus='0x01'/></source>"
    ctx = guest(disk(document, "type='nvme'"))
    ctx.host = HostFacts(iommu_group={"0000:01:00.0": "7"}.get)
    (dev,) = ctx.domain.devices.disks
    assert [(one.name, one.managed) for one in wanted_by(dev)] == [("0000:01:00.0", True)]
    nodes = [one for one in handler(dev).resources(dev, ctx) if isinstance(one, FileResource)]
    assert [(one.path, one.late) for one in nodes] == [("/dev/vfio/vfio", False), ("/dev/vfio/7", True)]
    handler(dev).prepare(dev, ctx)


@pytest.mark.parametrize("queues", [1024, 1025])
def test_a_disk_with_more_queues_than_qemu_has_is_not_given_to_it(queues: int) -> None:
    ctx = guest(disk(f"<driver name='qemu' queues='{queues}'/><source file='/d'/>"))
    (dev,) = ctx.domain.devices.disks
    with pytest.raises(ConfigUnsupported, match="asks for 1025 queues") if queues > 1024 else nullcontext():
        handler(dev).prepare(dev, ctx)
