"""A daemon's heart that is killed at one step: ``python -m tests.functional.runtime.victim ROOT WORK STEP``.

STEP counts the checkpoints of the work; -1 is never, and the names of the steps are printed. SIGKILL is what
``kill -9`` does: no handler, no flush, no clean-up.
"""

import asyncio
import os
import resource
import signal
import sys
import zlib
from pathlib import Path
from unittest.mock import patch

from qvirt.constants.domain import DomainDeviceModifyFlags
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.helping import PORTS, TPM, helped, shared_folder
from tests.functional.runtime.instance import disk, document
from tests.functional.runtime.vdpa import prlimit, stand_in, vdpa_card

BOTH = DomainDeviceModifyFlags.LIVE | DomainDeviceModifyFlags.CONFIG
UUID = "11111111-2222-3333-4444-555555555555"


class Steps:
    """Counts checkpoints once armed, and kills at the chosen one."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.names: list[str] = []
        self.armed = False

    def __call__(self, name: str) -> None:
        if not self.armed:
            return
        if len(self.names) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)


def victim_document(root: Path, title: str) -> str:
    """Return the domain everything is done to."""
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    return document(
        "victim",
        disk(root / "disk.img"),
        "<controller type='scsi' index='0' model='virtio-scsi'/>",
        channel,
        "<graphics type='vnc' port='-1'/>",
        drive_document(root, "first.iso"),
        on=f"<title>{title}</title>",
        uuid=UUID,
    )


def plugged_document(root: Path) -> str:
    """Return the disk that is plugged in and out."""
    limit = "<iotune><total_bytes_sec>1000000</total_bytes_sec></iotune>"
    return disk(root / "plugged.img", "sda", limit).replace("'virtio'", "'scsi'")


def transient_document(root: Path) -> str:
    """Return the disk that is plugged in and forgets what is written."""
    return plugged_document(root).replace("</disk>", "<transient/></disk>")


def drive_document(root: Path, medium: str) -> str:
    """Return the drive with a medium in it."""
    return (
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
        f"<source file='{root}/{medium}' startupPolicy='optional'/>"
        "<target dev='hdc' bus='ide'/><readonly/></disk>"
    )


def card_document(root: Path, link: str = "up") -> str:
    """Return the card that is plugged in, whose tap has a name of this tree's own."""
    return (
        f"<interface type='ethernet'><mac address='52:54:00:66:77:88'/><target dev='{tap_name(root)}'/>"
        f"<model type='virtio'/><link state='{link}'/></interface>"
    )


def tap_name(root: Path) -> str:
    """Return the name of the card's tap."""
    return f"kill{zlib.crc32(str(root).encode()):08x}"


def node_path(root: Path) -> Path:
    """Return a device node of this tree's own."""
    return Path(f"/dev/qvirt-{tap_name(root)}/random")


def node_document(root: Path) -> str:
    """Return the source of randomness that is plugged in, whose node is the host's."""
    return f"<rng model='virtio'><backend model='random'>{node_path(root)}</backend></rng>"


async def work(hv: Hypervisor, steps: Steps, what: str) -> None:
    """Do one piece of work with the steps armed."""
    root = hv.paths.etc.parent.parent
    old, new = victim_document(root, "old"), victim_document(root, "new")
    if what == "define":
        steps.armed = True
        await hv.define(new)
        return
    if what in ("helped", "share"):
        await work_with_helpers(hv, steps, what)
        return
    domain = await hv.define(old)
    if what in (
        "destroy",
        "poweroff",
        "attach",
        "detach",
        "transient",
        "vdpa",
        "medium",
        "card",
        "link",
        "node",
    ):
        await domain.start()
    if what == "detach":
        await hotplug.attach(domain, plugged_document(root), BOTH)
    if what == "medium":
        await domain.suspend()  # firmware that looks for something to boot moves the tray itself
    if what == "link":
        await hotplug.attach(domain, card_document(root), BOTH)
    steps.armed = True
    match what:
        case "redefine":
            await hv.define(new)
        case "start":
            await domain.start()
        case "destroy":
            await domain.destroy()
        case "poweroff":
            running = domain.need_running()
            running.monitor.submit("quit")
            await running.ended
        case "attach":
            await hotplug.attach(domain, plugged_document(root), BOTH)
        case "vdpa":
            stand_in(domain)
            with patch.object(resource, "prlimit", prlimit):
                await hotplug.attach(domain, vdpa_card(root), BOTH)
        case "transient":
            await hotplug.attach(domain, transient_document(root), BOTH)
        case "detach":
            await hotplug.detach(domain, plugged_document(root), BOTH)
        case "medium":
            flags = BOTH | DomainDeviceModifyFlags.FORCE
            await hotplug.update(domain, drive_document(root, "second.iso"), flags)
        case "card":
            await hotplug.attach(domain, card_document(root), BOTH)
        case "link":
            await hotplug.update(domain, card_document(root, "down"), BOTH)
        case "node":
            await hotplug.attach(domain, node_document(root), BOTH)
        case "undefine":
            await domain.undefine()
        case "rename":
            await domain.rename("renamed")
        case "create":
            await domain.undefine()
            await hv.create(new)


async def work_with_helpers(hv: Hypervisor, steps: Steps, what: str) -> None:
    """Start a guest with helpers, or plug in a device that has one."""
    root = hv.paths.etc.parent.parent
    domain = await hv.define(helped(PORTS, TPM, shared_folder(root)))
    if what == "share":
        await domain.start()
    steps.armed = True
    if what == "helped":
        await domain.start()
    else:
        await hotplug.attach(domain, shared_folder(root, "plugged"), BOTH)


async def main() -> None:
    root, what, fatal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    steps = Steps(fatal)
    hv = await Hypervisor.open(Paths.root(root), checkpoint=steps, autostart=False)
    await work(hv, steps, what)
    steps.armed = False
    await hv.close()
    print("\n".join(steps.names))


if __name__ == "__main__":
    asyncio.run(main())
