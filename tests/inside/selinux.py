"""Guests under an enforcing SELinux; run inside the testbed by `test_selinux`, as the daemon: in ``virtd_t``.

The tree is where the policy keeps images; what stands for /var/lib/libvirt/qemu has that folder's label.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.errors import OperationInvalid, QvirtError
from qvirt.host.selinux import read_label, write_label
from qvirt.qmp.errors import QmpError
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from qvirt.security.contexts import parse
from tests.functional.runtime.instance import Instance, disk, document, instance, run, until
from tests.functional.runtime.victim import Steps, work
from tests.support.proof import serving

IMAGES = "system_u:object_r:virt_image_t:s0"
RUNTIME = "system_u:object_r:svirt_runtime_t:s0"
CONTENT = "system_u:object_r:virt_content_t:s0"
SHARED = "system_u:object_r:svirt_image_t:s0"

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


@contextlib.contextmanager
def tree() -> Iterator[Instance]:
    with instance() as it:
        it.paths.lib.mkdir(parents=True)
        write_label(str(it.paths.lib), RUNTIME)
        yield it


def labels(domain: Domain) -> tuple[str, str]:
    [found] = [one for one in domain.need_running().definition.seclabels if one.model == "selinux"]
    return found.label or "", found.imagelabel or ""


def context(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")


def marks(path: Path) -> list[str]:
    return [name for name in os.listxattr(path) if name.startswith("trusted.")]


def lost(folder: Path) -> list[str]:
    """Return what is labelled as only a running guest's is, or marked."""
    found = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            label = read_label(str(path))
            if parse(label).type in ("svirt_image_t", "virt_content_t") or marks(path):
                found.append(f"{path}: {label} {marks(path)}")
    return found


def overlay(base: Path, top: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top], check=True)


async def denied(domain: Domain, command: str, arguments: dict[str, object]) -> str:
    """Have a QEMU do something its label forbids; returns what it said."""
    with pytest.raises(QmpError) as caught:
        await domain.need_running().execute(command, arguments)  # type: ignore[arg-type]
    return str(caught.value)


def opened(path: Path, name: str) -> tuple[str, dict[str, object]]:
    return "blockdev-add", {"driver": "file", "node-name": name, "filename": str(path)}


def test_we_are_the_daemon_and_rules_apply() -> None:
    assert ":virtd_t:" in context(os.getpid())
    assert Path("/sys/fs/selinux/enforce").read_text() == "1"


def test_every_kind_of_file_has_its_label_and_gets_its_own_back() -> None:
    async def scenario() -> None:
        with tree() as it:
            top, base, cd, shared, kernel = (
                it.image(name, 1 << 20) for name in ("top", "base", "cd.iso", "shared", "kernel")
            )
            overlay(base, top)
            serial = it.root / "serial.log"
            text = document(
                "all",
                disk(top).replace("type='raw'", "type='qcow2'"),
                disk(cd, "vdb", "<readonly/>"),
                disk(shared, "vdc", "<shareable/>"),
                f"<serial type='file'><source path='{serial}'/></serial>",
                "<serial type='pty'/>",
                "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
                CHANNEL,
            ).replace("</os>", f"<kernel>{kernel}</kernel></os>")
            async with it.serve() as hv:
                domain = await hv.define(text)
                for end in ("destroy", "crash"):
                    await domain.start(paused=True)
                    running = domain.need_running()
                    process, image = labels(domain)
                    assert context(running.pid) == process
                    mine = parse(process)
                    assert (mine.type, len(mine.pair)) == ("svirt_t", 2)
                    assert parse(image) == parse(SHARED).at(mine.range)
                    folder = Path(running.folder)
                    channel = next(path for path in running.footprint.files if "guest_agent" in path)
                    pty = next(s for s in running.definition.devices.serials if s.type == "pty").path
                    wanted = {
                        top: image,
                        base: CONTENT,
                        cd: CONTENT,
                        shared: SHARED,
                        kernel: CONTENT,
                        serial: image,
                        folder: image,
                        folder / "master-key.aes": image,
                        folder / "monitor.sock": image,
                        Path(channel): image,
                        Path(channel).parent: image,
                        Path(str(pty)): image.replace("svirt_image_t", "svirt_devpts_t"),
                        it.paths.run / "all.xml": IMAGES,
                        it.paths.logfile("all"): IMAGES,
                    }
                    assert {str(path): read_label(str(path)) for path in wanted} == {
                        str(path): label for path, label in wanted.items()
                    }
                    assert [path.name for path in (top, base, cd, shared, kernel) if not marks(path)] == []
                    status = Path(f"/proc/{running.pid}/status").read_text()
                    assert "NoNewPrivs:\t1" in status
                    assert "CapBnd:\t0000000000000000" in status
                    if end == "destroy":
                        await domain.destroy()
                    else:
                        os.kill(running.pid, signal.SIGSEGV)
                        await until(lambda: not domain.active, "the guest's end")
                    assert lost(it.root) == []

    run(scenario())


