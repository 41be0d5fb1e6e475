"""Devices that come to a running guest: what its document gives them, and what it does not."""

from qvirt.model.devices import parse_device
from qvirt.qemu import plug
from qvirt.qemu.names import assign_aliases
from tests.support.pure import completed, context
from tests.unit.qemu.addresses.documents import document


def test_only_what_is_there_at_boot_is_booted_from() -> None:
    disk = "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
    live = completed(document("<memballoon model='none'/>"))
    ctx = context(live)
    assign_aliases(live, ctx)
    ctx.domain = live.copy()
    devices = plug.place(parse_device(disk), ctx)
    plug.name(devices, ctx)
    plugged = [step.arguments for _, step in plug.steps(devices, ctx) if step.command == "device_add"]
    assert [(props["driver"], "bootindex" in props) for props in plugged] == [("virtio-blk-pci", False)]
    assert [boot.dev for boot in live.os.boots] == ["hd"]
