"""A private libvirtd of the system's packages: its own directories in its own mount namespace."""

import os
import pwd
import shutil
import signal
import stat
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
    "log-swtpm": "/var/log/swtpm",
}
EMULATORS = ("qemu-system-x86_64", "qemu-system-i386")
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


class Tree:
    """libvirt's folders of a mount namespace of their own, for whatever daemon is run on them."""

    def __init__(self, directory: Path, holder: "subprocess.Popen[str]", stack: ExitStack) -> None:
        self.directory = directory
        self._holder = holder
        self._stack = stack

    @property
    def socket(self) -> Path:
        """The daemon's socket, as it is seen from outside."""
        return self.directory / "run/libvirt-sock"

    @property
    def uri(self) -> str:
        """The URI to reach the daemon by."""
        return f"qemu:///system?socket={self.socket}"

    def inside(self, *argv: str) -> list[str]:
        """Give the command that runs another one inside."""
        return ["nsenter", "-m", "-n", "-t", str(self._holder.pid), "-w/", *argv]

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        """Start a program inside, to be ended with the tree at the latest."""
        log = self._stack.enter_context((self.directory / "out").open("ab"))
        process = subprocess.Popen(
            self.inside(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )
        self._stack.callback(stop, process)
        return process

    def serve(self, *argv: str) -> "subprocess.Popen[str]":
        """Start a daemon inside and wait for its socket."""
        self.socket.unlink(missing_ok=True)
        daemon = self.start(*argv)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start: {(self.directory / 'out').read_text()}")
            time.sleep(0.02)
        return daemon

    def serve_libvirtd(self) -> "subprocess.Popen[str]":
        """Start libvirtd."""
        return self.serve(LIBVIRTD, "-p", str(self.directory / "libvirtd.pid"))


@contextmanager
def private_tree(directory: Path, *, own_network: bool = False) -> Iterator[Tree]:
    """Make libvirt's folders below `directory`, with virtlogd running; leaves no process of its own behind.

    own_network: in a network namespace of its own, with a /dev/kvm that QEMU's user may open, and nothing of
    the machine's in /run and of its control groups, so that daemons run with their usual options.
    """
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
        if not own_network:
            binds |= _without_kvm(directory)
        elif os.path.exists("/dev/kvm"):
            node = directory / "kvm"
            os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
            node.chmod(0o666)
            binds["kvm"] = "/dev/kvm"
        mounts = [(str(directory / name), place) for name, place in binds.items()]
        mounts += [("/dev/null", emulator) for emulator in _foreign_emulators()]
        script = "; ".join(f"mount --bind {what} {place}" for what, place in mounts)
        if own_network:
            # a new /sys shows the new namespace's devices
            script = (
                f"mount -t tmpfs tmpfs /run; mkdir /run/libvirt; {script}; "
                "umount -R -l /sys; mount -t sysfs sysfs /sys"
            )
        holder = subprocess.Popen(
            [
                "unshare",
                "-mn" if own_network else "-m",
                "sh",
                "-ec",
                f"{script}; echo ok; exec sleep infinity",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(stop, holder)
        assert holder.stdout
        stack.callback(holder.stdout.close)
        if holder.stdout.readline() != "ok\n":
            raise RuntimeError("no mount namespace")
        tree = Tree(directory, holder, stack)
        tree.start(VIRTLOGD, "-p", str(directory / "virtlogd.pid"))
        yield tree


@contextmanager
def private_libvirtd(directory: Path) -> Iterator[str]:
    """Run libvirtd on trees below `directory`; gives the URI of its socket, leaves no process behind."""
    with private_tree(directory) as tree:
        tree.serve_libvirtd()
        yield tree.uri


def _without_kvm(directory: Path) -> dict[str, str]:
    """Give what to mount so that nobody can use KVM.

    Where root alone may, libvirtd asks an emulator with it, then takes the answer for outdated as QEMU's user
    may not, and asks again: several seconds in each call.
    """
    if not os.path.exists("/dev/kvm"):
        return {}
    (directory / "no-kvm").touch(mode=0o600)
    # it cannot keep what is mounted there in a /dev of the guest's own
    with (directory / "etc/qemu.conf").open("a") as settings:
        settings.write("\nnamespaces = [ ]\n")
    return {"no-kvm": "/dev/kvm"}


def _foreign_emulators() -> list[str]:
    """Return the emulators no test starts, as libvirtd asks every one it finds, which takes seconds each."""
    return [str(path) for path in Path("/usr/bin").glob("qemu-system-*") if path.name not in EMULATORS]


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


def stop(process: "subprocess.Popen[str]") -> None:
    """End a process."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
