"""Image headers and backing chains, on files made here."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, SystemError_
from qvirt.host.images import (
    ImageInfo,
    distrust_changed,
    fill_in,
    find_chain,
    identify,
    look_below,
    read_info,
)
from qvirt.model.devices.disk import Disk, DiskDevice, DiskDriver, DiskTarget
from qvirt.model.storage_chain import BackingStore
from qvirt.model.storage_source import StorageSource


def qcow2(
    backing: str | None = None, format: str | None = None, size: int = 1 << 30, version: int = 3
) -> bytes:
    """Return a qcow2 header as qemu-img writes it."""
    extensions = b""
    if format is not None:
        padded = format.encode().ljust((len(format) + 7) & ~7, b"\0")
        extensions += struct.pack(">II", 0xE2792ACA, len(format)) + padded
    extensions += struct.pack(">II", 0, 0)
    start = 104 if version == 3 else 72
    name = (backing or "").encode()
    offset = start + len(extensions) if name else 0
    head = b"QFI\xfb" + struct.pack(">IQIIQI", version, offset, len(name), 16, size, 0)
    head += struct.pack(">IQQIIQ", 0, 0, 0, 0, 0, 0)
    if version == 3:
        head += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    assert len(head) == start
    return (head + extensions + name).ljust(512, b"\0")


def qed(backing: str, raw: bool) -> bytes:
    features = 1 | (4 if raw else 0)
    head = b"QED\0" + struct.pack("<III", 65536, 4, 1) + struct.pack("<QQQQQ", features, 0, 0, 65536, 4096)
    return (head + struct.pack("<II", 64, len(backing)) + backing.encode()).ljust(512, b"\0")


VMDK = b'# Disk DescriptorFile\nversion=1\nparentCID=12345678\nparentFileNameHint="base.vmdk"\n'

CASES = [
    (b"", ImageInfo("raw")),
    (b"\0" * 512, ImageInfo("raw")),
    (b"QFI", ImageInfo("raw")),
    (qcow2(), ImageInfo("qcow2", capacity=1 << 30)),
    (qcow2(version=2), ImageInfo("qcow2", capacity=1 << 30)),
    (qcow2("b.img", "raw"), ImageInfo("qcow2", 1 << 30, "b.img", "raw")),
    (qcow2("b.img", version=2), ImageInfo("qcow2", 1 << 30, "b.img")),
    (qed("b.img", raw=True), ImageInfo("qed", 4096, "b.img", "raw")),
    (qed("b.img", raw=False), ImageInfo("qed", 4096, "b.img")),
    (VMDK, ImageInfo("vmdk", None, "base.vmdk", "vmdk")),
    (VMDK.replace(b"12345678", b"ffffffff"), ImageInfo("vmdk")),
    (b"vhdxfile" + bytes(64), ImageInfo("vhd")),
    (b"conectix" + bytes(40) + struct.pack(">Q", 4096) + bytes(64), ImageInfo("vpc", capacity=4096)),
    (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(300) + struct.pack("<Q", 77), ImageInfo("vdi", capacity=77)),
    (b"LUKS\xba\xbe\0\1" + bytes(64), ImageInfo("raw", encrypted=True)),
]


@pytest.mark.parametrize(("head", "info"), CASES)
def test_identify(head: bytes, info: ImageInfo) -> None:
    assert identify(head) == info


def test_cut_off_headers_are_not_trusted() -> None:
    whole = qcow2("b.img", "raw")
    for length in range(len(whole)):
        identify(whole[:length])  # must not raise
    assert identify(whole[:60]).format == "raw"


def names(store: BackingStore | None) -> list[tuple[str, str, str]]:
    found = []
    while store is not None and not store.is_end:
        assert store.source is not None
        assert store.format is not None
        found.append((str(store.type), store.source.local_path or "", store.format.type))
        store = store.backing_store
    assert store is not None, "the chain must end with the end marker"
    return found


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def chain_of(path: str, format: str = "qcow2") -> list[tuple[str, str, str]]:
    return names(find_chain("file", StorageSource(file=path), format))


def test_chain_is_followed_through_relative_names(tmp_path: Path) -> None:
    base = write(tmp_path / "base.img", bytes(4096))
    middle = write(tmp_path / "middle.qcow2", qcow2("base.img", "raw"))
    (tmp_path / "sub").mkdir()
    top = write(tmp_path / "sub" / "top.qcow2", qcow2("../middle.qcow2", "qcow2"))
    assert chain_of(top) == [("file", middle, "qcow2"), ("file", base, "raw")]


def test_unsaid_format_is_taken_only_when_it_is_raw(tmp_path: Path) -> None:
    write(tmp_path / "raw.img", bytes(4096))
    top = write(tmp_path / "top.qcow2", qcow2("raw.img"))
    assert [format for _, _, format in chain_of(top)] == ["raw"]
    write(tmp_path / "cow.img", qcow2())
    other = write(tmp_path / "other.qcow2", qcow2("cow.img"))
    with pytest.raises(ConfigUnsupported, match="was not specified in the image metadata"):
        chain_of(other)


def test_raw_image_is_not_read_even_if_it_looks_like_qcow2(tmp_path: Path) -> None:
    path = write(tmp_path / "guest-wrote-this.img", qcow2("/etc/passwd", "raw"))
    assert chain_of(path, "raw") == []


def test_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemError_, match=r"Cannot access storage file '/nowhere': No such file"):
        chain_of("/nowhere", "raw")
    top = write(tmp_path / "top.qcow2", qcow2("gone.img", "raw"))
    with pytest.raises(SystemError_, match=r"Cannot access backing file '.*gone.img' of storage file '.*top"):
        chain_of(top)


def test_loop_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.qcow2", qcow2("b.qcow2", "qcow2"))
    write(tmp_path / "b.qcow2", qcow2("a.qcow2", "qcow2"))
    with pytest.raises(InternalError, match="self-referential"):
        chain_of(str(tmp_path / "a.qcow2"))


def test_image_on_a_server_ends_the_search(tmp_path: Path) -> None:
    top = write(tmp_path / "top.qcow2", qcow2("nbd://example.org:6000/export", "raw"))
    store = find_chain("file", StorageSource(file=top), "qcow2")
    assert store.type == "network"
    assert store.source is not None
    assert store.source.protocol == "nbd"
    assert store.source.name == "export"
    assert store.backing_store is not None
    assert store.backing_store.is_end


def disk(path: str, **more: object) -> Disk:
    return Disk(
        source=StorageSource(file=path),
        driver=DiskDriver(name="qemu", type="qcow2"),
        target=DiskTarget(dev="vda", bus="virtio"),
        **more,
    )


def test_completing_keeps_what_the_document_says(tmp_path: Path) -> None:
    write(tmp_path / "base.img", bytes(4096))
    top = write(tmp_path / "top.qcow2", qcow2("base.img", "raw"))
    open_, said, empty = disk(top), disk(top, backing_store=BackingStore()), Disk(device="cdrom")
    fill_in(look_below([open_, said, empty]))
    assert names(open_.backing_store) == [("file", str(tmp_path / "base.img"), "raw")]
    assert said.backing_store is not None
    assert said.backing_store.is_end
    assert empty.backing_store is None


def test_optional_disk_may_be_missing() -> None:
    missing = disk("/nowhere.qcow2")
    with pytest.raises(SystemError_):
        fill_in(look_below([missing]))
    assert missing.source is not None
    missing.source.startup_policy = "optional"
    fill_in(look_below([missing]))
    assert missing.backing_store is None


def test_fifo_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Illegal seek"):
        read_info(str(tmp_path / "fifo"))


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
@pytest.mark.parametrize("format", ["qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_agrees_with_qemu_img(tmp_path: Path, format: str) -> None:
    path = str(tmp_path / "image")
    made = subprocess.run(["qemu-img", "create", "-q", "-f", format, path, "64M"], check=False)
    if made.returncode:
        pytest.skip(f"this qemu-img does not make {format} images")
    info = read_info(path)
    assert info.format == {"vhdx": "vhd", "parallels": "ploop"}.get(format, format)
    # a vpc image is rounded up to whole cylinders
    assert info.capacity in (None, 64 << 20) or format == "vpc"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_reads_what_qemu_img_links(tmp_path: Path) -> None:
    def make(name: str, *more: str) -> str:
        path = str(tmp_path / name)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, path, "64M"], check=True)
        return path

    base = make("base.qcow2")
    middle = make("middle.qcow2", "-b", "base.qcow2", "-F", "qcow2")
    top = make("top.qcow2", "-b", f'json:{{"file":{{"driver":"file","filename":"{middle}"}}}}', "-F", "qcow2")
    assert chain_of(top) == [("file", middle, "qcow2"), ("file", base, "qcow2")]


def disk_of(path: Path) -> Disk:
    return Disk(
        type="file",
        driver=DiskDriver(name="qemu", type="qcow2"),
        source=StorageSource(file=str(path)),
        target=DiskTarget(dev="vda", bus="virtio"),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write trusted attributes")
def test_what_qemu_writes_into_a_header_by_itself_is_not_believed(tmp_path: Path) -> None:
    base, top, secret = (tmp_path / name for name in ("base", "top", "secret"))
    base.write_bytes(bytes(512))
    secret.write_bytes(bytes(512))
    top.write_bytes(qcow2("base", "raw"))
    disk = disk_of(top)
    fill_in(look_below([disk]))
    assert distrust_changed([disk]) == []
    assert find_chain("file", StorageSource(file=str(top)), "qcow2").source is not None
    # the guest has taken its QEMU over
    top.write_bytes(qcow2(str(secret), "raw"))
    (sentence,) = distrust_changed([disk])
    assert str(secret) in sentence
    with pytest.raises(ConfigUnsupported, match="nobody asked for: put it right with 'qemu-img rebase -u'"):
        look_below([disk_of(top)])
    # who names the image in the document is believed, and so is a header put right
    disk = disk_of(top)
    disk.backing_store = BackingStore()
    assert look_below([disk]) == []
    top.write_bytes(qcow2(str(base), "raw"))
    assert look_below([disk_of(top)])[0].below.source is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write trusted attributes")
def test_an_image_of_its_own_that_gets_something_below(tmp_path: Path) -> None:
    top, secret = tmp_path / "top", tmp_path / "secret"
    secret.write_bytes(bytes(512))
    top.write_bytes(qcow2())
    disk = disk_of(top)
    fill_in(look_below([disk]))
    top.write_bytes(qcow2(str(secret), "raw"))
    assert len(distrust_changed([disk])) == 1
    disk = disk_of(top)
    disk.readonly = True  # its owner is QEMU's user all the same
    top.write_bytes(qcow2(str(secret) + "x", "raw"))
    assert len(distrust_changed([disk])) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write trusted attributes")
@pytest.mark.parametrize(
    "then", ["{secret}", "nbd+unix:///?socket={secret}", 'json:{{"driver":"file","filename":"{secret}"}}']
)
@pytest.mark.parametrize("before", ["nbd://example.com/x", "{base}"])
def test_what_is_below_a_server_or_file_becomes_something_of_the_hosts(
    tmp_path: Path, before: str, then: str
) -> None:
    base, top, secret = (tmp_path / name for name in ("base", "top", "secret"))
    base.write_bytes(bytes(512))
    secret.write_bytes(bytes(512))
    top.write_bytes(qcow2(before.format(base=base), "raw"))
    disk = disk_of(top)
    fill_in(look_below([disk]))
    assert distrust_changed([disk]) == []
    top.write_bytes(qcow2(then.format(secret=secret), "raw"))
    assert len(distrust_changed([disk])) == 1
    with pytest.raises(ConfigUnsupported, match="nobody asked for"):
        look_below([disk_of(top)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write trusted attributes")
def test_an_image_below_that_becomes_one_of_another_format(tmp_path: Path) -> None:
    """Both headers are QEMU's user's while the guest runs: the lower one names a file of the host's then."""
    base, top, secret = (tmp_path / name for name in ("base", "top", "secret"))
    for path in (base, secret):
        path.write_bytes(bytes(512))
    top.write_bytes(qcow2(str(base), "raw"))
    disk = disk_of(top)
    fill_in(look_below([disk]))
    base.write_bytes(qcow2(str(secret), "raw"))
    top.write_bytes(qcow2(str(base), "qcow2"))
    assert len(distrust_changed([disk])) == 1
    with pytest.raises(ConfigUnsupported, match="nobody asked for"):
        look_below([disk_of(top)])
    top.write_bytes(qcow2(str(base), "raw"))
    assert look_below([disk_of(top)])[0].below.format is not None


