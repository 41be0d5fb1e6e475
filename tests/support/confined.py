"""Domains for comparing what confines them: one row per kind of thing a QEMU gets at.

`FOLDER` stands for a folder of the test's own; `make` puts there the files that the documents name.
`TOGETHER` has rows whose devices one domain can have together, where starting each takes long.
"""

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase

FOLDER = "@FOLDER@"

_DOMAIN = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  {memory}<os><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {usb}
    {devices}
    <memballoon model='none'/>
  </devices>
  {labels}
  {command}
</domain>
"""


def _disk(source: str, *, type: str = "file", driver: str = "raw", more: str = "", dev: str = "vda") -> str:
    return (
        f"<disk type='{type}' device='disk'><driver name='qemu' type='{driver}'/>{source}"
        f"<target dev='{dev}' bus='virtio'/>{more}</disk>"
    )


def _file(name: str, labels: str = "") -> str:
    return f"<source file='@FOLDER@/{name}'>{labels}</source>"


_SELINUX = "<seclabel type='{}' model='selinux' relabel='{}'>{}</seclabel>"
_GIVEN = "system_u:system_r:svirt_t:s0"

#: name -> what the document has beside the frame; "devices", "os", "memory", "labels", "machine", "usb",
#: "command"; "only": the one model under which it is started
DOMAINS: dict[str, dict[str, str]] = {
    "bare": {},
    "raw": {"devices": _disk(_file("a.img"))},
    "readonly": {"devices": _disk(_file("a.img"), more="<readonly/>")},
    "shareable": {"devices": _disk(_file("a.img"), more="<shareable/>")},
    "cdrom": {
        "devices": "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
        "<source file='@FOLDER@/cd.iso'/><target dev='hda' bus='ide'/><readonly/></disk>"
    },
    "empty-cdrom": {
        "devices": "<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>"
    },
    "floppy": {
        "devices": "<disk type='file' device='floppy'><driver name='qemu' type='raw'/>"
        "<source file='@FOLDER@/a.img'/><target dev='fda' bus='fdc'/></disk>"
    },
    "backing-chain": {"devices": _disk(_file("top.qcow2"), driver="qcow2")},
    "backing-said": {
        "devices": _disk(
            _file("top.qcow2"),
            driver="qcow2",
            more="<backingStore type='file'><format type='qcow2'/><source file='@FOLDER@/middle.qcow2'/>"
            "<backingStore type='file'><format type='raw'/><source file='@FOLDER@/base.img'/>"
            "<backingStore/></backingStore></backingStore>",
        )
    },
    "relative-backing": {"devices": _disk(_file("relative.qcow2"), driver="qcow2")},
    "symlink": {"devices": _disk(_file("link.img"))},
    "odd-name": {"devices": _disk(_file("a b[c]{d},e.img"))},
    "disk-relabel-no": {"devices": _disk(_file("a.img", "<seclabel model='dac' relabel='no'/>"))},
    "block": {"devices": _disk("<source dev='@FOLDER@/loop'/>", type="block")},
    "two-disks": {"devices": _disk(_file("a.img")) + _disk(_file("b.img"), dev="vdb")},
    "network-nbd-unix": {
        "devices": _disk(
            "<source protocol='nbd' name='x'><host transport='unix' socket='@FOLDER@/nbd.sock'/></source>",
            type="network",
        )
    },
    "serial-pty": {"devices": "<serial type='pty'/>"},
    "serial-file": {"devices": "<serial type='file'><source path='@FOLDER@/serial.log'/></serial>"},
    "serial-pipe": {"devices": "<serial type='pipe'><source path='@FOLDER@/pp'/></serial>"},
    "serial-dev": {"devices": "<serial type='dev'><source path='@FOLDER@/tty'/></serial>"},
    "serial-unix-bind": {
        "devices": "<serial type='unix'><source mode='bind' path='@FOLDER@/bound.sock'/></serial>"
    },
    "serial-unix-connect": {
        "devices": "<serial type='unix'><source mode='connect' path='@FOLDER@/served.sock'/></serial>"
    },
    "serial-log": {"devices": "<serial type='pty'><log file='@FOLDER@/said.log'/></serial>"},
    "parallel-file": {"devices": "<parallel type='file'><source path='@FOLDER@/serial.log'/></parallel>"},
    "console-file": {
        "devices": "<console type='file'><source path='@FOLDER@/serial.log'/>"
        "<target type='virtio'/></console>"
    },
    "channel-unix": {
        "devices": "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    },
    "channel-file": {
        "devices": "<channel type='file'><source path='@FOLDER@/serial.log'/>"
        "<target type='virtio' name='x.0'/></channel>"
    },
    "kernel": {
        "os": "<kernel>@FOLDER@/kernel</kernel><initrd>@FOLDER@/initrd</initrd><cmdline>quiet</cmdline>"
    },
    "firmware": {
        "machine": "q35",
        "os": "<loader readonly='yes' type='pflash'>@FOLDER@/code.fd</loader>"
        "<nvram template='@FOLDER@/vars.fd'>@FOLDER@/own_VARS.fd</nvram>",
        "memory": "<features><acpi/></features>",
    },
    "rng-random": {
        "devices": "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
    },
    "rng-egd": {
        "devices": "<rng model='virtio'><backend model='egd' type='unix'>"
        "<source mode='connect' path='@FOLDER@/served.sock'/></backend></rng>"
    },
    "filesystem-9p": {
        "devices": "<filesystem type='mount' accessmode='passthrough'><source dir='@FOLDER@/shared'/>"
        "<target dir='tag'/></filesystem>"
    },
    "filesystem-9p-readonly": {
        "devices": "<filesystem type='mount' accessmode='mapped'><source dir='@FOLDER@/shared'/>"
        "<target dir='tag'/><readonly/></filesystem>"
    },
    "hugepages-file": {"memory": "<memoryBacking><source type='file'/></memoryBacking>"},
    "memfd": {"memory": "<memoryBacking><source type='memfd'/></memoryBacking>"},
    "shmem": {
        "devices": "<shmem name='window'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"
    },
    "nvdimm": {
        "memory": "<maxMemory slots='2' unit='MiB'>512</maxMemory><features><acpi/></features>"
        "<cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu>",
        "devices": "<memory model='nvdimm' access='shared'><source><path>@FOLDER@/nvdimm</path></source>"
        "<target><size unit='MiB'>16</size><node>0</node></target></memory>",
    },
    "input-evdev": {
        "devices": "<input type='passthrough' bus='virtio'><source evdev='@FOLDER@/tty'/></input>"
    },
    "vnc-socket": {
        "devices": "<graphics type='vnc'><listen type='socket' socket='@FOLDER@/vnc.sock'/></graphics>"
    },
    "user-network": {
        "devices": "<interface type='user'><mac address='52:54:00:00:00:01'/>"
        "<model type='virtio'/></interface>"
    },
    "ethernet": {
        "devices": "<interface type='ethernet'><mac address='52:54:00:00:00:02'/>"
        "<model type='virtio'/></interface>"
    },
    "vhostuser": {
        "memory": "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        "devices": "<interface type='vhostuser'><mac address='52:54:00:00:00:03'/>"
        "<source type='unix' path='@FOLDER@/vhost.sock' mode='server'/><model type='virtio'/></interface>",
    },
    "label-none": {"devices": _disk(_file("a.img")), "labels": "<seclabel type='none'/>"},
    "label-static-dac": {
        "devices": _disk(_file("a.img")),
        "labels": "<seclabel type='static' model='dac' relabel='yes'><label>root:root</label></seclabel>",
    },
    "label-dynamic-dac": {"labels": "<seclabel type='dynamic' model='dac' relabel='yes'/>"},
    "label-none-dac": {"devices": _disk(_file("a.img")), "labels": "<seclabel type='none' model='dac'/>"},
    "label-none-selinux": {
        "devices": _disk(_file("a.img")), "labels": "<seclabel type='none' model='selinux'/>",
        "only": "selinux",
    },
    "label-static-selinux": {
        "devices": _disk(_file("a.img")) + _disk(_file("cd.iso"), more="<readonly/>", dev="vdb"),
        "labels": _SELINUX.format("static", "yes", f"<label>{_GIVEN}:c392,c662</label>"), "only": "selinux",
    },
    "label-static-selinux-relabel-no": {
        "devices": _disk(_file("a.img")),
        "labels": _SELINUX.format("static", "no", f"<label>{_GIVEN}:c392,c662</label>"), "only": "selinux",
    },
    "label-base-selinux": {
        "devices": _disk(_file("a.img")),
        "labels": _SELINUX.format("dynamic", "yes", f"<baselabel>{_GIVEN}</baselabel>"), "only": "selinux",
    },
    "disk-label-selinux": {
        "devices": _disk(_file("a.img", "<seclabel model='selinux' relabel='yes'>"
        "<label>system_u:object_r:svirt_image_t:s0</label></seclabel>")), "only": "selinux",
    },
    "disk-relabel-no-selinux": {
        "devices": _disk(_file("a.img", "<seclabel model='selinux' relabel='no'/>")), "only": "selinux",
    },
    "label-none-apparmor": {
        "devices": _disk(_file("a.img")), "labels": "<seclabel type='none' model='apparmor'/>",
        "only": "apparmor",
    },
    "label-unknown": {
        "labels": "<seclabel type='static' model='nosuch' relabel='no'><label>x</label></seclabel>"
    },
    "disk-label-dac": {
        "devices": _disk(_file("a.img", "<seclabel model='dac' relabel='yes'><label>+64055:+1234</label>"
        "</seclabel>"))
    },
    "serial-relabel-no": {
        "devices": "<serial type='pipe'><source path='@FOLDER@/pp'><seclabel model='dac' relabel='no'/>"
        "</source></serial>"
    },
    "kernel-static-dac": {
        "os": "<kernel>@FOLDER@/kernel</kernel>",
        "labels": "<seclabel type='static' model='dac' relabel='no'><label>root:root</label></seclabel>",
    },
    "block-dev": {"devices": _disk("<source dev='/dev/loop0'/>", type="block")},
    "block-dev-readonly": {"devices": _disk("<source dev='/dev/loop1'/>", type="block", more="<readonly/>")},
    "block-dev-link": {"devices": _disk("<source dev='/dev/beside/loop'/>", type="block")},
    "transient": {"devices": _disk(_file("a.img"), more="<transient/>")},
    "rom-loader": {"os": "<loader type='rom'>@FOLDER@/rom.bin</loader>"},
    "slic": {"os": "<acpi><table type='slic'>@FOLDER@/slic</table></acpi>",
        "memory": "<features><acpi/></features>"},
    "rng-hwrng": {"devices": "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>"},
    "virtiofs": {
        "memory": "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        "devices": "<filesystem type='mount'><driver type='virtiofs'/><source dir='@FOLDER@/shared'/>"
        "<target dir='tag'/></filesystem>",
    },
    "hugepages": {"memory": "<memoryBacking><hugepages/></memoryBacking>"},
    "shmem-doorbell": {
        "devices": "<shmem name='bell'><model type='ivshmem-doorbell'/>"
        "<server path='@FOLDER@/served.sock'/></shmem>"
    },
    "vsock": {"devices": "<vsock model='virtio'><cid auto='no' address='77'/></vsock>"},
    "tpm-passthrough": {
        "devices": "<tpm model='tpm-tis'><backend type='passthrough'><device path='@FOLDER@/tty'/></backend>"
        "</tpm>"
    },
    "smartcard-certificates": {
        "devices": "<controller type='ccid' index='0'/><smartcard mode='host-certificates'>"
        "<certificate>a</certificate><certificate>b</certificate><certificate>c</certificate>"
        "<database>@FOLDER@/shared</database></smartcard>",
        "usb": "<controller type='usb' model='piix3-uhci'/>",
    },
    "smartcard-passthrough": {
        "devices": "<controller type='ccid' index='0'/><smartcard mode='passthrough' type='unix'>"
        "<source mode='bind' path='@FOLDER@/card.sock'/></smartcard>",
        "usb": "<controller type='usb' model='piix3-uhci'/>",
    },
    "redirdev-unix": {
        "devices": "<redirdev bus='usb' type='unix'><source mode='bind' path='@FOLDER@/redir.sock'/>"
        "</redirdev>",
        "usb": "<controller type='usb' model='piix3-uhci'/>",
    },
    "hostdev-pci": {
        "devices": "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
        "<address domain='0x0000' bus='0x00' slot='0x1d' function='0x0'/></source></hostdev>"
    },
    "hostdev-usb-absent": {
        "devices": "<hostdev mode='subsystem' type='usb' managed='yes'><source>"
        "<address bus='1' device='2'/></source></hostdev>",
        "usb": "<controller type='usb' model='piix3-uhci'/>",
    },
    "vhost-net": {
        "devices": "<interface type='ethernet'><mac address='52:54:00:00:00:04'/><model type='virtio'/>"
        "<driver name='vhost' queues='2'/></interface>"
    },
    "vnc-auto-socket": {"devices": "<graphics type='vnc'><listen type='socket'/></graphics>"},
    "commandline": {
        "command": "<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='pvpanic'/>"
        "<qemu:env name='QVIRT_X' value='y'/></qemu:commandline>"
    },
    "commandline-file": {
        "command": "<qemu:commandline><qemu:arg value='-fw_cfg'/>"
        "<qemu:arg value='name=opt/x,file=@FOLDER@/private'/></qemu:commandline>"
    },
    "second-disk-missing": {"devices": _disk(_file("a.img")) + _disk(_file("nowhere.img"), dev="vdb")},
}  # fmt: skip


_FRAME = {
    **dict.fromkeys(("devices", "os", "memory", "labels", "command"), ""),
    "machine": "pc",
    "usb": "<controller type='usb' model='none'/>",
}


#: domains with the devices of several rows, each with files of its own; what is in none of them starts alone
TOGETHER: dict[str, tuple[str, ...]] = {
    "disks": (
        *("raw", "readonly", "shareable", "cdrom", "empty-cdrom", "floppy", "two-disks", "symlink"),
        *("backing-chain", "backing-said", "relative-backing", "block", "block-dev", "block-dev-readonly"),
        *("block-dev-link", "disk-label-dac", "disk-label-selinux"),
    ),
    "serials": ("serial-pty", "serial-file", "serial-pipe", "serial-log"),
    "sockets": (
        *("serial-dev", "serial-unix-connect", "serial-unix-bind", "parallel-file", "console-file"),
        *("channel-unix", "channel-file", "redirdev-unix"),
    ),
    "others": (
        *("rng-random", "rng-hwrng", "filesystem-9p", "filesystem-9p-readonly", "user-network"),
        *("ethernet", "vhost-net", "vnc-auto-socket", "commandline"),
    ),
    "boot": ("kernel", "slic", "label-dynamic-dac"),
    "shared-memory": ("virtiofs", "shmem", "vsock", "smartcard-passthrough", "transient"),
}


def uuid_of(name: str) -> str:
    """Return the uuid of a domain of the tables."""
    return f"5ec00000-0000-4000-8000-{[*DOMAINS, *TOGETHER].index(name):012x}"


def document(name: str, folder: Path | str) -> str:
    """Return a domain's document."""
    parts = {**_FRAME, **DOMAINS[name]}
    text = _DOMAIN.format(name=f"sec-{name}", uuid=uuid_of(name), **parts)
    return text.replace(FOLDER, str(folder))


