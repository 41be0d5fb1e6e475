"""What a guest that has taken its QEMU over puts where the daemon goes as root."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import ConfigUnsupported, QvirtError, SystemError_
from qvirt.host.config import QemuUser
from qvirt.runtime.asking import console
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import document, instance, run

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody to be protected from"),
]

CHANNEL = "<channel type='unix'><target type='virtio' name='org.example.own'/></channel>"
DRIVE = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='qcow2'/>{}"
    "<target dev='hdc' bus='ide'/><readonly/></disk>"
)


def made(path: Path, *words: str) -> Path:
    """Make a qcow2 image."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, str(path), "1M"], check=True)
    return path


def tries(user: QemuUser, command: str) -> bool:
    """Tell whether QEMU's user can do something."""
    become = [
        *("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--"),
    ]
    return not subprocess.run([*become, *command.split()], check=False, capture_output=True).returncode


def test_a_folder_that_is_deeper_than_any_stack() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("deep"))
                folder = os.open(domain.need_running().folder, os.O_RDONLY)
                for _ in range(2000):
                    os.mkdir("a", dir_fd=folder)
                    below = os.open("a", os.O_RDONLY, dir_fd=folder)
                    os.close(folder)
                    folder = below
                os.close(folder)
                await domain.destroy()
                assert it.traces() == []

    run(scenario())


def test_an_image_that_names_another_when_it_is_taken_out() -> None:
    """What is below a medium is looked at when its drive lets go of it, not only when the guest ends."""

    async def scenario() -> None:
        with instance() as it:
            medium, secret = made(it.root / "medium.qcow2"), it.image("secret")
            evil = made(it.root / "evil.qcow2", "-b", str(secret), "-F", "raw")
            source = f"<source file='{medium}'/>"
            async with it.serve() as hv:
                domain = await hv.create(document("evil", DRIVE.format(source)))
                with medium.open("r+b") as file:
                    file.write(evil.read_bytes())
                forced = Modify.LIVE | Modify.FORCE
                await hotplug.update(domain, DRIVE.format(""), forced)
                with pytest.raises(ConfigUnsupported, match="nobody asked for"):
                    await hotplug.update(domain, DRIVE.format(source), forced)
                assert secret.stat().st_uid == 0
                await domain.destroy()

    run(scenario())


def test_a_link_in_the_place_of_a_channels_socket() -> None:
    async def scenario() -> None:
        with instance() as it, socket.socket(socket.AF_UNIX) as other:
            other.bind(str(it.root / "roots"))
            other.listen()
            async with it.serve() as hv:
                if hv.user is None or hv.user.uid == 0:
                    pytest.skip("QEMU runs as the daemon's own user here")
                domain = await hv.create(document("linked", CHANNEL))
                path = Path(domain.live.devices.channels[0].path or "")
                path.unlink()
                path.symlink_to(it.root / "roots")
                os.chown(path, hv.user.uid, hv.user.gid, follow_symlinks=False)
                with pytest.raises(SystemError_, match="Too many levels"):
                    await console.open_channel(domain, None, 0)
                await domain.destroy()

    run(scenario())


def test_the_folders_guests_live_in_are_not_theirs_to_move() -> None:
    """QEMU's user gets at its own folder and cannot put another in the place of one of the daemon's."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                user = hv.user
                if user is None or user.uid == 0:
                    pytest.skip("QEMU runs as the daemon's own user here")
                domain = await hv.create(document("moves", CHANNEL))
                own = domain.need_running().folder
                tried = {
                    f"touch {own}/file": True,
                    f"mv {it.paths.lib}/dump {it.paths.lib}/gone": False,
                    f"mv {own} {own}-gone": False,
                    f"ln -s /etc {it.paths.lib}/domain-99-next": False,
                    f"mkfifo {it.paths.nvram}/next_VARS.fd": False,
                }
                for command, allowed in tried.items():
                    assert tries(user, command) is allowed, command
                await domain.destroy()
                assert it.traces() == []

    run(scenario())


def test_a_start_that_fails_removes_nothing_that_was_there() -> None:
    """A document may name any path for a socket of its guest's."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                other = await hv.create(document("other", CHANNEL))
                theirs = Path(other.live.devices.channels[0].path or "")
                store = it.paths.nvram / "other_VARS.fd"
                store.touch()
                precious = it.root / "precious"
                precious.mkdir(mode=0o700)
                (precious / "file").touch()
                target = it.paths.lib / "channel/target"
                paths = {
                    store: "is no socket",
                    it.paths.run / "driver.pid": "is no socket",
                    it.paths.status("other"): "is no socket",
                    it.paths.lib / "../../../../precious/file": "is no socket",
                    Path(other.need_running().monitor_path): "already in use",
                    theirs.with_name("new"): "is another guest's",
                }
                for path, said in paths.items():
                    named = f"<source mode='bind' path='{path}'/>"
                    with pytest.raises(QvirtError, match=said):
                        await hv.create(document("named", CHANNEL.replace("<target", f"{named}<target")))
                    assert path.exists() is (path.name != "new")
                above = f"<source mode='bind' path='{target}/domain-x/../../../../../../../precious/new'/>"
                with pytest.raises(QvirtError):
                    await hv.create(document("named", CHANNEL.replace("<target", f"{above}<target")))
                assert (precious.stat().st_uid, precious.stat().st_mode & 0o777) == (0, 0o700)
                assert (precious / "file").exists()
                await other.destroy()
                assert it.traces() == []

    run(scenario())
