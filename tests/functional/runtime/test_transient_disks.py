"""Disks whose writes are forgotten, plugged into running guests: the overlay's whole life."""

import os
import subprocess
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import OperationUnsupported
from qvirt.qmp.errors import QmpError
from qvirt.runtime.domain import Domain
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import Instance, disk, document, instance, run
from tests.functional.runtime.test_hotplug import SCSI, Refusing, everything, scsi_disk

pytestmark = pytest.mark.qemu

SHARED = "<transient shareBacking='yes'/>"


def overlays(it: Instance) -> list[str]:
    return sorted(path.name for path in it.root.glob("*.TRANSIENT-*"))


def make_qcow2(path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True, timeout=30)


async def write(domain: Domain, node: str) -> None:
    """Write to a disk by its topmost node, as its guest would."""
    await domain.need_running().execute(
        "human-monitor-command", {"command-line": f'qemu-io -d {node} "write -P 0x61 0 4096"'}
    )


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_is_written_goes_with_the_disk(format: str) -> None:
    """It can be plugged in again, and has its image's content then; the definition has the image."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img", 1 << 20)
            if format == "qcow2":
                make_qcow2(image)
            content, owner = image.read_bytes(), image.stat().st_uid
            text = scsi_disk(image, "<transient/>").replace("type='raw'", f"type='{format}'")
            async with it.serve() as hv:
                domain = await hv.define(document("forgets", SCSI))
                await domain.start()
                before = await everything(domain)
                for _ in range(2):
                    await hotplug.attach(domain, text, Modify.LIVE | Modify.CONFIG)
                    made = it.root / "a.img.TRANSIENT-forgets"
                    small = made.stat()
                    if hv.user is not None:
                        assert (small.st_uid, small.st_mode & 0o777) == (hv.user.uid, 0o600)
                    live = await domain.xml_desc()
                    assert f"<source file='{made}' index='" in live
                    assert f"<source file='{image}'/>" in live
                    assert made.name not in domain.text
                    await write(domain, "scsi0-0-0-0")
                    assert made.stat().st_blocks > small.st_blocks
                    await hotplug.detach(domain, text, Modify.LIVE | Modify.CONFIG)
                    assert overlays(it) == []
                    assert await everything(domain) == before
                assert (image.read_bytes(), image.stat().st_uid) == (content, owner)

    run(scenario())


def test_one_image_for_many() -> None:
    """Guests that run share an image, plugged or booted with; each one's overlay goes with its own end."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img", 1 << 20)
            async with it.serve() as hv:
                first = await hv.create(document("first", disk(image, "vda", SHARED)))
                second = await hv.create(document("second"))
                await hotplug.attach(second, disk(image, "vdb", SHARED), Modify.LIVE)
                assert overlays(it) == ["a.img.TRANSIENT-first", "a.img.TRANSIENT-second"]
                with pytest.raises(
                    OperationUnsupported, match=r"Overlay file '.*-first' for .* already exist"
                ):
                    await hotplug.attach(first, disk(image, "vdc", SHARED), Modify.LIVE)
                await first.destroy()
                assert overlays(it) == ["a.img.TRANSIENT-second"]
                await second.destroy()
                assert overlays(it) == []
                assert image.stat().st_uid == os.getuid()

    run(scenario())


def test_refused_half_way() -> None:
    """QEMU does not take it: no overlay stays, and one of somebody else's is left alone."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img", 1 << 20)
            async with it.serve() as hv:
                domain = await hv.create(document("refuses"))
                before = await everything(domain)
                running = domain.need_running()
                monitor = running.monitor
                refusing = None
                for number in range(5):
                    running.link = refusing = Refusing(monitor, number)  # type: ignore[assignment]
                    with pytest.raises(QmpError, match="does not feel like it"):
                        await hotplug.attach(domain, disk(image, "vdb", "<transient/>"), Modify.LIVE)
                    running.link = monitor
                    assert overlays(it) == []
                    assert await everything(domain) == before
                assert refusing is not None
                assert refusing.refused == "device_add"
                theirs = it.root / "a.img.TRANSIENT-refuses"
                theirs.write_bytes(b"theirs")
                with pytest.raises(OperationUnsupported, match="already exists"):
                    await hotplug.attach(domain, disk(image, "vdb", "<transient/>"), Modify.LIVE)
                assert theirs.read_bytes() == b"theirs"
                assert await everything(domain) == before
                await domain.destroy()
                assert theirs.read_bytes() == b"theirs"

    run(scenario())


def test_updated_it_stays_on_its_overlay() -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img", 1 << 20)
            async with it.serve() as hv:
                domain = await hv.create(document("updates"))
                await hotplug.attach(domain, disk(image, "vdb", "<transient/>"), Modify.LIVE)
                (live,) = domain.live.devices.disks
                await hotplug.update(domain, live.to_xml(), Modify.LIVE)
                assert overlays(it) == ["a.img.TRANSIENT-updates"]
                await domain.destroy()
                assert overlays(it) == []

    run(scenario())


def test_found_again_by_the_next_daemon() -> None:
    """A daemon that comes back takes the overlay away with the disk, or with the guest."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image("a.img", 1 << 20)
            text = disk(image, "vdb", "<transient/>")
            async with it.serve() as hv:
                domain = await hv.create(document("goes-on"))
                await hotplug.attach(domain, text, Modify.LIVE)
            async with it.serve() as hv:
                await hv.domains.by_name("goes-on").destroy()
                assert overlays(it) == []

    run(scenario())