#: rows that are compared by their rules alone
RULES_ALONE = ("hugepages", "hostdev-pci")


def selected(variant: str) -> dict[str, list[str]]:
    """Return the domains to start under ``apparmor`` or ``selinux``, and the rows each is made of.

    Under AppArmor those of `TOGETHER`: each start of libvirt's loads a profile five times, of seconds each.
    """
    rows = [row for row, parts in DOMAINS.items() if parts.get("only", variant) == variant]
    rows = [row for row in rows if row not in RULES_ALONE]
    found = {name: [row for row in together if row in rows] for name, together in TOGETHER.items()}
    if variant == "apparmor":
        return found
    taken = {row for together in found.values() for row in together}
    return found | {row: [row] for row in rows if row not in taken}


def combined(name: str, rows: Sequence[str], folder: Path) -> str:
    """Return the document of a domain made of rows; each row's files are in a folder of its name."""
    parts = dict(_FRAME)
    for row in rows:
        for key, text in DOMAINS[row].items():
            mine = text.replace(FOLDER, str(folder / row)).replace("dir='tag'", f"dir='{row}'")
            is_more = key in parts and parts[key] not in ("", mine) and key not in ("usb", "machine")
            parts[key] = parts[key] + mine if is_more else mine
    letters = {prefix: iter(ascii_lowercase) for prefix in ("vd", "hd", "fd")}
    text = _DOMAIN.format(name=f"sec-{name}", uuid=uuid_of(name), **parts)
    return re.sub(r"dev='(vd|hd|fd)[a-z]'", lambda match: f"dev='{match[1]}{next(letters[match[1]])}'", text)


