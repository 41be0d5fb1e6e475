"""`qvirt export` and stock virsh at the same: dialects, old emulators, a script that runs alone."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PATIENCE, Daemon, wait_until
from tests.support.luks import luks_image
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

GUEST = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
<emulator>{emulator}</emulator>{devices}</devices></domain>"""
QEMU = "/usr/bin/qemu-system-x86_64"

OLD_HELP = """\
QEMU PC emulator version {version}, Copyright (c) somebody
usage: qemu-system-x86_64 [options] [disk_image]

Standard options:
-M machine      select emulated machine (-M ? for list)
-smp n[,maxcpus=cpus][,cores=cores][,threads=threads][,sockets=sockets]
-drive [file=file][,if=type][,bus=n][,unit=m][,media=d][,index=i]
       [,cache=writethrough|writeback|none][,format=f][,serial=s]
-device driver[,options]  add device
-name string1[,process=string2]    set the name of the guest
-uuid %08x-%04x-%04x-%04x-%012x
-nographic      disable graphical output and redirect serial I/Os to console
-chardev socket,id=id,path=path[,server][,nowait][,telnet] (unix)
-mon chardev=[name][,mode=readline|control][,default]
-rtc [base=utc|localtime|date][,clock=host|vm][,driftfix=none|slew]
-nodefaults     don't create default devices.
-no-acpi        disable ACPI
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="qvx") as path:
        Path(path).chmod(0o755)  # QEMU's user executes emulators in it
        yield Path(path)


def document(folder: Path, devices: str = "", *, name: str = "exported", emulator: str = QEMU) -> str:
    path = folder / f"{name}.xml"
    path.write_text(GUEST.format(name=name, devices=devices, emulator=emulator))
    return str(path)


def old_emulator(folder: Path, version: str) -> Path:
    """Make a program that prints what an old QEMU does and knows no monitor."""
    path = folder / "qemu-system-x86_64"
    (folder / "help").write_text(OLD_HELP.format(version=version))
    path.write_text(
        f"""#!/bin/sh
case "$1 $2" in
    "-help "*) cat {folder}/help ;;
    "-device ?") echo 'name "ide-drive", bus IDE' >&2; echo 'name "virtio-balloon-pci", bus PCI' >&2 ;;
    "-M ?") echo 'Supported machines are:'; echo 'pc   Standard PC (alias of pc-0.12)'
            echo 'pc-0.12   Standard PC (default)' ;;
    *) echo "$0: invalid option -- '$1'" >&2; exit 1 ;;
