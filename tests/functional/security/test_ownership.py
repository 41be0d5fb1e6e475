"""Files of every kind are lent to QEMU's user and end with their first owner, whatever ends the guest."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.errors import InternalError, SystemError_
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.life import lending
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import Instance, disk, document, instance, run, until

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
]

ALICE = (12345, 12346)


def owner(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_uid, status.st_gid


def marks(path: Path) -> list[str]:
    return [name for name in os.listxattr(path) if ".security." in name and name.startswith("trusted.")]


def alices(it: Instance, name: str) -> Path:
    """An image that is somebody's."""
    path = it.image(name)
    os.chown(path, *ALICE)
    return path


def overlay(it: Instance, base: Path, name: str) -> Path:
    path = it.root / name
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(path)], check=True
    )
    os.chown(path, *ALICE)
    return path


def qcow2(path: Path, target: str) -> str:
    return disk(path, target).replace("type='raw'", "type='qcow2'")


def done(*words: str | Path) -> None:
    """Run a command that must work."""
    subprocess.run(words, check=True, capture_output=True)


def users(hv: Hypervisor) -> tuple[int, int]:
    if hv.user is None or hv.user.uid == 0:
        pytest.skip("QEMU runs as the daemon's own user here")
    return hv.user.uid, hv.user.gid