@pytest.mark.parametrize(
    "backing",
    [
        "nbd://h/%01",
        "/srv/a\x1b[2J",
        "nbd://[::1",
        "nbd://h:99999999/x",
        'json:{"driver":"raw","offset":"x","file":{"driver":"file","filename":"/a"}}',
    ],
)
def test_names_nobody_understands_keep_nobody_from_clearing_up(tmp_path: Path, backing: str) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    base.write_bytes(bytes(512))
    top.write_bytes(qcow2(str(base), "raw"))
    disk = disk_of(top)
    fill_in(look_below([disk]))
    top.write_bytes(qcow2(backing, "raw"))
    assert distrust_changed([disk]) == []
    with pytest.raises(ConfigUnsupported, match="cannot be understood"):
        look_below([disk_of(top)])


def test_a_name_ends_where_qemu_ends_it(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    base.write_bytes(bytes(512))
    top.write_bytes(qcow2(f"{base}\0/etc/shadow", "raw"))
    disk = disk_of(top)
    fill_in(look_below([disk]))
    assert disk.backing_store is not None
    assert disk.backing_store.source is not None
    assert disk.backing_store.source.file == str(base)
    assert distrust_changed([disk]) == []


def test_an_empty_drive_has_nothing_to_distrust() -> None:
    assert distrust_changed([Disk(device=DiskDevice.FLOPPY)]) == []