# ------------------------------------------------------------------------- files


def _zeros(size: int) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return made


def _overlay(below: str, kind: str, *, relative: bool = False) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        FILES[below](path.parent / below)
        backing = below if relative else str(path.parent / below)
        words = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", kind, str(path))
        subprocess.run(words, cwd=path.parent, check=True)

    return made


def _link(path: Path) -> None:
    FILES["a.img"](path.parent / "a.img")
    path.symlink_to(path.parent / "a.img")


def _pipes(path: Path) -> None:
    for end in (".in", ".out"):
        os.mkfifo(f"{path}{end}")


#: name -> what makes it
FILES: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(("a.img", "b.img", "cd.iso", "base.img", "a b[c]{d},e.img"), _zeros(16 << 20)),
    **dict.fromkeys(("kernel", "initrd", "nvdimm"), _zeros(16 << 20)),
    **dict.fromkeys(("code.fd", "vars.fd"), _zeros(1 << 20)),
    "rom.bin": _zeros(256 << 10),
    "private": _zeros(4096),
    "slic": lambda path: void(path.write_bytes(b"SLIC" + (40).to_bytes(4, "little") + bytes(32))),
    "middle.qcow2": _overlay("base.img", "raw"),
    "top.qcow2": _overlay("middle.qcow2", "qcow2"),
    "relative.qcow2": _overlay("base.img", "raw", relative=True),
    "link.img": _link,
    "pp": _pipes,
    "tty": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
    "loop": lambda path: os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 3)),
    "shared": lambda path: path.mkdir(),
}


