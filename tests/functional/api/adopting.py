"""Every QEMU of a process namespace adopted at once; run by `test_adopt` as the first process of its own.

Its end is the end of all that it started.
"""

import contextlib
import os
import shlex
import signal
import subprocess
from pathlib import Path

from tests.functional.api.test_adopt import folder_of, qemu
from tests.support.daemon import Daemon, running_daemon, wait_until

OWN = (
    "<domain type='qemu'><name>own</name><memory>32768</memory>"
    "<os><type arch='x86_64'>hvm</type></os></domain>"
)
WORDS = {
    "first": "-name first -nodefaults -m 32 -drive if=virtio,file=a.qcow2,format=qcow2",
    "second": "-name second -m 64 -hda a.qcow2 -net nic,model=e1000 -net user -smp 2",
    "third": "-name third -nodefaults -m 32 -S -cdrom b.img",
}
MONITORS = {
    "first": "-qmp unix:{}/q.sock,server=on,wait=off",
    "second": "-qmp unix:{}/q.sock,server=on,wait=off -monitor none",
    "third": "-chardev socket,id=m,path={}/q.sock,server=on,wait=off -mon chardev=m,mode=control",
}


def main() -> None:
    """Adopt three of four, twice, over a restart of the daemon."""
    with running_daemon() as daemon, contextlib.ExitStack() as stack:
        daemon.virsh("create", "/dev/stdin", input=OWN)
        pids = {}
        for name, words in WORDS.items():
            folder = folder_of(daemon, name)
            pids[name] = stack.enter_context(qemu(folder, words, MONITORS[name]))
            wait_until((folder / "q.sock").exists, f"{name} has its monitor")
        deaf = stack.enter_context(qemu(folder_of(daemon, "deaf"), "-nodefaults -m 16 -S", "-monitor none"))
        wait_until(lambda: "qemu" in os.readlink(f"/proc/{deaf}/exe"), "QEMU runs")

        done = daemon.qvirt("adopt", "--all", "--define")
        said = sorted(filter(None, done.stdout.splitlines()))
        assert said == [f"Domain '{name}' adopted from pid {pids[name]} and defined" for name in WORDS], done
        assert f"failed to adopt pid {deaf}: " in done.stderr
        assert "1 of 4 QEMUs stay as they are" in done.stderr
        assert done.returncode == 1
        states(daemon)

        daemon.kill()
        daemon.start()
        states(daemon)
        again = daemon.qvirt("adopt", "--all")
        assert again.stdout.strip() == ""
        assert "1 of 1 QEMUs stay as they are" in again.stderr
        assert "first" not in again.stderr

        os.kill(pids["first"], signal.SIGKILL)
        wait_until(lambda: daemon.virsh("domstate", "first").strip() == "shut off", "its end is seen")
        daemon.virsh("start", "first")
        for name in ("own", *WORDS):
            daemon.virsh("destroy", name)
            if name != "own":
                daemon.virsh("undefine", name)
        wait_until(lambda: not daemon.virsh("list", "--all", "--name").split(), "nothing is left")
        assert subprocess.run(["kill", "-0", str(deaf)], check=False).returncode == 0, shlex.join(["deaf"])
        assert not list((daemon.root / "run/libvirt/qemu").glob("*.xml"))


def states(daemon: Daemon) -> None:
    """See that all are there, as they were."""
    assert sorted(daemon.virsh("list", "--name").split()) == ["first", "own", "second", "third"]
    assert daemon.virsh("domstate", "third").strip() == "paused"
    assert daemon.virsh("domstate", "second").strip() == "running"
    assert str(Path("second/a.qcow2")) in daemon.virsh("domblklist", "second")
    assert daemon.virsh("vcpucount", "second", "--active", "--live").strip() == "2"


if __name__ == "__main__":
    main()