esac
"""
    )
    path.chmod(0o755)
    return path


def test_both_clients_name_a_dialect(daemon: Daemon, folder: Path) -> None:
    disk = "<disk type='file'><source file='/a b'/><target dev='hda' bus='ide'/></disk>"
    path = document(folder, disk)
    ours = daemon.qvirt("export", "--dialect", "0.12", path)
    assert ours.returncode == 0, ours.stderr
    words = shlex.split(ours.stdout)
    assert words[:2] == ["QEMU_AUDIO_DRV=none", QEMU]
    assert "file=/a b,format=raw,if=none,id=drive-ide0-0-0" in words
    theirs = shlex.split(daemon.virsh("domxml-to-native", "qemu-argv/0.12", path))
    made_up = words.index("-uuid") + 1
    assert words[:made_up] + words[made_up + 1 :] == theirs[:made_up] + theirs[made_up + 1 :]


def test_a_defined_domain_and_its_libvirt_command_line(daemon: Daemon, folder: Path) -> None:
    daemon.virsh("define", document(folder, name="kept"))
    try:
        ours = daemon.qvirt("export", "kept")
        assert (
            ours.stdout.strip() == daemon.virsh("domxml-to-native", "qemu-argv", "--domain", "kept").strip()
        )
    finally:
        daemon.virsh("undefine", "kept")


def test_what_nobody_knows_is_refused(daemon: Daemon, folder: Path) -> None:
    path = document(folder)
    assert "unsupported config type xen-xl" in daemon.virsh_run("domxml-to-native", "xen-xl", path).stderr
    asked = daemon.qvirt("export", "--dialect", "7.2", path)
    assert asked.returncode == 1
    assert "they go from 0.9 to 2.12" in asked.stderr


def test_an_emulator_without_a_monitor_is_asked_for_its_help(daemon: Daemon, folder: Path) -> None:
    emulator = old_emulator(folder, "0.12.5")
    asked = daemon.qvirt("export", "--emulator", str(emulator), document(folder))
    assert asked.returncode == 0, asked.stderr
    words = shlex.split(asked.stdout)
    assert str(emulator) in words
    assert words[words.index("-M") + 1] == "pc-0.12"
    assert "virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3" in words
    assert "-blockdev" not in words


def test_an_emulator_that_is_too_old_is_refused_as_libvirt_does(daemon: Daemon, folder: Path) -> None:
    path = document(folder, emulator=str(old_emulator(folder, "0.11.1")))
    refused = daemon.virsh_run("domxml-to-native", "qemu-argv", path)
    assert refused.returncode == 1
    assert "QEMU version >= 0.12.00 is required, but 0.11.1 found" in refused.stderr


# ------------------------------------------------------------ a script that runs alone

ALONE = """
<interface type='bridge'><source bridge='br0'/><mac address='52:54:00:aa:bb:cc'/>
<model type='virtio'/></interface>
<serial type='unix'><source mode='bind' path='{folder}/serial'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<graphics type='vnc' port='5999' passwd='geheim'/>
<disk type='file'><driver name='qemu' type='raw'/><source file='{folder}/locked.img'>
<encryption format='luks'><secret type='passphrase' uuid='{uuid}'/></encryption></source>
<target dev='vda' bus='virtio'/></disk>
"""
UUID = "6a7ad0a2-0000-4000-8000-000000000001"


class Script:
    """The script, running in a network of its own."""

    def __init__(self, path: Path, net: Namespace, **env: str) -> None:
        self.run = path.parent / "run"
        self.process = subprocess.Popen(
            [*net.prefix, str(path)],
            env={"PATH": os.environ["PATH"], "RUN_DIR": str(self.run), "PAUSED": "1", **env},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def monitor(self) -> list[dict[str, Any]]:
        """Ask QEMU how it is; returns its answers."""

        peer = socket.socket(socket.AF_UNIX)

        def connected() -> bool:
            if self.process.poll() is not None:
                said = self.process.stderr.read() if self.process.stderr is not None else ""
                raise AssertionError(f"the script ended with {self.process.returncode}: {said}")
            try:
                peer.connect(str(self.run / "monitor.sock"))
            except OSError:
                return False
            return True

        with peer, peer.makefile("rw") as stream:
            wait_until(connected, "QEMU's monitor")
            peer.settimeout(PATIENCE)
            for command in ("qmp_capabilities", "query-status", "query-name"):
                stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            results: list[dict[str, Any]] = []
            while len(results) < 3:
                answer = json.loads(stream.readline())
                if "return" in answer:
                    results.append(answer["return"])
            return results

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.mark.root
def test_a_script_runs_without_us_and_leaves_nothing(daemon: Daemon, folder: Path) -> None:
    devices = ALONE.format(folder=folder, uuid=UUID)
    made = daemon.qvirt("export", "--standalone", document(folder, devices, name="it's"))
    assert made.returncode == 0, made.stderr
    assert "geheim" not in made.stdout
    path = folder / "start"
    path.write_text(made.stdout)
    path.chmod(0o755)
    (folder / "password").write_text("geheim")
    (folder / "passphrase").write_text("sesam")
    luks_image(folder / "locked.img", folder / "passphrase")
    (disk,) = set(re.findall(r"\bSECRET_LIBVIRT_\w+", made.stdout))
    with namespace() as net:
        net.ip("link", "add", "br0", "type", "bridge")
        script = Script(
            path, net, **{"SECRET_VNC_PASSWORD": f"{folder}/password", disk: f"{folder}/passphrase"}
        )
        try:
            _, status, name = script.monitor()
            assert status["status"] == "prelaunch"
            assert name["name"] == "it's"
            (tap,) = net.links() - {"lo", "br0"}
            assert "master br0" in net.ip("-o", "link", "show", tap)
            assert "fe:54:00:aa:bb:cc" in net.ip("-o", "link", "show", tap)
            assert (folder / "serial").is_socket()
        finally:
            code = script.end()
        assert code == 128 + signal.SIGTERM
        assert net.links() == {"lo", "br0"}


@pytest.mark.root
def test_a_script_says_what_it_misses(daemon: Daemon, folder: Path) -> None:
    made = daemon.qvirt("export", "--standalone", document(folder, "<graphics type='vnc' passwd='x'/>"))
    done = subprocess.run(
        ["sh", "-s"], input=made.stdout, capture_output=True, text=True, check=False, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "name a file with the VNC password in SECRET_VNC_PASSWORD" in done.stderr
    assert [entry.name for entry in folder.iterdir()] == ["exported.xml"]


def test_a_line_as_one_types_it(daemon: Daemon, folder: Path) -> None:
    """QEMU takes it, with the image and the tap's names in it."""
    image = folder / "a.img"
    image.write_bytes(bytes(1 << 20))
    image.chmod(0o644)
    devices = f"""<disk type='file'><driver name='qemu' type='raw' cache='none' io='threads'/>
        <source file='{image}'/><target dev='vda' bus='virtio'/></disk>
        <controller type='usb' model='piix3-uhci'><address type='pci' slot='1' function='2'/></controller>
        <input type='tablet' bus='usb'/>
        <serial type='unix'><source mode='bind' path='{folder}/port'/></serial>
        <interface type='ethernet'><target dev='qvplain0'/><script path='{folder}/up'/></interface>
        <hostdev type='usb'><source><vendor id='0x1d6b'/><product id='0xfffe'/></source></hostdev>"""
    (folder / "up").write_text(f"#!/bin/sh\necho $1 >{folder}/plugged\n")
    (folder / "up").chmod(0o755)
    path = document(folder, devices)
    ours = daemon.qvirt("export", "--dialect", "plain", path)
    assert ours.returncode == 0, ours.stderr
    words = shlex.split(ours.stdout)
    words = words[next(place for place, word in enumerate(words) if word == QEMU) :]
    assert f"file={image},format=raw,cache=none,aio=threads,if=none,id=drive-virtio-disk0" in words
    assert not any("{" in word for word in words)
    assert words[words.index("-serial") + 1] == f"unix:{folder}/port,server=on,wait=off"
    assert any("vendorid=0x1d6b,productid=0xfffe" in word for word in words)
    monitor = folder / "q"
    run = subprocess.Popen(
        [*words, "-display", "none", "-S", "-qmp", f"unix:{monitor},server=on,wait=off"],
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: monitor.exists() or run.poll() is not None, "QEMU listens")
        # QEMU's filter lets it run the script, which comes after the monitor
        plugged = folder / "plugged"
        wait_until(
            lambda: run.poll() is not None or (plugged.exists() and plugged.read_text()), "the tap is up"
        )
        assert run.poll() is None, run.stderr.read() if run.stderr else b""
        assert plugged.read_text() == "qvplain0\n"
    finally:
        run.kill()
        run.wait()
        if run.stderr is not None:
            run.stderr.close()
