"""A probe in QEMU's place, before its first instruction, tries what whoever has taken QEMU over would try."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.errors import ConfigSyntax
from qvirt.host import bpf
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.life import cgroups
from qvirt.runtime.plugging import hotplug
from qvirt.security import devices
from tests.functional.runtime.instance import EMULATOR, Instance, disk, document, instance, run

pytestmark = [pytest.mark.qemu, pytest.mark.skipif(os.geteuid() != 0, reason="only root confines")]

PROBE = r"""
import ctypes, json, os, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def attempt(what):
    try:
        what()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return "done"

def opened(path, flags=os.O_RDWR):
    return lambda: os.close(os.open(path, flags | os.O_NONBLOCK))

given = json.loads(%r)
status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
tried = {name: attempt(opened(path)) for name, path in given["paths"].items()}
tried |= {
    "shadow": attempt(opened("/etc/shadow", os.O_RDONLY)),
    "null": attempt(opened("/dev/null")),
    "mknod": attempt(lambda: os.mknod(given["folder"] + "/node", stat.S_IFCHR | 0o666, os.makedev(1, 3))),
    "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()),
    "setuid": attempt(lambda: os.setuid(given["stranger"])),
    "setgroups": attempt(lambda: os.setgroups([given["stranger"]])),
    "chown": attempt(lambda: os.chown(given["folder"], given["stranger"], -1)),
    "ptrace": attempt(lambda: call(libc.ptrace(16, given["daemon"], 0, 0))),
    "kill": attempt(lambda: os.kill(given["daemon"], 0)),
    "module": attempt(lambda: call(libc.syscall(175, b"", 0, b""))),
    "chroot": attempt(lambda: os.chroot("/")),
    "mount": attempt(lambda: call(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))),
    "umount": attempt(lambda: call(libc.umount2(b"/dev", 2))),
    "daemon's /dev": attempt(opened("/proc/%%d/root/dev/full" %% given["daemon"])),
    "daemon's namespace": attempt(opened("/proc/%%d/ns/mnt" %% given["daemon"], os.O_RDONLY)),
    "reboot": attempt(lambda: call(libc.reboot(0))),
    "groups": attempt(lambda: open("/sys/fs/cgroup/unified/cgroup.procs", "w").write("0")),
}
status["dev"] = sorted(os.listdir("/dev"))
status["groups"] = open("/proc/self/cgroup").read()
status["fds"] = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
json.dump({"status": status, "tried": tried, "environment": dict(os.environ),
           "umask": os.umask(0), "cwd": os.getcwd(), "core": __import__("resource").getrlimit(4)}, sys.stdout)
