"""Overlays of transient disks: QEMU's own tool takes them, and sees what is below."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from qvirt.errors import OperationUnsupported, SystemError_
from qvirt.host.images import ImageInfo, identify
from qvirt.host.overlays import empty_qcow2, is_overlay, plan_overlays, put_on_top, write_overlay
from qvirt.model.devices.disk import Disk, DiskDriver, DiskTarget, Transient
from qvirt.model.storage_source import StorageSource


def transient(path: Path, format: str = "raw") -> Disk:
    return Disk(
        driver=DiskDriver(name="qemu", type=format),
        source=StorageSource(file=str(path)),
        target=DiskTarget(dev="vda"),
        transient=Transient(),
    )


def test_the_disk_writes_to_an_overlay_of_its_size(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"below".ljust(3 << 20, b"\0"))
    disk = transient(image)
    (overlay,) = plan_overlays([disk, Disk(target=DiskTarget(dev="vdb"))], "guest")
    assert (overlay.path, overlay.size) == (f"{image}.TRANSIENT-guest", 3 << 20)
    assert is_overlay(overlay.path)
    assert not is_overlay(str(image))
    put_on_top(overlay)
    assert disk.source is not None
    assert disk.source.local_path == overlay.path
    assert disk.driver.type == "qcow2"
    assert [(image.format, image.source.local_path) for image in disk.images()] == [
        ("qcow2", overlay.path),
        ("raw", str(image)),
    ]
    write_overlay(overlay)
    assert Path(overlay.path).stat().st_mode & 0o777 == 0o600
    with pytest.raises(SystemError_, match="Failed to create file"):
        write_overlay(overlay)
    with pytest.raises(OperationUnsupported, match="for transient disk 'vda' already exists"):
        plan_overlays([transient(image)], "guest")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemError_, match=r"Cannot access storage file '.*none'"):
        plan_overlays([transient(tmp_path / "none")], "guest")


@pytest.mark.parametrize("size", [512, 1 << 20, 5 << 40])
def test_we_read_what_we_write(size: int) -> None:
    wanted = ImageInfo("qcow2", capacity=size, backing="/some/where", backing_format="qcow2")
    assert identify(empty_qcow2(size, "/some/where", "qcow2")) == wanted


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")
@pytest.mark.parametrize("size", [1 << 20, 5 << 40])
def test_qemu_takes_it(tmp_path: Path, size: int) -> None:
    below, above = tmp_path / "below.img", tmp_path / "above.qcow2"
    below.write_bytes(b"\x11" * 4096)
    above.write_bytes(empty_qcow2(size, str(below), "raw"))
    subprocess.run(["qemu-img", "check", "-q", str(above)], check=True, timeout=60)
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", str(above)], check=True, capture_output=True, timeout=60
        ).stdout
    )
    assert (info["format"], info["virtual-size"]) == ("qcow2", size)
    assert (info["backing-filename"], info["backing-filename-format"]) == (str(below), "raw")
    subprocess.run(
        ["qemu-io", "-c", "read -P 0x11 0 4096", "-c", "write -P 0x22 65536 65536", str(above)],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(["qemu-img", "check", "-q", str(above)], check=True, timeout=60)