def test_guests_of_one_user_cannot_touch_each_others_by_their_labels_alone() -> None:
    """QEMU runs as root, who owns everything: what it is refused is refused by SELinux."""

    async def scenario() -> None:
        with tree() as it:
            images = [it.image(name, 1 << 20) for name in ("one", "two", "spare", "secret")]
            for path in images:
                path.chmod(0o600)
            one, two, spare, secret = images
            conf = "user = 'root'\ngroup = 'root'\nclear_emulator_capabilities = 0\n".replace("'", '"')
            async with serving(it, conf) as hv:
                first = await hv.create(document("one", disk(one), CHANNEL), paused=True)
                second = await hv.create(document("two", disk(two), CHANNEL), paused=True)
                pairs = [parse(labels(each)[0]).pair for each in (first, second)]
                assert pairs[0] != pairs[1]
                running = second.need_running()
                targets = [two, secret, Path("/etc/shadow"), it.paths.run / "one.xml"]
                targets.append(Path(running.folder) / "master-key.aes")
                for number, target in enumerate(targets):
                    said = await denied(first, *opened(target, f"n{number}"))
                    assert "Permission denied" in said, (target, said)
                sockets = [running.monitor_path]
                sockets += [path for path in running.footprint.files if "guest_agent" in path]
                for number, socket in enumerate(sockets):
                    address = {"type": "unix", "data": {"path": socket}}
                    backend = {"type": "socket", "data": {"addr": address, "server": False}}
                    said = await denied(first, "chardev-add", {"id": f"c{number}", "backend": backend})
                    assert "Permission denied" in said, (socket, said)
                # its own it may have, by whatever way
                await first.need_running().execute(*opened(one, "own"))  # type: ignore[arg-type]
                await hotplug.attach(first, disk(spare, "vdb"), 1)
                assert read_label(str(spare)) == labels(first)[1]
                assert "Permission denied" in await denied(second, *opened(spare, "spare"))
                await second.destroy()
                await first.destroy()
            assert lost(it.root) == []

    run(scenario())


def test_a_shared_image_gets_its_label_back_with_the_last_guest_whichever_daemon_sees_it() -> None:
    async def scenario() -> None:
        with tree() as it:
            shared, cd, own = (it.image(name, 1 << 20) for name in ("shared", "cd.iso", "own"))
            devices = (disk(shared, "vda", "<shareable/>"), disk(cd, "vdb", "<readonly/>"))
            async with it.serve() as hv:
                await hv.create(document("g0", *devices, disk(own, "vdc")), paused=True)
                second = await hv.create(document("g1", *devices), paused=True)
                third = await hv.define(document("g2", disk(own)))
                with pytest.raises(OperationInvalid, match=f"different SELinux label on {own} which"):
                    await third.start(paused=True)
                await hv.domains.by_name("g0").destroy()
                assert (read_label(str(shared)), read_label(str(cd))) == (SHARED, CONTENT)
                assert lost(own) == []
                label = labels(second)[0]
            async with it.serve() as hv:
                again = hv.domains.by_name("g1")
                assert labels(again)[0] == label == context(again.need_running().pid)
                assert parse(label).pair in hv.security.models[0].pairs.used  # type: ignore[attr-defined]
                await again.destroy()
            assert lost(it.root) == []

    run(scenario())


def seclabel(kind: str, text: str = "", relabel: str = "yes") -> str:
    return f"<seclabel type='{kind}' model='selinux' relabel='{relabel}'>{text}</seclabel>"


