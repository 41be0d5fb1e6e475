"""Domains for comparing what confines them: one row per kind of thing a QEMU gets at.

`FOLDER` stands for a folder of the test's own; `make` puts there the files that the documents name.
"""

import os
import socket
import subprocess
from pathlib import Path

FOLDER = "@FOLDER@"

_DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  {memory}<os><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {devices}
    <memballoon model='none'/>
  </devices>
  {labels}
</domain>
"""


def _disk(source: str, *, type: str = "file", driver: str = "raw", more: str = "", dev: str = "vda") -> str:
    return (
        f"<disk type='{type}' device='disk'><driver name='qemu' type='{driver}'/>{source}"
        f"<target dev='{dev}' bus='virtio'/>{more}</disk>"
    )


def _file(name: str, labels: str = "") -> str:
    return f"<source file='@FOLDER@/{name}'>{labels}</source>"


#: name -> what the document has beside the frame; "devices", "os", "memory", "labels", "machine"
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
        "memory": "<maxMemory slots='2' unit='MiB'>512</maxMemory>"
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
}  # fmt: skip


def uuid_of(name: str) -> str:
    """Return the uuid of a domain of the table."""
    return f"5ec00000-0000-4000-8000-{list(DOMAINS).index(name):012x}"


def document(name: str, folder: Path | str) -> str:
    """Return a domain's document."""
    parts = {"devices": "", "os": "", "memory": "", "labels": "", "machine": "pc", **DOMAINS[name]}
    text = _DOMAIN.format(name=f"sec-{name}", uuid=uuid_of(name), **parts)
    return text.replace(FOLDER, str(folder))


def make(folder: Path) -> None:
    """Make the files that the documents name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a.img", "b.img", "cd.iso", "base.img", "a b[c]{d},e.img", "kernel", "initrd", "nvdimm"):
        with (folder / name).open("wb") as file:
            file.truncate(16 << 20)
    for name in ("code.fd", "vars.fd"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 20)
    (folder / "shared").mkdir(exist_ok=True)
    for top, below, kind in (
        ("middle.qcow2", folder / "base.img", "raw"),
        ("top.qcow2", folder / "middle.qcow2", "qcow2"),
        ("relative.qcow2", "base.img", "raw"),
    ):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", kind, str(folder / top)],
            cwd=folder,
            check=True,
        )
    (folder / "link.img").symlink_to(folder / "a.img")
    for name in ("pp.in", "pp.out"):
        os.mkfifo(folder / name)
    os.mknod(folder / "tty", 0o600 | 0o020000, os.makedev(1, 3))
    os.mknod(folder / "loop", 0o600 | 0o060000, os.makedev(7, 0))


def serve(folder: Path) -> list[socket.socket]:
    """Listen on the sockets that the domains connect to; who asks closes them."""
    served = []
    for name in ("served.sock", "nbd.sock"):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(str(folder / name))
        one.listen(8)
        served.append(one)
    return served


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