def test_a_folder_with_a_socket_of_the_guests_stays_as_it_is() -> None:
    """Others have files in it: an own folder would have become QEMU's, and gone with the guest."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                users(hv)
                folders = [hv.paths.lib / "channel/target", it.root / "displays", it.root / "serials"]
                for folder in folders:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "anothers").touch()
                    folder.chmod(0o777)  # QEMU makes a display's socket by itself
                paths = [folder / "mine" for folder in folders]
                channel, _, serial = (f"mode='bind' path='{path}'" for path in paths)
                text = document(
                    "a",
                    f"<channel type='unix'><source {channel}/><target type='virtio' name='x.0'/></channel>",
                    f"<graphics type='vnc'><listen type='socket' socket='{paths[1]}'/></graphics>",
                    f"<serial type='unix'><source {serial}/></serial>",
                )
                before = [(owner(folder), folder.stat().st_mode) for folder in folders]
                domain = await hv.create(text, paused=True)
                assert [path.is_socket() for path in paths] == [True] * 3
                assert [(owner(folder), folder.stat().st_mode) for folder in folders] == before
                await domain.destroy()
                assert [(owner(folder), folder.stat().st_mode) for folder in folders] == before
                assert all((folder / "anothers").exists() for folder in folders)

    run(scenario())


def test_every_kind_of_file_comes_back_after_every_kind_of_end() -> None:
    async def scenario() -> None:
        with instance() as it:
            base = alices(it, "base.img")
            top = overlay(it, base, "top.qcow2")
            cd, log = alices(it, "cd.iso"), it.root / "serial.log"
            kernel, table = alices(it, "kernel"), alices(it, "slic.bin")
            table.write_bytes(b"SLIC" + (40).to_bytes(4, "little") + bytes(32))
            shared = alices(it, "shared.img")
            plug = it.root / "peer.sock"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(plug))
            listener.listen(4)
            os.chown(plug, *ALICE)
            for end in (".in", ".out"):
                os.mkfifo(it.root / f"pipe{end}", 0o600)
            files = [base, top, cd, kernel, table, shared, plug, it.root / "pipe.in", it.root / "pipe.out"]
            text = document(
                "all",
                qcow2(top, "vda"),
                disk(cd, "vdc", "<readonly/>"),
                disk(shared, "vdb", "<shareable/>"),
                f"<serial type='file'><source path='{log}'/></serial>",
                f"<serial type='pipe'><source path='{it.root}/pipe'/></serial>",
                f"<serial type='unix'><source mode='connect' path='{plug}'/></serial>",
            ).replace(
                "</os>", f"<kernel>{kernel}</kernel><acpi><table type='slic'>{table}</table></acpi></os>"
            )
            async with it.serve() as hv:
                user = users(hv)
                before = {path: owner(path) for path in files}
                domain = await hv.define(text)
                for end in ("destroy", "crash"):
                    await domain.start(paused=True)
                    assert {path.name for path in [*files, log] if owner(path) != user} == set()
                    assert "trusted.libvirt.security.ref_dac" in marks(base)
                    running = domain.need_running()
                    if end == "destroy":
                        await domain.destroy()
                    else:
                        os.kill(running.pid, signal.SIGSEGV)
                        await until(lambda: not domain.active, "the guest's end")
                    assert {path.name for path in files if owner(path) != before[path]} == set()
                    assert [path.name for path in files if marks(path)] == []
                    assert owner(log) == (0, 0)
            listener.close()

    run(scenario())


def test_a_shared_base_stays_until_the_last_guest_ends_whichever_daemon_sees_it() -> None:
    async def scenario() -> None:
        with instance() as it:
            base = alices(it, "base.img")
            tops = [overlay(it, base, f"top{n}.qcow2") for n in (1, 2)]
            async with it.serve() as hv:
                user = users(hv)
                for n, top in enumerate(tops):
                    await hv.create(document(f"g{n}", qcow2(top, "vda")), paused=True)
                assert os.getxattr(base, "trusted.libvirt.security.ref_dac") == b"2"
                await hv.domains.by_name("g0").destroy()
                assert (owner(base), owner(tops[0])) == (user, ALICE)
            # another daemon takes over; QEMU dies while nobody looks
            os.kill(it.processes()[0], signal.SIGKILL)
            async with it.serve() as hv:
                await until(lambda: not len(hv.domains), "the guest's end")
                assert (owner(base), owner(tops[1])) == (ALICE, ALICE)
                assert marks(base) == []

    run(scenario())


def test_a_start_that_fails_on_the_lock_leaves_the_first_guests_mark() -> None:
    async def scenario() -> None:
        with instance() as it:
            image = alices(it, "disk.img")
            async with it.serve() as hv:
                user = users(hv)
                first = await hv.create(document("first", disk(image)), paused=True)
                with pytest.raises(InternalError, match='Failed to get "write" lock'):
                    await hv.create(document("second", disk(image)))
                assert owner(image) == user
                assert os.getxattr(image, "trusted.libvirt.security.dac") == b"+12345:+12346"
                await first.destroy()
                assert owner(image) == ALICE

    run(scenario())


def test_a_running_guest_gets_and_returns_files() -> None:
    """The seam for plugged devices, media and block jobs."""

    async def scenario() -> None:
        with instance() as it:
            image = alices(it, "late.img")
            async with it.serve() as hv:
                user = users(hv)
                domain = await hv.create(document("g"), paused=True)
                running = domain.need_running()
                from qvirt.model.devices.disk import Disk
                from qvirt.qemu.devices.base import FileResource

                resource = FileResource(Disk(), str(image))
                await lending.give(domain, running, [resource])
                assert owner(image) == user
                status = it.paths.status("g").read_text()
                assert f"path='{image}' model='dac' before='+12345:+12346'" in status
                assert await lending.take_back(domain, running, [resource]) == []
                assert owner(image) == ALICE
                assert str(image) not in it.paths.status("g").read_text()

    run(scenario())


def test_labels_and_options() -> None:
    async def scenario() -> None:
        with instance() as it:
            image, other = alices(it, "a.img"), alices(it, "b.img")
            async with it.serve() as hv:
                users(hv)
                label = "<seclabel model='dac'><label>+64055:+1234</label></seclabel>"
                text = disk(image).replace(
                    f"<source file='{image}'/>", f"<source file='{image}'>{label}</source>"
                )
                domain = await hv.create(document("own", text), paused=True)
                assert owner(image) == (64055, 1234)
                await domain.destroy()
                assert owner(image) == ALICE
                keep = disk(other).replace(
                    f"<source file='{other}'/>",
                    f"<source file='{other}'><seclabel model='dac' relabel='no'/></source>",
                )
                with pytest.raises(SystemError_, match=r"(?s)b\.img.*Permission denied: it stays as it is"):
                    await hv.create(document("keep", keep))
                other.chmod(0o666)
                domain = await hv.create(document("keep", keep), paused=True)
                assert owner(other) == ALICE
                await domain.destroy()

    run(scenario())


@pytest.mark.parametrize(
    ("option", "during", "after"),
    [("dynamic_ownership = 0", ALICE, ALICE), ("remember_owner = 0", None, (0, 0))],
)
def test_owners_as_configured(option: str, during: tuple[int, int] | None, after: tuple[int, int]) -> None:
    async def scenario() -> None:
        with instance() as it:
            image = alices(it, "a.img")
            image.chmod(0o666)
            config = make_config(parse_conf(option, "qemu.conf"), privileged=True)
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                user = users(hv)
                domain = await hv.create(document("g", disk(image)), paused=True)
                assert owner(image) == (during or user)
                assert marks(image) == []
                await domain.destroy()
                assert owner(image) == after
            finally:
                await hv.close()

    run(scenario())


def test_a_guest_keeps_its_user_when_the_configuration_names_another() -> None:
    async def scenario() -> None:
        with instance() as it:
            images = [alices(it, f"{name}.img") for name in ("first", "plugged", "late")]
            first, plugged, late = images
            scsi = "<controller type='scsi' index='0' model='virtio-scsi'/>"
            async with it.serve() as hv:
                user = users(hv)
                await hv.create(document("old", scsi, disk(first)), paused=True)
            config = make_config(parse_conf('user = "+1234"\ngroup = "+1235"', "f"), privileged=True)
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                old = hv.domains.by_name("old")
                text = disk(plugged, "sda").replace("bus='virtio'", "bus='scsi'")
                await hotplug.attach(old, text, DomainModificationImpact.LIVE)
                await hv.create(document("new", disk(late)), paused=True)
                assert [owner(path) for path in images] == [user, user, (1234, 1235)]
                socket_ = "<channel type='unix'><target type='virtio' name='x.0'/></channel>"
                await hotplug.attach(old, socket_, DomainModificationImpact.LIVE)
                for name in ("old", "new"):
                    await hv.domains.by_name(name).destroy()
                assert [owner(path) for path in images] == [ALICE] * 3
                assert os.listxattr(it.paths.lib) == []
            finally:
                await hv.close()

    run(scenario())


def test_a_static_user_reaches_its_own_folder() -> None:
    """libvirt's start fails here: the user cannot read its own master key."""

    async def scenario() -> None:
        with instance() as it:
            image = alices(it, "a.img")
            label = "<seclabel type='static' model='dac' relabel='yes'><label>+1234:+1234</label></seclabel>"
            async with it.serve() as hv:
                users(hv)
                domain = await hv.create(document("own", disk(image), on=label), paused=True)
                pid = domain.need_running().pid
                assert os.stat(f"/proc/{pid}").st_uid == 1234
                assert owner(image) == (1234, 1234)
                await domain.destroy()
                assert owner(image) == ALICE
                assert os.listxattr(it.paths.lib) == []
                assert it.paths.lib.stat().st_mode & 0o7777 == 0o750

    run(scenario())


