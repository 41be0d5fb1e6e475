"""Guests under AppArmor; run inside the testbed by `tests/functional/security/test_apparmor.py`."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.errors import QvirtError
from qvirt.host.conf import parse_conf
from qvirt.host.config import QemuConfig, make_config
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from qvirt.security.apparmor import profiles
from qvirt.security.apparmor.model import confinement
from tests.functional.runtime.helping import (
    QUICK_SETUP,
    TPM,
    UUID,
    helped,
    path_with,
    program,
)
from tests.functional.runtime.instance import EMULATOR, Instance, disk, document, run, until
from tests.support import inside, proof

#: root with all its power, and no owner changes: AppArmor is all there is
BARE = """user = "root"
group = "root"
clear_emulator_capabilities = 0
dynamic_ownership = 0
namespaces = []
cgroup_controllers = ["cpu", "memory"]
"""

#: compiles in a tenth of the time that the whole abstraction takes
TEMPLATE = """#include <tunables/global>
profile LIBVIRT_TEMPLATE flags=(attach_disconnected) {{
  #include <abstractions/base>
  capability,
  {emulator} rmix,
  /usr/bin/dash rmix,
  /usr/bin/python3* rmix,
  /usr/share/** r,
  /dev/ptmx rw,
  @{{PROC}}/** r,
  {root}/probe/** rwix,
  audit deny "{root}/secret.img" rw,
}}
"""

MINE = """#include <tunables/global>
profile mine {
  #include <abstractions/base>
  /** rwmlkix,
  capability,
  signal,
  network,
  ptrace,
}
"""


@pytest.fixture
def it() -> Iterator[Instance]:
    one = Instance()
    folder = one.paths.etc.parent / "apparmor.d/libvirt"
    folder.mkdir(parents=True)
    (folder / "TEMPLATE.qemu").write_text(TEMPLATE.format(root=one.root, emulator=EMULATOR))
    try:
        yield one
    finally:
        one.close()
        assert not [name for name in profiles.loaded() if name.startswith("libvirt-")]


def config(text: str = "") -> QemuConfig:
    return make_config(parse_conf(text, "qemu.conf"), privileged=True)


def folder(it: Instance) -> Path:
    return it.paths.etc.parent / "apparmor.d/libvirt"


async def parser(*words: str | Path) -> None:
    child = await asyncio.create_subprocess_exec("apparmor_parser", *words)
    async with asyncio.timeout(120):
        assert await child.wait() == 0


async def explain(it: Instance, xml: str) -> list[str]:
    words = (sys.executable, "-m", "qvirt.runtime.explain", "apparmor,dac=+64055:+64055", str(it.paths.conf))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
    async with asyncio.timeout(60):
        out, _ = await child.communicate(xml.encode())
    assert child.returncode == 0
    return out.decode().splitlines()


def test_a_guest_has_a_profile_as_long_as_it_runs(it: Instance) -> None:
    async def scenario() -> None:
        image, late = it.image("own.img"), it.image("late.img")
        async with it.serve() as hv:
            assert hv.security.names == ("apparmor", "dac")
            domain = await hv.create(
                document("a", disk(image), "<controller type='scsi' index='0' model='virtio-scsi'/>"),
                paused=True,
            )
            name = f"libvirt-{domain.uuid}"
            labels = domain.security_labels()
            assert (labels[0].label, labels[0].enforcing) == (name, True)
            assert f"<imagelabel>{name}</imagelabel>" in await domain.xml_desc()
            files = folder(it) / f"{name}.files"
            at_start = files.read_text()
            assert f'"{image}" rwk,' in at_start
        # another daemon finds it, and what it adds is in force at once
        async with it.serve() as hv:
            domain = hv.domains.by_name("a")
            text = disk(late, "sda").replace("'virtio'", "'scsi'")
            # anybody may read it, as far as its owner and mode go
            reading, pid = {"open": proof.opened(late, os.O_RDONLY)}, domain.need_running().pid
            assert await inside.tried(pid, reading) == {"open": "Permission denied"}
            await hotplug.attach(domain, text, DomainModificationImpact.LIVE)
            assert files.read_text() == at_start + f'  "{late}" rwk,\n'
            assert await inside.tried(pid, reading) == {"open": inside.DONE}
            await hotplug.detach(domain, text, DomainModificationImpact.LIVE)
            assert await inside.tried(pid, reading) == {"open": "Permission denied"}
            await domain.destroy()
            assert not profiles.is_loaded(name)
            assert sorted(path.name for path in folder(it).iterdir()) == ["TEMPLATE.qemu", name]

    run(scenario())


def test_what_the_guest_has_otherwise_stays(it: Instance) -> None:
    """The kernel it booted is plugged in as a disk, and goes."""

    async def scenario() -> None:
        kernel = it.root / "kernel"
        shutil.copy(next(Path("/boot").glob("vmlinuz-*")), kernel)
        scsi = "<controller type='scsi' index='0' model='virtio-scsi'/>"
        text = document("a", scsi).replace("</os>", f"<kernel>{kernel}</kernel></os>")
        async with it.serve() as hv:
            domain = await hv.create(text, paused=True)
            files = folder(it) / f"libvirt-{domain.uuid}.files"
            at_start = files.read_text()
            assert f'"{kernel}" r,' in at_start
            plugged = disk(kernel, "sda", "<readonly/>").replace("'virtio'", "'scsi'")
            await hotplug.attach(domain, plugged, DomainModificationImpact.LIVE)
            assert f'"{kernel}" rk,' in files.read_text()
            await hotplug.detach(domain, plugged, DomainModificationImpact.LIVE)
            assert files.read_text() == at_start
            await domain.destroy()

    run(scenario())


def two_guests(
    it: Instance, *layers: str, apart: bool = False, rows: Mapping[str, proof.Row] = proof.ROWS
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a guest could do, and another to it, under the system's own template."""
    shutil.copy("/etc/apparmor.d/libvirt/TEMPLATE.qemu", folder(it))

    async def scenario() -> tuple[dict[str, str], dict[str, str]]:
        async with proof.proving(it, proof.options(*layers), "/dev/vda") as proving:
            return await proving.all(apart=apart, rows=rows)

    return run(scenario())


@pytest.mark.parametrize("layer", ["", "AppArmor", "device list", "owners", "capabilities"])
def test_each_layer_alone_stops_what_the_table_says(it: Instance, layer: str) -> None:
    """This kernel has what that of `test_proof.py` may lack: modules, and device lists of version 1 alone."""
    apart = layer in proof.TAKES_USERS
    found, back = two_guests(it, layer, apart=apart) if layer else two_guests(it)
    assert proof.unlike(found, proof.ROWS, layer) == {}
    assert found["loading a module"] != inside.MISSING
    assert proof.unlike(back, proof.ABOUT_OTHERS, layer, *(["owners"] if apart else [])) == {}


def test_guests_of_one_user_are_kept_apart_but_for_what_the_kernel_does_not_ask_about(it: Instance) -> None:
    """With all layers, as a system has them."""
    layers = [name for name in proof.LAYERS if name != "SELinux"]
    left = {name for name in proof.within_one_user() if "AppArmor" not in proof.ROWS[name].stopped}
    for found in two_guests(it, *layers, rows=proof.ABOUT_OTHERS):
        assert {name for name, said in found.items() if said == inside.DONE} == left


#: runs in a Python that stands in swtpm's place, which loads it by itself; its argument is where its state is
HELPING = """
import json, os, signal, sys
if sys.orig_argv[0].endswith("/swtpm"):
    state = next(word for word in sys.orig_argv if word.startswith("dir="))[4:].partition(",")[0]
    with open(state + "/paths") as file:
        paths = json.load(file)
    def attempt(call, *words):
        try:
            call(*words)
        except OSError as error:
            return os.strerror(error.errno)
        return "done"
    found = {path: attempt(os.open, path, os.O_RDONLY) for path in paths}
    found["exec"] = attempt(os.execv, "/bin/true", ["true"])
    with open(state + "/found.new", "w") as file:
        json.dump(found, file)
    os.rename(state + "/found.new", state + "/found")
    signal.pause()
"""


@pytest.fixture
def helping() -> Iterator[None]:
    """Have every Python of this machine look whether it is in swtpm's place."""
    folder = Path("/usr/lib/python3/dist-packages")
    files = {folder / "walk_helping.py": HELPING, folder / "walk_helping.pth": "import walk_helping\n"}
    for path, text in files.items():
        path.write_text(text)
    yield
    for path in files:
        path.unlink()


def test_a_helper_has_a_profile_of_its_own(
    it: Instance, helping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs as root here, whom owners do not keep out."""

    async def scenario() -> None:
        own, other = it.image("own.img"), it.image("other.img")
        program(it.root / "bin", "swtpm_setup", QUICK_SETUP)
        shutil.copy(os.path.realpath("/usr/bin/python3"), it.root / "bin/swtpm")
        monkeypatch.setenv("PATH", path_with(it.root / "bin"))
        conf = BARE + 'swtpm_user = "root"\nswtpm_group = "root"\n'
        hv = await Hypervisor.open(it.paths, config=config(conf))
        try:
            neighbour = await hv.create(document("neighbour", disk(other)), paused=True)
            states = [it.paths.swtpm_storage / uuid / "tpm2" for uuid in (UUID, neighbour.uuid)]
            for state in states:
                state.mkdir(parents=True)
                (state / "tpm2-00.permall").write_text("secret")
            mine, theirs = (state / "tpm2-00.permall" for state in states)
            paths = [own, other, mine, theirs, it.paths.status("neighbour"), "/etc/shadow", "/dev/mem"]
            (states[0] / "paths").write_text(json.dumps(list(map(str, paths))))
            starting = asyncio.ensure_future(hv.create(helped(TPM, disk(own)), paused=True))
            await until((states[0] / "found").exists, "the probe")
            pid = hv.domains.by_uuid(UUID).need_running().helpers["swtpm"].process.pid
            assert confinement(str(pid)) == (f"libvirt-{UUID}//swtpm", "enforce")
            found = json.loads((states[0] / "found").read_text())
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(QvirtError, match="swtpm"):  # it served no TPM
                await starting
            await neighbour.destroy()
        finally:
            await hv.close()
        assert found.pop(str(mine)) == "done"
        assert set(found.values()) == {"Permission denied"}, found

    run(scenario())


def test_a_refusal_is_explained_with_its_rule(it: Instance) -> None:
    async def scenario() -> None:
        secret = it.image("secret.img")
        async with it.serve() as hv:
            with pytest.raises(QvirtError) as refused:
                await hv.create(document("a", disk(secret)), paused=True)
            said = str(refused.value)
            assert re.search(rf"apparmor refused open \([rw]+\) on '{secret}' to 'libvirt-", said), said
            assert "/sys/devices" not in said
            assert f'allow it with the rule `"{secret}" ' in said
            assert not list(folder(it).glob("*.files"))

    run(scenario())


def test_static_labels_and_none(it: Instance) -> None:
    async def scenario() -> None:
        image = it.image("own.img")
        async with it.serve() as hv:

            def labelled(label: str) -> str:
                return document("a", disk(image)).replace("</domain>", f"{label}</domain>")

            none = await hv.create(labelled("<seclabel type='none'/>"), paused=True)
            assert none.security_labels()[0].label == "unconfined"
            assert "<seclabel type='none' model='apparmor'/>" in await none.xml_desc()
            await none.destroy()
            static = "<seclabel type='static' model='apparmor' relabel='no'><label>{}</label></seclabel>"
            with pytest.raises(QvirtError, match="unable to set AppArmor profile 'nosuch': No such file"):
                await hv.create(labelled(static.format("nosuch")), paused=True)
            (it.root / "mine").write_text(MINE)
            await parser("-r", it.root / "mine")
            try:
                own = await hv.create(labelled(static.format("mine")), paused=True)
                assert own.security_labels()[0].label == "mine"
                await own.destroy()
                assert profiles.is_loaded("mine")
            finally:
                (profiles.SECURITYFS / ".remove").write_text("mine")
            assert not [path for path in folder(it).iterdir() if path.name != "TEMPLATE.qemu"]

    run(scenario())


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths
from tests.functional.runtime.instance import disk, document
root, step = Path(sys.argv[1]), sys.argv[2]
def die(name):
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)
async def main():
    hv = await Hypervisor.open(Paths.root(root), checkpoint=die)
    domain = await hv.create(document("a", disk(root / "own.img")), paused=True)
    await domain.destroy()
asyncio.run(main())
"""


@pytest.mark.parametrize("step", ["host prepared", "executed"])
def test_a_killed_daemon_leaves_no_profile(it: Instance, step: str) -> None:
    it.image("own.img")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(it.root), step], check=False, timeout=120)
    assert killed.returncode == -9

    async def scenario() -> None:
        async with it.serve() as hv:
            assert not [domain for domain in hv.domains if domain.active]
        assert not [name for name in profiles.loaded() if name.startswith("libvirt-")]
        assert not list(folder(it).glob("*.files"))

    run(scenario())


def devices_of_many_kinds(it: Instance) -> str:
    top = it.root / "top.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", it.image("base.img"), "-F", "raw", top], check=True
    )
    return (
        disk(it.image("own.img"))
        + disk(top, "vdb").replace("type='raw'", "type='qcow2'")
        + disk(it.image("cd.iso"), "hda", "<readonly/>")
        .replace("'disk'><driver", "'cdrom'><driver")
        .replace("bus='virtio'", "bus='ide'")
        + "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        + f"<serial type='file'><source path='{it.root}/serial.log'/></serial>"
        + "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>"
        + "<graphics type='vnc'><listen type='socket'/></graphics>"
        + f"<filesystem type='mount'><source dir='{it.root}'/><target dir='tag'/></filesystem>"
        + "<vsock model='virtio'><cid auto='yes'/></vsock>"
        + "<interface type='user'><model type='virtio'/></interface>"
    )


def granted(lines: list[str]) -> dict[str, str]:
    """Return the rules of an explanation, and what it says they are for."""
    found = (re.fullmatch(r"rule +apparmor +(.*?)  \[(.*)\]", line) for line in lines)
    return {match[1]: match[2] for match in found if match is not None}


def test_the_systems_template_serves_as_it_is_and_all_is_explained(it: Instance) -> None:
    shutil.copy("/etc/apparmor.d/libvirt/TEMPLATE.qemu", folder(it))
    subprocess.run(["modprobe", "vhost_vsock"], check=True, timeout=60)

    async def scenario() -> None:
        async with it.serve() as hv:
            xml = document("a", devices_of_many_kinds(it), uuid=UUID)
            planned = granted(await explain(it, await (await hv.define(xml)).xml_desc()))
            domain = await hv.create(xml, paused=True)
            assert domain.security_labels()[0].enforcing
            lines = await explain(it, await domain.xml_desc())
            assert any(f"libvirt-{UUID} (enforce)" in line for line in lines)
            said = granted(lines)
            in_force = (folder(it) / f"libvirt-{UUID}.files").read_text().splitlines()
            rules = [line.strip() for line in in_force if line.strip() and not line.strip().startswith("#")]
            assert len(rules) > 15
            assert [rule for rule in rules if rule not in said] == []
            assert [rule for rule, why in said.items() if "no device" in why] == []
            assert said[f'"{it.root}/own.img" rwk,'].startswith("<disk> 'vda' (line ")
            assert said[f'"{it.root}/base.img" rk,'].startswith("<disk> 'vdb' (line ")
            assert any(re.search(r"handed over +/dev/vhost-vsock  \[<vsock> \(line ", line) for line in lines)
            assert said[f'"{it.paths.log.parent}/**/a.log" w,'] == "every guest"
            own = folder(it) / f"libvirt-{UUID}"
            assert said["#include <abstractions/libvirt-qemu>"] == f"every guest ('{own}', line 8)"
            # before the start it was the same, but for the number of the run
            shown = {rule.replace("domain--1-a", f"domain-{domain.id}-a") for rule in planned}
            assert shown == set(said)
            await domain.destroy()

    run(scenario())


def test_a_broken_template_is_named_and_one_that_is_mended_serves(it: Instance) -> None:
    template = folder(it) / "TEMPLATE.qemu"
    good = template.read_text()

    async def scenario() -> None:
        async with it.serve() as hv:
            template.write_text(good.replace("  capability,", "  capability nosuch,"))
            with pytest.raises(QvirtError) as refused:
                await hv.create(document("a", uuid=UUID), paused=True)
            said = str(refused.value)
            assert re.search(rf"libvirt-{UUID}', made of '{template}': .*'?{template}'? .*line 4", said), said
            assert [path.name for path in folder(it).iterdir()] == ["TEMPLATE.qemu"]
            template.write_text(good)
            await (await hv.create(document("a", uuid=UUID), paused=True)).destroy()

    run(scenario())


def test_it_is_off_where_it_is_told_to_be(it: Instance) -> None:
    async def scenario() -> None:
        hv = await Hypervisor.open(it.paths, config=config('security_driver = "none"'))
        names = hv.security.names
        await hv.close()
        assert names[0] == "none"
        os.unlink(folder(it) / "TEMPLATE.qemu")
        with pytest.raises(QvirtError, match=r"Security driver apparmor not enabled: template '.*' "):
            await Hypervisor.open(it.paths, config=config('security_driver = "apparmor"'))

    run(scenario())


def test_the_daemon_serves_under_its_own_profile(it: Instance) -> None:
    """Guests of a daemon that had none, and what it hands over, which the kernel asks about again."""
    source = it.root / "usr.bin.qvirtd"
    shutil.copy(os.environ["QVIRT_PACKAGING"] + "/apparmor/usr.bin.qvirtd", source)
    it.image("own.img")
    subprocess.run(["apparmor_parser", "-r", source], check=True, timeout=120)
    subprocess.run(["modprobe", "-a", "macvtap", "dummy"], check=True, timeout=60)

    async def leave() -> None:
        async with it.serve() as hv:
            await hv.create(document("left"), paused=True)

    run(leave())
    link = f"dum{os.getpid()}"
    subprocess.run(["ip", "link", "add", link, "type", "dummy"], check=True, timeout=60)
    try:
        words = ["aa-exec", "-p", "qvirtd", "--", sys.executable, "-c", SERVED, str(it.root), link]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    finally:
        subprocess.run(["ip", "link", "del", link], check=True, timeout=60)
        (profiles.SECURITYFS / ".remove").write_text("qvirtd")
    assert done.returncode == 0, done.stderr
    ours, first, tap, none, left = done.stdout.split("\n")[:5]
    assert ours == "qvirtd"
    assert first.startswith("libvirt-")
    assert re.fullmatch(r'"/dev/tap\d+" rw,', tap)
    assert (none, left) == ("qvirtd", "has ended")


SERVED = """
import asyncio, sys
from pathlib import Path
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths
from qvirt.security.apparmor.model import confinement
from tests.functional.runtime.instance import disk, document
root, link = Path(sys.argv[1]), sys.argv[2]
macvtap = f"<interface type='direct'><source dev='{link}' mode='bridge'/><model type='virtio'/></interface>"
async def main():
    print(confinement("self")[0])
    hv = await Hypervisor.open(Paths.root(root))
    for label in "", "<seclabel type='none'/>":
        text = document("a", disk(root / "own.img"), macvtap).replace("</domain>", f"{label}</domain>")
        domain = await hv.create(text)
        print(domain.security_labels()[0].label)
        for path in (root / "etc/apparmor.d/libvirt").glob(f"libvirt-{domain.uuid}.files"):
            print(*(line.strip() for line in path.read_text().splitlines() if "/dev/tap" in line))
        await domain.destroy()
    left = hv.domains.by_name("left")
    await left.destroy()
    print("has ended" if not left.active else "runs")
    await hv.close()
asyncio.run(main())
"""
