"""A guest's own /dev: what is in it, whose it is, what comes and goes; what the host's /dev sees of it."""

import asyncio
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.errors import SystemError_
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from qvirt.security import private_dev
from tests.functional.runtime.instance import Instance, document, instance, run
from tests.support.daemon import running_daemon

pytestmark = [pytest.mark.qemu, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")]

LIVE = DomainModificationImpact.LIVE
SCSI = "<controller type='scsi' index='0' model='virtio-scsi'/>"


class Disk:
    """A disk of the host. node: the device; name: a link's, as udev makes them; copy: a node in a folder."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.folder = Path(f"/dev/qvirt-test-{os.getpid()}-{Path(node).name}")
        self.name, self.copy = self.folder / "by-id/scsi-x", self.folder / "mapper/vol"
        self.name.parent.mkdir(parents=True)
        self.name.symlink_to(f"../../{Path(node).name}")
        self.copy.parent.mkdir()
        os.mknod(self.copy, stat.S_IFBLK | 0o600, os.stat(node).st_rdev)

    @property
    def owners(self) -> list[tuple[int, int, int]]:
        """Owner and mode of the host's nodes."""
        found = (os.stat(path) for path in (self.node, self.copy))
        return [(status.st_uid, status.st_gid, status.st_mode) for status in found]


@pytest.fixture
def host_disk(tmp_path: Path) -> Iterator[Disk]:
    image = tmp_path / "loop.img"
    image.write_bytes(b"\0" * (1 << 20))
    made = subprocess.run(
        ["losetup", "--show", "-f", str(image)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    disk = Disk(made.stdout.strip())
    try:
        yield disk
    finally:
        shutil.rmtree(disk.folder)
        subprocess.run(["losetup", "-d", disk.node], check=False)


def block(path: Path | str, target: str = "sda") -> str:
    return (
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/>"
        f"<source dev='{path}'/><target dev='{target}' bus='scsi'/></disk>"
    )


def seen(pid: int) -> dict[str, os.stat_result]:
    """Return what is in a process's /dev, below mounts too, links as links."""
    root = Path(f"/proc/{pid}/root/dev")
    found = {}
    for path in root.rglob("*"):
        inside = str(path.relative_to(root))
        if not inside.startswith(("pts/", "shm/", "mqueue/", "hugepages/")):
            found[inside] = path.lstat()
    return found


def need(hv: Hypervisor) -> None:
    if not hv.private_dev:
        pytest.skip("no mount namespaces here")


def test_it_has_the_default_nodes_and_the_hosts_mounts_and_nothing_else() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                need(hv)
                domain = await hv.create(document("plain", "<serial type='pty'/>"), paused=True)
                pid = domain.need_running().pid
                found = seen(pid)
                below = {line.split()[1][5:] for line in Path("/proc/self/mounts").read_text().splitlines()
                         if line.split()[1].startswith("/dev/")}  # fmt: skip
                wanted = {Path(path).name for path in hv.config.device_acl if os.path.exists(path)}
                assert set(found) == wanted | below
                for name in wanted:
                    host = os.stat(f"/dev/{name}")
                    assert (found[name].st_mode, found[name].st_rdev) == (host.st_mode, host.st_rdev)
                    assert (found[name].st_uid, found[name].st_gid) == (host.st_uid, host.st_gid)
                mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
                own = [line.split() for line in mounts if line.split()[1] == "/dev"][-1]
                assert own[0] == "devfs"
                assert {"nosuid", "mode=755", "size=64k"} <= set(own[3].split(","))
                pty = (await domain.xml_desc()).partition("<source path='")[2].partition("'")[0]
                assert os.stat(pty).st_dev == os.stat(f"/proc/{pid}/root{pty}").st_dev
                assert Path("/proc/self/mounts").read_text().count("devfs /") == 0
                await domain.destroy()

    run(scenario())


def test_a_daemon_that_may_make_no_nodes_does_without(tmp_path: Path) -> None:
    """As in a container: its guests see the host's /dev, and that is said."""
    with running_daemon(prefix=("setpriv", "--bounding-set=-mknod", "--inh-caps=-mknod")) as daemon:
        path = tmp_path / "bare.xml"
        path.write_text(document("bare"))
        daemon.virsh("create", str(path), "--paused")
        (pid,) = daemon.qemu_pids()
        assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        assert "no guest has a /dev of its own" in daemon.log.read_text()


def test_owners_change_on_its_own_node_only(host_disk: Disk) -> None:
    async def scenario() -> None:
        with instance() as it:
            before = host_disk.owners
            async with it.serve() as hv:
                need(hv)
                user = hv.user
                assert user is not None
                devices = (
                    SCSI,
                    block(host_disk.name),
                    block(host_disk.copy, "sdb").replace("<target", "<shareable/><target"),
                )
                shared = devices[1].replace("<target", "<shareable/><target")
                domain = await hv.create(document("owner", devices[0], shared, devices[2]), paused=True)
                running = domain.need_running()
                root = Path(f"/proc/{running.pid}/root")
                assert os.readlink(f"{root}{host_disk.name}") == os.readlink(host_disk.name)
                for path in (host_disk.node, str(host_disk.copy)):
                    own = os.stat(f"{root}{path}")
                    assert (own.st_uid, own.st_gid, own.st_rdev) == (
                        user.uid,
                        user.gid,
                        os.stat(path).st_rdev,
                    )
                    assert stat.S_IMODE(own.st_mode) == stat.S_IMODE(os.stat(path).st_mode)
                    mark = os.getxattr(f"{root}{path}", "trusted.libvirt.security.dac")
                    assert mark == f"+{os.stat(path).st_uid}:+{os.stat(path).st_gid}".encode()
                assert host_disk.owners == before
                assert running.footprint.loans == []
                assert not [name for name in os.listxattr(host_disk.node) if name.startswith("trusted.")]
                await domain.destroy()
            assert host_disk.owners == before

    run(scenario())


def test_nodes_come_and_go_under_a_later_daemon_too(host_disk: Disk) -> None:
    async def scenario() -> None:
        with instance() as it:
            before = host_disk.owners
            async with it.serve() as hv:
                need(hv)
                domain = await hv.create(document("plugged", SCSI), paused=True)
                pid = domain.need_running().pid
                empty = set(seen(pid))
                await hotplug.attach(domain, block(host_disk.name), LIVE)
                found = set(seen(pid)) - empty
                inside = host_disk.folder.name
                assert found == {
                    Path(host_disk.node).name, inside, f"{inside}/by-id", f"{inside}/by-id/scsi-x",
                }  # fmt: skip
                assert host_disk.owners == before
            async with it.serve() as hv:
                domain = hv.domains.by_name("plugged")
                await hotplug.detach(domain, block(host_disk.name), LIVE)
                assert set(seen(pid)) == empty
                await hotplug.attach(domain, block(host_disk.copy), LIVE)
                assert f"{inside}/mapper/vol" in seen(pid)
                await domain.destroy()
            assert host_disk.owners == before

    run(scenario())


def test_what_the_host_mounts_below_dev_stays_when_it_is_unplugged(tmp_path: Path) -> None:
    """It is seen through QEMU's /dev, too, and could be removed there."""

    async def scenario() -> None:
        shared = Path(tempfile.mkdtemp(dir="/dev/shm"))
        try:
            shared.chmod(0o755)
            image, name = shared / "folder/image", shared / "links/image"
            for path in (image, name):
                path.parent.mkdir()
            image.write_bytes(b"\0" * (1 << 20))
            name.symlink_to("../folder/image")
            owner = (name.lstat().st_ino, image.stat().st_uid)
            text = block(name).replace("type='block'", "type='file'").replace("dev='/", "file='/")
            with instance() as it:
                async with it.serve() as hv:
                    need(hv)
                    domain = await hv.create(document("sharing", SCSI), paused=True)
                    await hotplug.attach(domain, text, LIVE)
                    await hotplug.detach(domain, text, LIVE)
                    assert (name.lstat().st_ino, image.stat().st_uid) == owner
                    await domain.destroy()
        finally:
            shutil.rmtree(shared)

    run(scenario())


def test_a_link_from_elsewhere_leads_to_the_node_that_goes(host_disk: Disk, tmp_path: Path) -> None:
    async def scenario() -> None:
        outside = tmp_path / "disk"
        outside.symlink_to(host_disk.name)
        with instance() as it:
            async with it.serve() as hv:
                need(hv)
                domain = await hv.create(document("led", SCSI), paused=True)
                pid = domain.need_running().pid
                empty = set(seen(pid))
                for folder in (tmp_path, *tmp_path.parents[:-2]):
                    folder.chmod(folder.stat().st_mode | 0o011)
                await hotplug.attach(domain, block(outside), LIVE)
                assert Path(host_disk.node).name in set(seen(pid)) - empty
                await hotplug.detach(domain, block(outside), LIVE)
                assert set(seen(pid)) == empty
                await domain.destroy()

    run(scenario())


def test_a_device_that_cannot_be_plugged_in_leaves_no_node(host_disk: Disk) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                need(hv)
                domain = await hv.create(document("refused", SCSI), paused=True)
                empty = set(seen(domain.need_running().pid))
                wrong = block(host_disk.node).replace("'raw'", "'qcow2'")  # it has no such header
                with pytest.raises(Exception, match="qcow2"):
                    await hotplug.attach(domain, wrong, LIVE)
                assert set(seen(domain.need_running().pid)) == empty
                await domain.destroy()

    run(scenario())


def test_a_plain_file_in_dev_is_there_from_the_start_or_not_at_all(host_disk: Disk) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                need(hv)
                image = host_disk.folder / "image"
                image.write_bytes(b"\0" * (1 << 20))
                os.chown(image, 4711, 4711)
                text = block(image).replace("type='block'", "type='file'").replace("dev='/", "file='/")
                domain = await hv.create(document("with-file", SCSI, text), paused=True)
                own = os.stat(f"/proc/{domain.need_running().pid}/root{image}")
                assert (own.st_ino, own.st_uid) == (image.stat().st_ino, hv.user.uid if hv.user else 0)
                await domain.destroy()
                assert image.stat().st_uid == 4711
                domain = await hv.create(document("late-file", SCSI), paused=True)
                with pytest.raises(SystemError_, match=r"cannot add .*/image to the /dev of 'late-file'"):
                    await hotplug.attach(domain, text, LIVE)
                assert image.stat().st_uid == 4711
                assert domain.need_running().footprint.loans == []
                await domain.destroy()

    run(scenario())


def test_two_guests_see_each_their_own(host_disk: Disk) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                need(hv)
                one = await hv.create(document("one", SCSI, block(host_disk.node)), paused=True)
                two = await hv.create(document("two"), paused=True)
                name = Path(host_disk.node).name
                assert name in seen(one.need_running().pid)
                assert name not in seen(two.need_running().pid)
                await asyncio.gather(one.destroy(), two.destroy())

    run(scenario())


def test_a_link_that_qemu_has_put_in_its_dev_leads_nowhere(host_disk: Disk, tmp_path: Path) -> None:
    """A QEMU that runs as root may write there; the daemon follows nothing that lies there."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                need(hv)
                domain = await hv.create(document("trap", SCSI), paused=True)
                root = Path(f"/proc/{domain.need_running().pid}/root/dev")
                (root / host_disk.folder.name).symlink_to(tmp_path)
                with pytest.raises(SystemError_, match=r"cannot add .* to the /dev of 'trap'"):
                    await hotplug.attach(domain, block(host_disk.copy), LIVE)
                assert sorted(path.name for path in tmp_path.iterdir()) == ["loop.img"]
                await domain.destroy()

    run(scenario())


def test_without_namespaces_guests_see_the_hosts(host_disk: Disk) -> None:
    async def scenario() -> None:
        with instance() as it:
            config = make_config(parse_conf("namespaces = [ ]", "qemu.conf"), privileged=True)
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                before = host_disk.owners
                domain = await hv.create(document("shared", SCSI, block(host_disk.node)), paused=True)
                running = domain.need_running()
                assert os.stat(f"/proc/{running.pid}/root/dev").st_dev == os.stat("/dev").st_dev
                assert os.stat(host_disk.node).st_uid == (hv.user.uid if hv.user is not None else 0)
                with pytest.raises(OSError, match="no /dev of its own"):
                    private_dev.add(running.pid, [])
                await domain.destroy()
                assert host_disk.owners == before
            finally:
                await hv.close()

    run(scenario())


def test_a_kernel_that_refuses_is_reported_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted", "mount namespace")

    async def scenario(it: Instance) -> None:
        async with it.serve() as hv:
            assert not hv.private_dev
            assert any("no guest has a /dev of its own" in report for report in hv.reports)
            domain = await hv.create(document("without"), paused=True)
            assert not domain.need_running().private_dev
            await domain.destroy()

    monkeypatch.setattr(private_dev, "build", refused)
    with instance() as it:
        run(scenario(it))