def test_guests_of_different_users_share_a_base_whatever_the_order() -> None:
    """libvirt starts them all, and leaves the base with the user of the last."""

    async def scenario() -> None:
        with instance() as it:
            base = alices(it, "base.img")
            base.chmod(0o600)
            tops = [overlay(it, base, f"top{n}.qcow2") for n in range(3)]
            async with it.serve() as hv:
                users(hv)
                for n, top in enumerate(tops):
                    label = f"<label>+{1001 + n}:+{1001 + n}</label>"
                    on = f"<seclabel type='static' model='dac' relabel='yes'>{label}</seclabel>"
                    await hv.create(document(f"g{n}", qcow2(top, "vda"), on=on), paused=True)
                    assert owner(base) == (1001 + n, 1001 + n)
                await hv.domains.by_name("g2").destroy()
                assert owner(base) == (1002, 1002)
            async with it.serve() as hv:
                await hv.domains.by_name("g0").destroy()
                assert owner(base) == (1002, 1002)
                await hv.domains.by_name("g1").destroy()
            assert {owner(path) for path in (base, *tops)} == {ALICE}
            assert [path.name for path in (base, *tops) if marks(path)] == []

    run(scenario())


def test_images_on_a_file_system_that_is_mounted_read_only() -> None:
    async def scenario() -> None:
        with instance() as it:
            folder = it.root / "fixed"
            folder.mkdir()
            open_, closed = alices(it, "fixed/open.iso"), alices(it, "fixed/closed.iso")
            closed.chmod(0o600)
            top = overlay(it, open_, "top.qcow2")
            done("mount", "--bind", folder, folder)
            try:
                done("mount", "-o", "remount,bind,ro", folder)
                async with it.serve() as hv:
                    users(hv)
                    devices = disk(open_, "vda", "<readonly/>"), qcow2(top, "vdb")
                    domain = await hv.create(document("fixed", *devices), paused=True)
                    await domain.destroy()
                    with pytest.raises(SystemError_, match=r"(?s)closed\.iso.*it stays as it is.*read-only"):
                        await hv.create(document("closed", disk(closed, "vda", "<readonly/>")))
            finally:
                done("umount", folder)
            assert owner(top) == ALICE

    run(scenario())


