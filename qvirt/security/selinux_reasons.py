"""Why SELinux keeps QEMU from something, and what would allow it. Blocking."""

import shlex
import stat

from qvirt.host.selinux import Kernel
from qvirt.security.denials import Denial

#: the type of what QEMU is kept from -> the boolean that lets it, by the names policies give it
_BY_TYPE = {
    "nfs_t": ("virt_use_nfs",),
    "cifs_t": ("virt_use_samba",),
    "fusefs_t": ("virt_use_fusefs",),
    "glusterd_t": ("virt_use_glusterd",),
    "ecryptfs_t": ("virt_use_ecryptfs", "use_ecryptfs_home_dirs"),
    "sanlock_t": ("virt_use_sanlock",),
    "sanlock_var_run_t": ("virt_use_sanlock",),
    "sysfs_t": ("virt_use_sysfs",),
    "usb_device_t": ("virt_use_usb",),
    "usbfs_t": ("virt_use_usb",),
    "usbtty_device_t": ("virt_use_usb", "virt_use_comm"),
    "tty_device_t": ("virt_use_comm",),
    "printer_device_t": ("virt_use_comm",),
    "event_device_t": ("virt_use_evdev",),
    "vfio_device_t": ("virt_use_vfio",),
    "xserver_t": ("virt_use_xserver",),
    "xdm_t": ("virt_use_xserver",),
    "pcscd_t": ("virt_use_pcscd",),
}

#: what files are labelled as on file systems that keep no labels
_BY_FILE_SYSTEM = {"nfs": "nfs_t", "nfs4": "nfs_t", "cifs": "cifs_t", "smb3": "cifs_t", "fuse": "fusefs_t"}

#: (class, permission) -> boolean, where it is about what QEMU does and not with what
_BY_DEED = {
    ("process", "execmem"): ("virt_use_execmem",),
    ("process", "execstack"): ("virt_use_execmem",),
    ("rawip_socket", "create"): ("virt_use_rawip",),
}

#: what libvirt's documents call the type of images, for an administrator who labels one by hand
_IMAGE_TYPE = "virt_image_t"

#: what QEMU looks at and does without: itself in /proc, the machine's memory
_NOISE = frozenset(("virtd_t", "sysctl_vm_overcommit_t"))

_CLASSES = {
    stat.S_IFBLK: "blk_file",
    stat.S_IFCHR: "chr_file",
    stat.S_IFDIR: "dir",
    stat.S_IFIFO: "fifo_file",
    stat.S_IFLNK: "lnk_file",
    stat.S_IFSOCK: "sock_file",
}


def class_of(mode: int) -> str:
    """Return the policy's class of a file."""
    return _CLASSES.get(stat.S_IFMT(mode), "file")


def booleans(kernel: Kernel, type: str, kind: str, permissions: tuple[str, ...] = ()) -> list[str]:
    """Return the booleans of this policy that would allow something and are not known to be on."""
    names = list(_BY_TYPE.get(type, ()))
    for permission in permissions or ("execmem",):
        names += _BY_DEED.get((kind, permission), ())
    return [name for name in names if kernel.has_boolean(name) and kernel.boolean(name) is not True]


def remedy(
    kernel: Kernel, type: str, kind: str, path: str, permissions: tuple[str, ...] = (), *, stays: bool = True
) -> str:
    """Return the smallest command that lets QEMU at something.

    path: '' for what has none. stays: its label is not changed by the daemon.
    """
    found = booleans(kernel, type, kind, permissions)
    if found:
        return f"allow it with 'setsebool -P {found[0]} on'"
    if not path:
        return "this policy has no boolean for it; a module of its own would allow it"
    quoted = shlex.quote(path)
    if not takes_labels(kernel, path):
        return "its file system has no labels of its own; mount it with a context= that guests may use"
    if kind == "dir" or not stays:
        return f"allow it with 'chcon -t {_IMAGE_TYPE} {quoted}'"
    return f"let it be relabelled, or label it with 'chcon -t svirt_image_t {quoted}'"


def _mount_of(kernel: Kernel, path: str) -> tuple[str, list[str]]:
    """Return the kind of the file system a path is on, and its options; nothing where none is shown."""
    best: tuple[int, str, list[str]] = (-1, "", [])
    for line in kernel.mounts():
        words = line.split()
        if len(words) < 6 or "-" not in words:
            continue
        point = words[4].encode().decode("unicode_escape")
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= best[0]:
            best = (len(point), words[words.index("-") + 1], f"{words[5]},{words[-1]}".split(","))
    return best[1:]


def takes_labels(kernel: Kernel, path: str) -> bool:
    """Tell whether a file's file system keeps labels. So it is where the kernel does not say."""
    kind, options = _mount_of(kernel, path)
    return not kind or "seclabel" in options


def type_by_mount(kernel: Kernel, path: str) -> str:
    """Return the type of all files of the file system that a path is on; '' where each has its own."""
    kind, options = _mount_of(kernel, path)
    for option in options:
        if option.startswith("context="):
            return option.split(":")[2]
    return _BY_FILE_SYSTEM.get(kind.partition(".")[0], "")


def denied(kernel: Kernel, source: str, target: str, kind: str, wanted: tuple[str, ...]) -> list[str]:
    """Return what the policy keeps from a process, as far as that can be told without trying.

    Where the daemon may not ask the kernel, a boolean that is known to be off is answer enough.
    """
    answer = kernel.denied(source, target, kind, wanted)
    if answer is not None:
        return answer
    type = target.split(":")[2] if target.count(":") >= 2 else ""
    off = [name for name in _BY_TYPE.get(type, ()) if kernel.boolean(name) is False]
    return list(wanted) if off else []


#: what QEMU asks for and does without
_HARMLESS = frozenset((("anon_inode", "create"),))


def is_noise(denial: Denial) -> bool:
    """Tell whether a refusal is one that does QEMU no harm."""
    target, kind = denial.fields.get("tcontext", ""), denial.fields.get("tclass", "")
    type = target.split(":")[2] if target.count(":") >= 2 else ""
    return type in _NOISE or (kind, denial.what.strip()) in _HARMLESS


def without_execmem(kernel: Kernel, source: str) -> list[str]:
    """Say what a QEMU without KVM may have lacked that ended without a word."""
    names = booleans(kernel, "", "process", ("execmem",))
    return [
        f"SELinux may be why, as QEMU without KVM runs code that it makes in memory: allow it to '{source}' "
        f"with 'setsebool -P {name} on'"
        for name in names[:1]
    ]
