"""Names exchanged on the way to a QEMU that somebody else started, and back."""

from qvirt.runtime.foreign.renaming import Kind, Name, Names

ANON = "/machine/peripheral-anon/device[3]"


def names() -> Names:
    return Names(
        [
            Name(Kind.DEVICE, "virtio-disk0", ANON),
            Name(Kind.BLOCK, "libvirt-1-format", "#block12", implicit=True),
            Name(Kind.BLOCK, "libvirt-2-format", "qa"),
            Name(Kind.CHARDEV, "charserial0", "con"),
            Name(Kind.NETDEV, "hostnet0", "con"),
            Name(Kind.LINK, "net0", "con"),
            Name(Kind.BUS, "scsi0.0", "scsi.0"),
            Name(Kind.OBJECT, "iothread1", "io"),
            Name(Kind.BLOCK, "same", "same"),
        ]
    )


def test_commands_go_out_in_qemus_names() -> None:
    out = names().outward
    assert out("device_del", {"id": "virtio-disk0"}) == {"id": ANON}
    path = "/machine/peripheral/virtio-disk0/virtio-backend"
    assert out("qom-get", {"path": path, "property": "x"}) == {
        "path": f"{ANON}/virtio-backend",
        "property": "x",
    }
    assert out("chardev-remove", {"id": "charserial0"}) == {"id": "con"}
    assert out("netdev_del", {"id": "hostnet0"}) == {"id": "con"}
    assert out("set_link", {"name": "net0", "up": False}) == {"name": "con", "up": False}
    made = out(
        "device_add", {"driver": "scsi-hd", "id": "new", "bus": "scsi0.0", "drive": "libvirt-2-format"}
    )
    assert made == {"driver": "scsi-hd", "id": "new", "bus": "scsi.0", "drive": "qa"}
    nested = out("blockdev-add", {"node-name": "n", "file": {"driver": "raw", "file": "libvirt-2-format"}})
    assert nested == {"node-name": "n", "file": {"driver": "raw", "file": "qa"}}


def test_what_is_made_anew_has_our_name() -> None:
    known = names()
    known.outward("blockdev-add", {"node-name": "libvirt-2-format"})
    assert known.outward("blockdev-del", {"node-name": "libvirt-2-format"}) == {
        "node-name": "libvirt-2-format"
    }
    assert known.inward({"node-name": "qa"}) == {"node-name": "qa"}


def test_answers_come_in_in_ours() -> None:
    known = names()
    assert known.inward([{"qdev": f"{ANON}/virtio-backend", "inserted": {"node-name": "qa"}}]) == [
        {
            "qdev": "/machine/peripheral/virtio-disk0/virtio-backend",
            "inserted": {"node-name": "libvirt-2-format"},
        }
    ]
    assert known.inward([{"label": "con", "filename": "pty"}]) == [
        {"label": "charserial0", "filename": "pty"}
    ]
    assert known.inward([{"id": "io"}], "query-iothreads") == [{"id": "iothread1"}]
    assert known.inward([{"id": "io"}], "query-memory-devices") == [{"id": "io"}]
    # device[3] is not the beginning of device[30]
    assert known.inward({"path": "/machine/peripheral-anon/device[30]"}) == {
        "path": "/machine/peripheral-anon/device[30]"
    }


def test_a_device_without_id_is_told_of_by_name() -> None:
    known = names()
    assert known.event("DEVICE_DELETED", {"path": ANON}) == {
        "path": "/machine/peripheral/virtio-disk0",
        "device": "virtio-disk0",
    }
    below = known.event("DEVICE_DELETED", {"path": f"{ANON}/virtio-backend"})
    assert "device" not in below


def test_nodes_that_go_with_their_drive() -> None:
    known = names()
    assert not known.goes_by_itself("blockdev-del", {"node-name": "libvirt-2-format"})
    assert known.goes_by_itself("blockdev-del", {"node-name": "libvirt-1-format"})
    assert not known.goes_by_itself("blockdev-del", {"node-name": "libvirt-1-format"})


def test_none_cost_nothing() -> None:
    arguments = {"id": "x"}
    assert not Names()
    assert Names().outward("device_del", arguments) is arguments
    assert "same" not in [name.ours for name in names().listed()]
