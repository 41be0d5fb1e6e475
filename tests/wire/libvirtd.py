"""A private libvirtd of the system's packages: its own directories in its own mount namespace."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LIBVIRTD = "/usr/sbin/libvirtd"
VIRTLOGD = "/usr/sbin/virtlogd"
BINDS = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log/libvirt",
}
START_TIMEOUT = 40.0
STOP_TIMEOUT = 20.0


def missing() -> str | None:
    """Say why a private libvirtd cannot run here, None when it can."""
    if os.geteuid() != 0:
        return "a private libvirtd needs root"
    for program in (LIBVIRTD, VIRTLOGD, "/usr/bin/unshare", "/usr/bin/nsenter"):
        if not os.path.exists(program):
            return f"{program} is not installed"
    return None


@contextmanager
def private_libvirtd(directory: Path) -> Iterator[str]:
    """Run libvirtd on trees below `directory`; gives the URI of its socket, leaves no process behind."""
    with ExitStack() as stack:
        for name, place in BINDS.items():
            (directory / name).mkdir()
            # what to mount on; the packages make them only together with the system's own daemon
            os.makedirs(place, exist_ok=True)
        shutil.copytree(
            "/etc/libvirt",
            directory / "etc",
            ignore=shutil.ignore_patterns("networks", "autostart"),
            dirs_exist_ok=True,
        )
        binds = {**BINDS, **_with_its_user(directory)}
        script = "; ".join(f"mount --bind {directory / name} {place}" for name, place in binds.items())
        holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-ec", f"{script}; echo ok; exec sleep infinity"],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_stop, holder)
        assert holder.stdout
        stack.callback(holder.stdout.close)
        if holder.stdout.readline() != "ok\n":
            raise RuntimeError("no mount namespace")
        daemon = holder
        for program, pid_file in ((VIRTLOGD, "virtlogd.pid"), (LIBVIRTD, "libvirtd.pid")):
            log = stack.enter_context((directory / "out").open("ab"))
            daemon = subprocess.Popen(
                ["nsenter", "-m", "-t", str(holder.pid), "-w/", program, "-p", str(directory / pid_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
            stack.callback(_stop, daemon)
        socket = directory / "run/libvirt-sock"
        deadline = time.monotonic() + START_TIMEOUT
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"libvirtd did not start: {(directory / 'out').read_text()}")
            time.sleep(0.02)
        yield f"qemu:///system?socket={socket}"


def _with_its_user(directory: Path) -> dict[str, str]:
    """Give what to mount so that there is the user it runs QEMU as, whom another package makes."""
    try:
        pwd.getpwnam("libvirt-qemu")
    except KeyError:
        pass
    else:
        return {}
    passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
    line = "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin"
    (directory / "passwd").write_text(f"{passwd}{line}\n")
    (directory / "group").write_text(f"{group}libvirt-qemu:x:64055:\nkvm:x:64056:\n")
    return {"passwd": "/etc/passwd", "group": "/etc/group"}


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