def test_labels_the_document_gives() -> None:
    async def scenario() -> None:
        with tree() as it:
            path = it.image("a", 1 << 20)
            given = "system_u:system_r:svirt_t:s0:c392,c662"

            def text(extra: str) -> str:
                return document("a", disk(path), extra=extra)

            async with it.serve() as hv:
                static = await hv.create(text(seclabel("static", f"<label>{given}</label>")), paused=True)
                assert context(static.need_running().pid) == given
                assert read_label(str(path)) == f"{SHARED}:c392,c662"
                await static.destroy()

                write_label(str(path), f"{SHARED}:c392,c662")
                fixed = await hv.create(
                    text(seclabel("static", f"<label>{given}</label>", "no")), paused=True
                )
                assert (labels(fixed), marks(path)[:0]) == ((given, ""), [])
                assert [name for name in marks(path) if "selinux" in name] == []
                await fixed.destroy()
                assert read_label(str(path)) == f"{SHARED}:c392,c662"
                write_label(str(path), IMAGES)

                base = "<baselabel>system_u:system_r:svirt_t:s0</baselabel>"
                based = await hv.create(text(seclabel("dynamic", base)), paused=True)
                assert parse(labels(based)[0]).type == "svirt_t"
                [found] = [s for s in based.need_running().definition.seclabels if s.model == "selinux"]
                assert found.baselabel == "system_u:system_r:svirt_t:s0"
                await based.destroy()

                none = await hv.create(text(seclabel("none", relabel="no")), paused=True)
                with pytest.raises(PermissionError):  # of virtd_t this policy keeps even the name from us
                    context(none.need_running().pid)
                assert read_label(str(path)) == IMAGES
                await none.destroy()

                odd = disk(path).replace(
                    f"file='{path}'/>",
                    f"file='{path}'><seclabel model='selinux' relabel='yes'>"
                    f"<label>{SHARED}</label></seclabel></source>",
                )
                own = await hv.create(document("a", odd), paused=True)
                assert read_label(str(path)) == SHARED
                await own.destroy()
                assert lost(it.root) == []

                for bad, said in (
                    (given.replace("svirt_t", "no_such_t"), "is not valid in the policy 'default'"),
                    ("nonsense", "is no SELinux context"),
                ):
                    with pytest.raises(QvirtError, match=said):
                        await hv.create(text(seclabel("static", f"<label>{bad}</label>")), paused=True)
                assert lost(it.root) == []

    run(scenario())


#: work -> steps at which a daemon is killed: around labels that are given and taken, and QEMU's start
STEPS = {
    "start": ("status written", "host prepared", "sockets made", "spawned", "executed"),
    "attach": ("device's files given",),
    "destroy": ("killed",),
}


@pytest.mark.parametrize("what", STEPS)
def test_killed_at_a_step_leaves_no_label_and_no_mark(what: str) -> None:
    """The next daemon clears up. Each is a fork, as loading takes long."""
    with tree() as it:
        for name in ("disk.img", "plugged.img", "first.iso", "second.iso"):
            it.image(name, 1 << 20)
        for step in STEPS[what]:
            assert _attempt(it, what, step) == -signal.SIGKILL
            assert (step, run(_settled(it))) == (step, [])


class At(Steps):
    """Kills at a step of a name."""

    def __init__(self, name: str) -> None:
        super().__init__(-1)
        self.name = name

    def __call__(self, name: str) -> None:
        self.fatal = len(self.names) if self.armed and name == self.name else -1
        super().__call__(name)


def _attempt(it: Instance, what: str, step: str) -> int:
    """Do it in a process of its own, killed at a step; returns how that ended, as subprocess does."""
    pid = os.fork()
    if not pid:
        steps = At(step)

        async def victim() -> None:
            hv = await Hypervisor.open(it.paths, checkpoint=steps, autostart=False)
            await work(hv, steps, what)

        try:
            asyncio.run(victim())
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def _settled(it: Instance) -> list[str]:
    """Let a daemon find what there is and end it; returns what is left."""
    async with it.serve(autostart=False) as hv:
        for domain in list(hv.domains):
            if domain.active:
                await domain.destroy()
            await domain.undefine()
        left = [f"{pair} is taken" for pair in hv.security.models[0].pairs.used]  # type: ignore[attr-defined]
    return left + lost(it.root) + it.traces()


@pytest.mark.parametrize(("kind", "works"), [("nfs", False), ("cifs", True)])
def test_a_file_system_without_labels_is_left_alone_and_the_boolean_is_named(kind: str, works: bool) -> None:
    """`test_selinux` has mounted them; virt_use_samba is on, virt_use_nfs is off."""

    async def scenario() -> None:
        with tree() as it:
            path = Path(f"/mnt/{kind}/image")
            async with it.serve() as hv:
                domain = await hv.define(document("net", disk(path)))
                if works:
                    await domain.start(paused=True)
                    await domain.destroy()
                    assert [name for name in marks(path) if "selinux" in name] == []
                else:
                    with pytest.raises(QvirtError, match="Permission denied") as caught:
                        await domain.start(paused=True)
                    assert "setsebool -P virt_use_nfs on" in str(caught.value)
            assert lost(it.root) == []

    run(scenario())


def test_an_image_under_a_label_that_the_daemon_may_not_change() -> None:
    async def scenario() -> None:
        with tree() as it:
            path = Path("/srv/foreign")
            before = read_label(str(path))
            async with it.serve() as hv:
                domain = await hv.define(document("foreign", disk(path)))
                with pytest.raises(QvirtError, match=r"unable to set .* '/srv/foreign'") as caught:
                    await domain.start(paused=True)
                assert f"labelled '{before}'" in str(caught.value)
                assert "chcon -t virt_image_t /srv/foreign" in str(caught.value)
            assert (read_label(str(path)), marks(path)) == (before, [])
            assert lost(it.root) == []

    run(scenario())
