"""A probe in the place of a guest's helper tries what whoever has taken the helper over would try."""

import json
import os
import pwd
import shutil
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import QvirtError
from tests.functional.runtime.helping import QUICK_SETUP, TPM, helped, path_with, program, shared_folder
from tests.functional.runtime.instance import EMULATOR, Instance, instance, run
from tests.functional.security.test_inside import PROBE, loop
from tests.support.groups import groups_of

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed"),
]

__all__ = ["loop"]

#: by number: chown dac_override dac_read_search fowner fsetid setgid setuid setpcap sys_admin sys_resource
#: mknod setfcap
SERVERS = (0, 1, 2, 3, 4, 6, 7, 8, 21, 24, 27, 31)


def probing(it: Instance, name: str, real: str, marker: str, paths: dict[str, str]) -> tuple[Path, Path]:
    """Return a program that runs the probe first when it serves a guest, and where the probe writes."""
    folder = it.root / "probe"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    given = json.dumps({"paths": paths, "folder": str(folder), "daemon": os.getpid(), "stranger": 4711})
    script, out = folder / f"{name}.py", folder / f"{name}.json"
    script.write_text(PROBE % given)
    first = f'case "$*" in *{marker}*) /usr/bin/python3 -I {script} >{out} 2>&1 ;; esac'
    return program(it.root / "bin", name, f'#!/bin/sh\n{first}\nexec {real} "$@"\n'), out


def test_only_its_own_is_in_reach_of_a_helper(monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image("other.img")
            image.chmod(0o600)
            os.chown(image, 4711, 4711)
            tss = pwd.getpwnam("tss")
            # the state of another guest's TPM, and its document: swtpm's user may read the one, all the other
            state = it.paths.swtpm_storage / "11111111-1111-1111-1111-111111111111/tpm2/tpm2-00.permall"
            document = it.paths.definitions / "other.xml"
            async with it.serve(autostart=False) as hv:
                for path, owner in ((state, tss.pw_uid), (document, 0)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("secret")
                    os.chown(path, owner, -1)
                    path.chmod(0o644)
                    path.parent.chmod(0o755)
                paths = {"other disk": str(image), "loop": loop, "kvm": "/dev/kvm"}
                paths |= {"other state": str(state), "other document": str(document)}
                program(it.root / "bin", "swtpm_setup", QUICK_SETUP)
                probing(it, "swtpm", str(shutil.which("swtpm")), "--terminate", paths)
                monkeypatch.setenv("PATH", path_with(it.root / "bin"))
                served, said = probing(it, "virtiofsd", "/usr/lib/qemu/virtiofsd", "--fd", paths)
                share = shared_folder(it.root, inside=f"<binary path='{served}'/>")
                domain = await hv.create(helped(TPM, share), paused=True)
                await domain.destroy()
                has_own_dev, confines = hv.private_dev, hv.cgroups.confines_devices
            check_swtpm(json.loads((it.root / "probe/swtpm.json").read_text()), own_dev=has_own_dev)
            check_virtiofsd(json.loads(said.read_text()), confines=confines)
            assert groups_of(it.root) == []

    run(scenario())


def check_swtpm(found: dict[str, Any], *, own_dev: bool) -> None:
    """It is a user without power, and sees nothing of other guests."""
    status, tried = found["status"], found["tried"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    tss = pwd.getpwnam("tss")
    assert (status["Uid"].split(), status["Gid"].split()) == ([str(tss.pw_uid)] * 4, [str(tss.pw_gid)] * 4)
    assert status["Groups"].split() == [str(tss.pw_gid)]
    assert {*found["environment"]} <= {"LC_ALL", "PATH", "LC_CTYPE", "PWD"}
    assert found["core"] == [0, 0]
    assert len(status["fds"]) <= 7  # the probe's own, the socket and the pid file
    assert tried.pop("null") == "done"
    if own_dev:
        for name in ("other state", "other document", "loop", "kvm"):
            assert tried.pop(name) == "No such file or directory", name
    else:
        for name in ("other state", "other document", "loop", "kvm"):
            tried.pop(name)
    assert {name for name, result in tried.items() if result == "done"} == set()


def check_virtiofsd(found: dict[str, Any], *, confines: bool) -> None:
    """It is root, as it serves everybody's files, with that power alone; then it shuts itself in."""
    status, tried = found["status"], found["tried"]
    ours = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in line)
    mask = sum(1 << bit for bit in SERVERS) & int(ours.split()[1], 16)  # a container's root may have less
    assert int(status["CapBnd"], 16) == mask
    assert status["NoNewPrivs"] == "1"
    for name in ("raw socket", "ptrace", "module", "chroot", "reboot"):
        assert tried[name] != "done", name
    if confines:
        assert tried["loop"] == "Operation not permitted"


#: in QEMU's place: who serves the socket, and with what power
ASK = """
import json, socket, struct, sys
it = socket.socket(socket.AF_UNIX)
it.connect(sys.argv[1])
pid = struct.unpack("iII", it.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
lines = open(f"/proc/{pid}/status").read().splitlines()
status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
print(json.dumps({"features": len(it.recv(4)), **status}))
"""


@pytest.mark.skipif(not os.access("/usr/bin/qemu-pr-helper", os.X_OK), reason="no qemu-pr-helper here")
def test_a_helper_for_reservations_serves_qemu_and_has_what_it_takes(loop: str) -> None:
    """No SCSI disk is here to reserve; QEMU says so, and by then the helper has answered it."""

    async def scenario() -> None:
        with instance() as it:
            folder = it.root / "probe"
            folder.mkdir()
            folder.chmod(0o777)
            script, out = folder / "ask.py", folder / "out"
            script.write_text(ASK)
            ask = f"""case "$*" in *guest=helped*)
    path=$(printf '%s' "$*" | sed 's/.*"path":"\\([^"]*pr-helper0.sock\\)".*/\\1/')
    /usr/bin/python3 -I {script} "$path" >{out} 2>&1 ;; esac"""
            emulator = program(
                it.root / "bin", "qemu-system-x86_64", f'#!/bin/sh\n{ask}\nexec {EMULATOR} "$@"\n'
            )
            lun = (
                "<disk type='block' device='lun'><driver name='qemu' type='raw'/>"
                f"<source dev='{loop}'><reservations managed='yes'/></source><target dev='sda' bus='scsi'/>"
                "</disk>"
            )
            text = helped("<controller type='scsi' model='virtio-scsi'/>", lun, lun.replace("sda", "sdb"))
            async with it.serve(autostart=False) as hv:
                with pytest.raises(QvirtError, match="SG_IO"):
                    await hv.create(text.replace(EMULATOR, str(emulator)))
                assert it.processes() == []
                assert it.traces() == []
            found = json.loads(out.read_text())
            assert found["features"] == 4
            assert found["NoNewPrivs"] == "1"
            # to pass SCSI commands on, and for multipath devices
            assert int(found["CapEff"], 16) & ~(1 << 17 | 1 << 21) == 0
            assert int(found["CapBnd"], 16) & ~(1 << 17 | 1 << 21 | 1 << 8 | 1 << 7 | 1 << 6 | 1 << 1) == 0

    run(scenario())