"""


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A disk of the host that anybody may open, as far as its mode goes."""
    backing = tmp_path / "loop.img"
    backing.write_bytes(b"\0" * (1 << 20))
    made = subprocess.run(
        ["losetup", "--show", "-f", str(backing)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    node = made.stdout.strip()
    mode = os.stat(node).st_mode & 0o777
    os.chmod(node, 0o666)  # noqa: S103 - so that the mode is not what keeps it closed
    try:
        yield node
    finally:
        os.chmod(node, mode)
        subprocess.run(["losetup", "-d", node], check=False)


def wrapped(it: Instance, paths: dict[str, str]) -> tuple[Path, Path]:
    """Return an emulator that runs the probe first when it is a guest's, and where the probe writes."""
    folder = it.root / "probe"
    folder.mkdir()
    folder.chmod(0o777)
    given = json.dumps({"paths": paths, "folder": str(folder), "daemon": os.getpid(), "stranger": 4711})
    script, out, emulator = folder / "probe.py", folder / "out.json", folder / "qemu-system-x86_64"
    script.write_text(PROBE % given)
    emulator.write_text(
        f'#!/bin/sh\ncase "$*" in *guest=probed*) /usr/bin/python3 -I {script} >{out} 2>&1 ;; esac\n'
        f'exec {EMULATOR} "$@"\n'
    )
    emulator.chmod(0o755)
    return emulator, out


async def probe(hv: Hypervisor, emulator: Path, out: Path, *devices: str, on: str = "") -> dict[str, Any]:
    domain = await hv.create(
        document("probed", *devices, on=on).replace(EMULATOR, str(emulator)), paused=True
    )
    await domain.destroy()
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("user", ["libvirt-qemu", "root"])
def test_nothing_but_its_own_is_in_reach(user: str, loop: str) -> None:
    async def scenario() -> None:
        with instance() as it:
            own, other = it.image("own.img"), it.image("other.img")
            other.chmod(0o600)
            os.chown(other, 4711, 4711)
            emulator, out = wrapped(it, {"own": str(own), "other": str(other), "loop": loop})
            options = f'user = "{user}"\ngroup = "{user}"'
            try:
                config = make_config(parse_conf(options, "qemu.conf"), privileged=True)
            except ConfigSyntax as error:
                pytest.skip(str(error))
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                found = await probe(hv, emulator, out, disk(own))
                confines, has_own_dev = hv.cgroups.confines_devices, hv.private_dev
            finally:
                await hv.close()
            status, tried = found["status"], found["tried"]
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(status[name], 16) == 0, name
            assert status["NoNewPrivs"] == "1"
            assert (found["umask"], found["cwd"], found["core"]) == (0o002, "/", [0, 0])
            assert {*found["environment"]} <= {
                *("LC_ALL", "PATH", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
                *("LC_CTYPE", "PWD"),  # the probe's interpreter and the wrapper's shell
            }
            assert tried.pop("own") == "done"
            assert tried.pop("null") == "done"
            if user == "root":
                # root's own is root's to open and to signal; what follows takes a capability
                assert tried.pop("shadow") in ("done", "Permission denied")
                tried.pop("kill")
                tried.pop("groups")
            if has_own_dev:
                assert tried.pop("loop") == "No such file or directory"
            elif confines:
                assert tried.pop("loop") == "Operation not permitted"
            else:
                tried.pop("loop")
            assert {name for name, result in tried.items() if result == "done"} == set()

    run(scenario())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ('cgroup_controllers = [ "devices" ]\nnamespaces = [ ]', "Operation not permitted"),
        ('cgroup_controllers = [ "cpu" ]', "No such file or directory"),
        ('cgroup_controllers = [ "cpu" ]\nnamespaces = [ ]', "done"),
        ('cgroup_device_acl = [ "/dev/null", "/dev/urandom", "LOOP" ]', "done"),
    ],
    ids=["list alone", "own /dev alone", "neither", "allowed to all"],
)
def test_each_layer_alone_refuses_a_disk_of_the_host(loop: str, options: str, expected: str) -> None:
    """Without both the same guest opens it: nothing else keeps it away."""

    async def scenario() -> None:
        with instance() as it:
            emulator, out = wrapped(it, {"loop": loop})
            config = make_config(parse_conf(options.replace("LOOP", loop), "qemu.conf"), privileged=True)
            hv = await Hypervisor.open(it.paths, config=config)
            try:
                if expected == "Operation not permitted" and not hv.cgroups.confines_devices:
                    pytest.skip("no device lists here")
                if expected == "No such file or directory" and not hv.private_dev:
                    pytest.skip("no mount namespaces here")
                found = await probe(hv, emulator, out)
            finally:
                await hv.close()
            assert found["tried"]["loop"] == expected

    run(scenario())


def test_it_is_in_its_groups_from_the_first_instruction() -> None:
    """Version 2's group may be entered a moment later, if version 1's device list confines it meanwhile."""

    async def scenario() -> None:
        with instance() as it:
            emulator, out = wrapped(it, {})
            async with it.serve() as hv:
                mounts = hv.cgroups.mounts
                if mounts is None:
                    pytest.skip("no control groups here")
                text = document("probed").replace(EMULATOR, str(emulator))
                domain = await hv.create(text, paused=True)
                running = domain.need_running()
                group = running.group
                assert group is not None
                after = Path(f"/proc/{running.pid}/cgroup").read_text()
                await domain.destroy()
                at_first = groups_by_name(json.loads(out.read_text())["status"]["groups"])
                for name in mounts.v1:
                    if name != "devices" and group.version(name) == 1:
                        assert at_first[name].startswith(f"/{group.path}"), name
                if hv.cgroups.confines_devices:
                    confined = at_first.get(""), at_first.get("devices")
                    assert any(path and path.startswith(f"/{group.path}") for path in confined)
                if mounts.v2 is not None:
                    assert groups_by_name(after)[""] == f"/{group.path}/emulator"
                    mine = groups_by_name(Path("/proc/self/cgroup").read_text())
                    assert groups_by_name(after).get("devices") == mine.get("devices")
                assert not group.exists()

    run(scenario())


def groups_by_name(text: str) -> dict[str, str]:
    """Return the path of each controller's group, version 2's under ''."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        found |= dict.fromkeys(names.split(","), path)
    return found


def test_its_own_disk_of_the_host_is_in_reach_and_so_is_a_plugged_one(loop: str) -> None:
    async def scenario() -> None:
        with instance() as it:
            emulator, out = wrapped(it, {"loop": loop})
            block = (
                "<disk type='block' device='disk'><driver name='qemu' type='raw'/>"
                f"<source dev='{loop}'/><target dev='vdb' bus='virtio'/></disk>"
            )
            async with it.serve() as hv:
                if not hv.cgroups.confines_devices:
                    pytest.skip("no device lists here")
                found = await probe(hv, emulator, out, block)
                assert found["tried"]["loop"] == "done"
                before = os.stat(loop).st_uid, os.stat(loop).st_gid
                domain = await hv.create(document("plugged"), paused=True)
                await hotplug.attach(domain, block, DomainModificationImpact.LIVE)
                group = domain.need_running().group
                assert group is not None
                assert devices.rule_of(loop) in bpf.rules(group.v2) if group.v2 is not None else True
                await domain.destroy()
                assert (os.stat(loop).st_uid, os.stat(loop).st_gid) == before

    run(scenario())


def test_a_guest_is_where_libvirt_puts_it_and_nothing_stays() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                if hv.cgroups.mounts is None:
                    pytest.skip("no control groups here")
                domain = await hv.create(document("placed", extra="<iothreads>1</iothreads>"), paused=True)
                running = domain.need_running()
                await cgroups.placed(running)
                group = running.group
                assert group is not None
                assert group.path.startswith("machine/qemu-embed-")
                assert group.path.endswith(f"-{running.id}-placed.libvirt-qemu")
                assert set(group.threads()) == {"emulator", "vcpu0", "iothread1"}
                assert running.pid in group.processes("emulator")
                assert group.tasks("vcpu0") == [running.vcpu_threads[0]]
                os.kill(running.pid, 9)
                await running.ended
                assert not group.exists()

    run(scenario())
