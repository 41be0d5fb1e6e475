"""A small Linux guest of Debian packages: kernel, modules, busybox, guest agent, and an initrd of them.

The packages are downloaded and unpacked into a cache folder, never installed, so no root is needed and the
host stays as it is. Run as a module to fill the cache.

The guest's serial console shows ``guest login: ready`` and then a shell prompt ``guest# ``. It obeys the
ACPI power button, sets up its first network interface by DHCP when it has one, and runs the guest agent
when it finds its channel. Told ``modules=all`` on its command line it loads the drivers of EXTRA, too.

Debian's cloud kernel boots fastest and lacks some drivers; `full_guest` is the same guest on the kernel for
all machines, which has those of trusted platform modules and of shared folders.
"""

import io
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: root's home is closed to the user that QEMU runs as
CACHE = (
    Path("/var/cache/qvirt-dev")
    if os.geteuid() == 0
    else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qvirt-dev"
)

#: loaded in this order; what a module needs comes before it
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "virtio_console",
    "virtio_balloon",
    "rng-core",
    "virtio-rng",
    "evdev",
    "button",
)

#: SCSI, IDE, CD images, panic devices, virtio input; they make a boot slower, so only where asked for
EXTRA = (
    "scsi_common",
    "scsi_mod",
    "cdrom",
    "sd_mod",
    "sr_mod",
    "virtio_scsi",
    "libata",
    "ata_piix",
    "isofs",
    "pvpanic",
    "pvpanic-mmio",
    "pvpanic-pci",
    "virtio_input",
)

#: what the other kernel has, too: shared folders
SHARING = ("netfs", "fscache", "9pnet", "9pnet_virtio", "9p", "fuse", "virtiofs")

INIT = """#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /dev/pts /run /tmp /var/run /etc/acpi/PWRF
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox --install -s /bin
ln -s /bin/busybox /sbin/hwclock
export PATH=/bin:/sbin HOME=/ TERM=dumb PS1='guest# '
echo guest >/proc/sys/kernel/hostname
for module in $(cat /modules/order); do insmod /modules/$module.ko 2>/dev/null; done
case " $(cat /proc/cmdline) " in
*" modules=all "*) for module in $(cat /modules/extra); do insmod /modules/$module.ko; done ;;
esac
for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] || continue
    mkdir -p /dev/virtio-ports
    ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat $port/name)"
done
acpid -l /dev/null 2>/dev/null
if [ -x /agent/qemu-ga ] && [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ]; then
    /agent/ld.so --library-path /agent /agent/qemu-ga -d -m virtio-serial \\
        -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qemu-ga.pid >/dev/null 2>&1
fi
if [ -e /sys/class/net/eth0 ]; then
    ip link set lo up
    ip link set eth0 up
    udhcpc -i eth0 -n -q -t 3 -s /bin/dhcp >/dev/null 2>&1 &
fi
echo 'guest login: ready'
exec setsid cttyhack sh
"""

DHCP = """#!/bin/sh
[ "$1" = bound ] && ip addr add "$ip/${mask:-24}" dev "$interface" && ip route add default via "$router"
"""

POWER = "#!/bin/sh\n/bin/busybox poweroff -f\n"

#: what the guest agent runs
SHUTDOWN = """#!/bin/sh
case "$*" in
*-r*) exec /bin/busybox reboot -f ;;
*-H*) exec /bin/busybox halt -f ;;
*) exec /bin/busybox poweroff -f ;;
esac
"""


class MissingGuest(Exception):
    """The packages cannot be had; the message says why."""


@dataclass(frozen=True)
class Guest:
    """Where the guest's files are."""

    kernel: Path
    initrd: Path

    #: what a kernel command line needs for the console to be the first serial port
    cmdline: str = "console=ttyS0 quiet panic=-1"


@dataclass(frozen=True)
class _Recipe:
    """What a guest is made of. package: whose dependency is the kernel. suffix: of its files' names."""

    package: str
    extra: tuple[str, ...]
    suffix: str = ""

    def __str__(self) -> str:
        return "\n".join((INIT, DHCP, POWER, SHUTDOWN, " ".join(MODULES + self.extra)))


_CLOUD = _Recipe("linux-image-cloud-amd64", EXTRA)
_FULL = _Recipe("linux-image-amd64", EXTRA + SHARING, "-full")


def guest() -> Guest:
    """Return the guest, made at first use. Raises MissingGuest."""
    return _guest(_CLOUD)


def full_guest() -> Guest:
    """Return the guest with the kernel that has drivers for more, made at first use. Raises MissingGuest."""
    return _guest(_FULL)


def _guest(recipe: _Recipe) -> Guest:
    made = _made(recipe)
    if made is None:
        _build(recipe)
        made = _made(recipe)
        assert made is not None
    return made


def _made(wanted: _Recipe) -> Guest | None:
    kernel, initrd, recipe = (CACHE / f"{name}{wanted.suffix}" for name in ("vmlinuz", "initrd", "recipe"))
    if kernel.exists() and initrd.exists() and recipe.exists() and recipe.read_text() == str(wanted):
        return Guest(kernel, initrd)
    return None