def test_a_file_whose_owner_cannot_be_changed() -> None:
    """As on NFS that takes root for nobody, or FAT: what QEMU may read starts, the rest is explained."""

    async def scenario() -> None:
        with instance() as it:
            open_, closed = alices(it, "open.img"), alices(it, "closed.img")
            closed.chmod(0o600)
            for path in (open_, closed):
                try:
                    done("chattr", "+i", path)
                except subprocess.CalledProcessError:
                    pytest.skip("no file is immutable here")
            try:
                async with it.serve() as hv:
                    users(hv)
                    text = document("kept", qcow2(overlay(it, open_, "top.qcow2"), "vda"))
                    domain = await hv.create(text, paused=True)
                    assert owner(open_) == ALICE
                    await domain.destroy()
                    top = overlay(it, closed, "closed.qcow2")
                    with pytest.raises(SystemError_, match=r"(?s)closed\.img.*it stays as it is"):
                        await hv.create(document("closed", qcow2(top, "vda")))
                    assert owner(top) == ALICE
            finally:
                for path in (open_, closed):
                    done("chattr", "-i", path)

    run(scenario())


def test_a_file_made_for_a_guest_is_its_users_where_nothing_is_lent() -> None:
    """libvirt has a process beside QEMU that writes it."""

    async def scenario() -> None:
        with instance() as it:
            written, log = it.root / "serial.log", it.root / "console.log"
            text = document(
                "writing",
                f"<serial type='file'><source path='{written}'/></serial>",
                f"<console type='pty'><target type='virtio'/><log file='{log}'/></console>",
            )
            config = make_config(parse_conf("dynamic_ownership = 0", "qemu.conf"), privileged=True)
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                user = users(hv)
                domain = await hv.create(text, paused=True)
                assert [owner(path) for path in (written, log)] == [user, user]
                await domain.destroy()
                os.chown(log, 0, 0)
                with pytest.raises(SystemError_, match=r"console\.log.*it stays as it is"):
                    await hv.create(text)
            finally:
                await hv.close()

    run(scenario())
