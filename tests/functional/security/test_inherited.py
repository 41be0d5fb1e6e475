"""What QEMU and helpers inherit of the daemon: descriptors that their command lines name, and no other."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.functional.runtime.helping import QUICK_SETUP, TPM, helped, path_with, program, shared_folder
from tests.functional.runtime.instance import EMULATOR, Instance, disk, document, instance, run

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed"),
]

#: writes down what it has been given, and becomes what it stands for
REPORTER = """#!/usr/bin/python3 -I
import json, os, sys
given = {}
for name in os.listdir("/proc/self/fd"):
    try:
        given[name] = os.readlink("/proc/self/fd/" + name)
    except FileNotFoundError:
        pass  # that of the list itself
out = os.open(%r, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
said = {"fds": given, "words": sys.argv[1:], "environment": dict(os.environ)}
os.write(out, (json.dumps(said) + "\\n").encode())
os.close(out)
os.execv(%r, [%r, *sys.argv[1:]])
"""

#: what a command line calls a descriptor: fd=3, --fd=3, "fd":"3", fd=/dev/fdset would not be one
NAMED = re.compile(r'\b(?:fd|vhostfd|fds|vhostfds|fdset)"?[=:]"?(\d+(?::\d+)*)')

DEVICES = (
    TPM,
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
    "<serial type='pty'/><console type='pty'><target type='virtio'/></console>",
    "<interface type='ethernet'><target dev='@TAP@'/><model type='virtio'/></interface>",
    "<interface type='user'><model type='virtio'/></interface>",
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "<graphics type='vnc'><listen type='socket'/></graphics><video><model type='virtio'/></video>",
    "<controller type='scsi' model='virtio-scsi'/><input type='tablet' bus='virtio'/>",
    "<watchdog model='i6300esb'/>",
    "<memballoon model='virtio'/>",
)


def reporting(it: Instance, name: str, real: str) -> tuple[Path, Path]:
    """Return a program that reports and then is another, and where it reports."""
    folder = it.root / "reports"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    out = folder / f"{name}.json"
    out.touch()
    out.chmod(0o666)
    return program(it.root / "bin", name, REPORTER % (str(out), real, real)), out


def check(report: Path, expected: set[str], environment: set[str], own: str) -> None:
    """Compare the last that a program said with what it may have; own: how a file of its own ends."""
    said = json.loads(report.read_text().splitlines()[-1])
    assert {*said["environment"]} - {"LC_CTYPE", "PWD"} == environment  # the interpreter's and a shell's
    fds = said["fds"]
    assert fds.pop("0") == "/dev/null"
    assert fds.pop("1") == fds.pop("2")
    named = {fd for word in said["words"] for found in NAMED.findall(word) for fd in found.split(":")}
    unnamed = {fd: what for fd, what in fds.items() if fd not in named}
    assert all(what.endswith(own) for what in unnamed.values() if own), unnamed
    assert len(unnamed) == (1 if own else 0), unnamed
    assert {re.sub(r":.*", "", what) for fd, what in fds.items() if fd in named} == expected


def test_nothing_else_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with instance() as it:
            program(it.root / "bin", "swtpm_setup", QUICK_SETUP)
            _, swtpm = reporting(it, "swtpm", str(shutil.which("swtpm")))
            emulator, qemu = reporting(it, "qemu-system-x86_64", EMULATOR)
            monkeypatch.setenv("PATH", path_with(it.root / "bin"))
            monkeypatch.setenv("LD_BIND_NOW", "1")
            monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
            served, virtiofsd = reporting(it, "virtiofsd", "/usr/lib/qemu/virtiofsd")
            share = shared_folder(it.root, inside=f"<binary path='{served}'/>")
            tap = f"qv{os.getpid() % 10**8}"
            async with it.serve(autostart=False) as hv:
                # whoever runs beside it has descriptors of the daemon's, too; so have its files and clients
                other = await hv.create(document("other", disk(it.image("other.img"))))
                left_open = os.open("/proc/self/status", os.O_RDONLY)
                devices = [one.replace("@TAP@", tap) for one in DEVICES]
                text = helped(disk(it.image("own.img")), share, *devices)
                text = text.replace(EMULATOR, str(emulator)).replace(
                    "<vcpu>1</vcpu>", "<vcpu>2</vcpu><iothreads>1</iothreads>"
                )
                domain = await hv.create(text, paused=True)
                await domain.destroy()
                await other.destroy()
                os.close(left_open)
            homes = {"HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"}
            check(qemu, {"socket", "/dev/net/tun"}, {"LC_ALL", "PATH", *homes}, "")
            check(virtiofsd, {"socket"}, {"LC_ALL", "PATH"}, "-fs0-fs.pid")
            check(swtpm, {"socket"}, {"LC_ALL", "PATH"}, "-swtpm.pid")

    run(scenario())