def void(_: object) -> None:
    """Leave a value."""


def make(folder: Path) -> None:
    """Make all files that the documents name, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, maker in FILES.items():
        if not (folder / name).exists():
            maker(folder / name)


def make_for(rows: Iterable[str], folder: Path) -> None:
    """Make the files of rows, each in a folder of its name."""
    for row in rows:
        mine = folder / row
        mine.mkdir(parents=True)
        text = "".join(DOMAINS[row].values())
        for name, maker in FILES.items():
            is_named = f"{FOLDER}/{name}'" in text or f"{FOLDER}/{name}<" in text
            if is_named and not (mine / name).exists():
                maker(mine / name)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Listen on the sockets that a row's domain connects to, until the block ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one, contextlib.ExitStack() as stack:
        one.bind(str(folder / "served.sock"))
        one.listen(8)
        if "nbd" in folder.name:
            words = ("--export-name", "x", "--persistent", "--format", "raw", str(folder / "served.img"))
            _zeros(1 << 20)(folder / "served.img")
            call = [
                "qemu-nbd",
                "--fork",
                "--pid-file",
                str(folder / "pid"),
                "--socket",
                str(folder / "nbd.sock"),
            ]
            subprocess.run([*call, *words], check=True)
            stack.callback(os.kill, int((folder / "pid").read_text()), signal.SIGTERM)
        yield


#: libvirt's own generator of rules; needs no AppArmor to say what it would do
HELPER = "/usr/lib/libvirt/virt-aa-helper"


def libvirts_rules(name: str, folder: Path) -> list[str]:
    """Return the rules libvirt has for a domain's devices, with `FOLDER` for the folder.

    Those that every domain has are left out.
    """
    done = subprocess.run(
        [HELPER, "--dryrun", "--replace", "--uuid", f"libvirt-{uuid_of(name)}"],
        input=document(name, folder),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    common = ("/monitor.sock", "/domain-", "/run/libvirt/**", "/var/log/libvirt/**", "#include", "# don't")
    return [line.replace(str(folder), FOLDER) for line in lines if not any(word in line for word in common)]