def _apt(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise MissingGuest(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _download(name: str, into: Path) -> None:
    """Download a package and unpack it."""
    work = into.parent / f"deb-{name}"
    work.mkdir(parents=True)
    done = subprocess.run(
        ["apt-get", "download", "-qq", name],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    debs = list(work.glob("*.deb"))
    if done.returncode or not debs:
        raise MissingGuest(f"cannot download Debian package {name}: {done.stderr.strip()[-300:]}")
    _apt("dpkg-deb", "-x", str(debs[0]), str(into))


def _build(wanted: _Recipe) -> None:
    if not shutil.which("apt-get"):
        raise MissingGuest("the guest is made of Debian packages, and there is no apt-get here")
    depends = re.search(r"Depends: (linux-image-[0-9]\S+)", _apt("apt-cache", "depends", wanted.package))
    if depends is None:
        raise MissingGuest(f"no Debian package {wanted.package} (is 'apt-get update' due?)")
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"work{wanted.suffix}-{os.getpid()}"
    try:
        root = work / "root"
        root.mkdir(parents=True)
        for package in (depends[1], "busybox-static", "qemu-guest-agent"):
            _download(package, root)
        kernel = next((root / "boot").glob("vmlinuz-*"))
        initrd = work / "initrd"
        initrd.write_bytes(_initrd(root, wanted.extra))
        recipe = work / "recipe"
        recipe.write_text(str(wanted))
        for made, name in ((kernel, "vmlinuz"), (initrd, "initrd"), (recipe, "recipe")):
            target = CACHE / f"{name}{wanted.suffix}"
            made.replace(target)
            target.chmod(0o644)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Archive:
    """A cpio archive of the kind the kernel unpacks ("newc")."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0

    def add(self, name: str, data: bytes, mode: int) -> None:
        self._inode += 1
        numbers = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        self._out.write(b"070701" + b"".join(b"%08x" % n for n in numbers) + name.encode() + b"\0")
        self._pad()
        self._out.write(data)
        self._pad()

    def _pad(self) -> None:
        self._out.write(b"\0" * (-self._out.tell() % 4))

    def folder(self, name: str) -> None:
        self.add(name, b"", stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o755) -> None:
        self.add(name, data, stat.S_IFREG | mode)

    def bytes(self) -> bytes:
        self.add("TRAILER!!!", b"", 0)
        return self._out.getvalue()


def _initrd(root: Path, extra: tuple[str, ...]) -> bytes:
    archive = _Archive()
    for folder in (
        "bin",
        "sbin",
        "proc",
        "sys",
        "dev",
        "etc",
        "etc/acpi",
        "etc/acpi/PWRF",
        "modules",
        "agent",
    ):
        archive.folder(folder)
    archive.add("dev/console", b"", stat.S_IFCHR | 0o600)
    archive.file("init", INIT.encode())
    archive.file("bin/dhcp", DHCP.encode())
    archive.file("sbin/shutdown", SHUTDOWN.encode())
    archive.file("etc/acpi/PWRF/00000080", POWER.encode())
    archive.file(
        "bin/busybox",
        next(p for p in (root / "bin/busybox", root / "usr/bin/busybox") if p.exists()).read_bytes(),
    )
    archive.add("bin/sh", b"busybox", stat.S_IFLNK | 0o777)
    known = {path.stem: path for path in root.glob("**/lib/modules/**/*.ko")}
    for listing, names in (("order", MODULES), ("extra", extra)):
        there = [name for name in names if name in known]
        for name in there:
            archive.file(f"modules/{name}.ko", known[name].read_bytes(), 0o644)
        archive.file(f"modules/{listing}", "\n".join(there).encode() + b"\n", 0o644)
    agent = next((p for p in (root / "usr/sbin/qemu-ga", root / "usr/bin/qemu-ga") if p.exists()), None)
    if agent is not None:
        for library, data in _libraries(agent).items():
            archive.file(f"agent/{library}", data)
        archive.file("agent/qemu-ga", agent.read_bytes())
    return archive.bytes()


def _libraries(program: Path) -> dict[str, bytes]:
    """Return the shared libraries a program needs, from this host, and the loader as ``ld.so``."""
    listed = subprocess.run(
        ["ldd", str(program)], capture_output=True, text=True, check=False, timeout=30
    ).stdout
    found: dict[str, bytes] = {}
    for words in (line.split() for line in listed.splitlines()):
        if len(words) >= 3 and words[1] == "=>" and words[2].startswith("/"):
            found[words[0]] = Path(words[2]).read_bytes()
        elif words and words[0].startswith("/") and "ld-linux" in words[0]:
            found["ld.so"] = Path(words[0]).read_bytes()
    return found


if __name__ == "__main__":
    try:
        guest()
        full_guest()
    except MissingGuest as reason:
        print(f"no guest to boot, tests that need one are skipped: {reason}", file=sys.stderr)
