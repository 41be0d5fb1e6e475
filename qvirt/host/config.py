"""qemu.conf: libvirt's option names, what each may be, and what becomes of it.

Every option is in one of three tables: what XML and command line depend on (`Settings`), what the driver does
(`_OPTIONS`), and what is taken and not used yet (`_LATER`), which is reported with its line.
"""

import contextlib
import difflib
import grp
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qvirt.errors import ConfigSyntax
from qvirt.host import core_scheduling
from qvirt.host.conf import Conf, ConfValue, parse_conf
from qvirt.qemu.context import Settings
from qvirt.record import Record, field

#: users and groups a distribution makes for QEMU, the first that exists is the default
_USERS = ("libvirt-qemu", "qemu")
_GROUPS = ("libvirt-qemu", "qemu", "kvm")

#: no user's id, no group's
_NO_ID = (1 << 32) - 1

#: user and group the package of TPM software makes
_SWTPM = "tss"

#: what libvirt lets every guest use
DEVICE_ACL = (
    "/dev/null",
    "/dev/full",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/dev/ptmx",
    "/dev/kvm",
)

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "blkio")

#: where certificates are, for the users of TLS whose own folder is missing and not configured
_TLS_USERS = ("vnc", "spice", "chardev", "nbd")
_DEFAULT_TLS = "/etc/pki/qemu"


class QemuUser(Record):
    """Whom QEMU runs as, with the supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class QemuConfig(Record):
    """qemu.conf as it counts for this daemon.

    user: None when QEMU runs as the daemon itself does. max_core, max_files, max_processes, max_threads: 0 or
    None mean "as the daemon", but for max_core, in bytes, where 0 is no core file and None any.
    private_dev: guests have a /dev of their own.
    security_drivers: the models that are asked for; without any it is the one the kernel has.
    controllers: the control groups that may be used. swtpm_user: whom swtpm runs as, None for QEMU's user.
    hugetlb_mounts: where huge pages are mounted, none to do without; None for those the kernel lists.
    lock_manager: who locks disks and leases; there is none here but "nop", who does not.
    sched_core: what of a guest shares a CPU core with nobody else, see `runtime.life.cores`.
    settings: what the XML and the command line depend on. reports: one sentence for each option that is not
    used. other: all values as they were read.
    """

    user: QemuUser | None = None
    dynamic_ownership: bool = True
    remember_owner: bool = True
    clear_emulator_capabilities: bool = True
    security_drivers: tuple[str, ...] = ()
    security_default_confined: bool = True
    security_require_confined: bool = False
    max_core: int | None = 0
    max_files: int = 0
    max_processes: int = 0
    max_threads: int = 0
    max_queued: int = 0
    display_ports: tuple[int, int] = (5900, 65535)
    websocket_ports: tuple[int, int] = (5700, 65535)
    dump_path: str | None = None
    controllers: tuple[str, ...] = CONTROLLERS
    device_acl: tuple[str, ...] = DEVICE_ACL
    private_dev: bool = False
    swtpm_user: QemuUser | None = None
    virtiofsd_debug: bool = False
    pr_helper: str = "/usr/bin/qemu-pr-helper"
    bridge_helper: str = "/usr/lib/qemu/qemu-bridge-helper"
    hugetlb_mounts: tuple[str, ...] | None = None
    lock_manager: str = "nop"
    sched_core: str = "none"
    settings: Settings = field(default_factory=Settings)
    reports: tuple[str, ...] = ()
    other: Mapping[str, ConfValue] = field(default_factory=dict)

    @property
    def log_timestamp(self) -> bool:
        """Whether lines of a guest's log begin with the time."""
        return self.settings.log_timestamp


# ------------------------------------------------------------------- kinds of value


class _Kind(Record):
    """What a value may be. words: how libvirt calls it."""

    words: str
    accepts: Callable[[ConfValue], bool]


_BOOL = _Kind("a bool (0|1)", lambda value: value in (0, 1) and isinstance(value, int))
_NUMBER = _Kind(
    "an unsigned integer (at most 4294967295)", lambda value: isinstance(value, int) and 0 <= value < 1 << 32
)
_INTEGER = _Kind("an integer", lambda value: isinstance(value, int))
_SWITCH = _Kind("an integer", lambda value: isinstance(value, int))
_TEXT = _Kind("a string", lambda value: isinstance(value, str))
_TEXTS = _Kind("a string list", lambda value: isinstance(value, list))
_TEXT_OR_LIST = _Kind("a string or string list", lambda value: isinstance(value, (str, list)))
_CORE = _Kind(
    "an unsigned integer or 'unlimited'",
    lambda value: value == "unlimited" or (isinstance(value, int) and 0 <= value < 1 << 63),
)

#: option -> (kind, the field of QemuConfig it is kept in as it is; None where `make_config` works it out)
_OPTIONS: Mapping[str, tuple[_Kind, str | None]] = {
    "default_tls_x509_cert_dir": (_TEXT, None),
    "default_tls_x509_verify": (_BOOL, None),
    "remote_display_port_min": (_NUMBER, None),
    "remote_display_port_max": (_NUMBER, None),
    "remote_websocket_port_min": (_NUMBER, None),
    "remote_websocket_port_max": (_NUMBER, None),
    "security_driver": (_TEXT_OR_LIST, None),
    "security_default_confined": (_BOOL, "security_default_confined"),
    "security_require_confined": (_BOOL, "security_require_confined"),
    "user": (_TEXT, None),
    "group": (_TEXT, None),
    "dynamic_ownership": (_BOOL, "dynamic_ownership"),
    "remember_owner": (_BOOL, "remember_owner"),
    "clear_emulator_capabilities": (_BOOL, "clear_emulator_capabilities"),
    "cgroup_controllers": (_TEXTS, None),
    "cgroup_device_acl": (_TEXTS, None),
    "auto_dump_path": (_TEXT, "dump_path"),
    "max_processes": (_NUMBER, "max_processes"),
    "max_files": (_NUMBER, "max_files"),
    "max_threads_per_process": (_NUMBER, "max_threads"),
    "max_core": (_CORE, None),
    "max_queued": (_NUMBER, "max_queued"),
    "namespaces": (_TEXT_OR_LIST, None),
    "virtiofsd_debug": (_BOOL, "virtiofsd_debug"),
    "pr_helper": (_TEXT, "pr_helper"),
    "bridge_helper": (_TEXT, "bridge_helper"),
    "swtpm_user": (_TEXT, None),
    "swtpm_group": (_TEXT, None),
    "hugetlbfs_mount": (_TEXT_OR_LIST, None),
    "lock_manager": (_TEXT, "lock_manager"),
    "sched_core": (_TEXT, None),
}

#: options that do nothing so far
_LATER: Mapping[str, _Kind] = {
    "default_tls_x509_secret_uuid": _TEXT,
    "vnc_tls_x509_secret_uuid": _TEXT,
    "chardev_tls_x509_secret_uuid": _TEXT,
    "vxhs_tls": _BOOL,
    "vxhs_tls_x509_cert_dir": _TEXT,
    "vxhs_tls_x509_secret_uuid": _TEXT,
    "nbd_tls": _BOOL,
    "nbd_tls_x509_secret_uuid": _TEXT,
    "migrate_tls_x509_cert_dir": _TEXT,
    "migrate_tls_x509_verify": _BOOL,
    "migrate_tls_x509_secret_uuid": _TEXT,
    "migrate_tls_force": _BOOL,
    "backup_tls_x509_cert_dir": _TEXT,
    "backup_tls_x509_verify": _BOOL,
    "backup_tls_x509_secret_uuid": _TEXT,
    "save_image_format": _TEXT,
    "dump_image_format": _TEXT,
    "snapshot_image_format": _TEXT,
    "auto_dump_bypass_cache": _BOOL,
    "auto_start_bypass_cache": _BOOL,
    "mac_filter": _BOOL,
    "relaxed_acs_check": _BOOL,
    "keepalive_interval": _INTEGER,
    "keepalive_count": _NUMBER,
    "migration_address": _TEXT,
    "migration_host": _TEXT,
    "migration_port_min": _NUMBER,
    "migration_port_max": _NUMBER,
    "nvram": _TEXTS,
    "stdio_handler": _TEXT,
    "gluster_debug_level": _NUMBER,
    "slirp_helper": _TEXT,
    "dbus_daemon": _TEXT,
    "capability_filters": _TEXTS,
    "allow_disk_format_probing": _BOOL,
}

#: options of a daemon that gives rights away, or makes control groups
_ROOTS = frozenset(
    (
        *("user", "group", "swtpm_user", "swtpm_group", "clear_emulator_capabilities"),
        *("dynamic_ownership", "remember_owner"),
        *("cgroup_controllers", "cgroup_device_acl", "max_threads_per_process"),
    )
)

_SETTINGS: Mapping[str, _Kind] = {
    **{
        name: _BOOL if type_ is bool else _TEXT
        for name, type_ in Settings.__annotations__.items()
        if name != "default_cpu_deprecated"
    },
    "seccomp_sandbox": _SWITCH,  # -1, once libvirt's default, is on
}
#: every option there is
OPTIONS = {**_SETTINGS, **{name: kind for name, (kind, _) in _OPTIONS.items()}, **_LATER}

_CORES = ("none", "vcpus", "emulator", "full")
_BEHAVIORS = ("none", "omit", "reject", "crash")


# -------------------------------------------------------------------------- reading


def read_config(path: Path, *, privileged: bool) -> QemuConfig:
    """Read qemu.conf; a missing file means the defaults. privileged: the daemon is root.

    Raises ConfigSyntax for what cannot be read, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise ConfigSyntax(f"{path}: cannot be read: {error.strerror}") from error
    return make_config(parse_conf(text, str(path)), privileged=privileged)


def make_config(values: Conf, *, privileged: bool) -> QemuConfig:
    """Check what a file says and turn it into the configuration. Raises ConfigSyntax."""
    reports = list(values.reports)
    for name, value in values.items():
        kind = OPTIONS.get(name)
        if kind is None:
            near = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            reports.append(f"{values.where(name)}: unknown option '{name}' is ignored{hint}")
        elif not kind.accepts(value):
            raise ConfigSyntax(f"{values.where(name)}: expected {kind.words} for '{name}' parameter")
        elif name in _LATER:
            reports.append(f"{values.where(name)}: option '{name}' is not used yet")
        elif name in _ROOTS and not privileged:
            reports.append(f"{values.where(name)}: option '{name}' has no effect: the daemon is not root")
    if values.get("allow_disk_format_probing"):
        raise ConfigSyntax(
            f"{values.where('allow_disk_format_probing')}: allow_disk_format_probing is no longer supported: "
            "a guest could make QEMU open any file by writing another format's header on its disk"
        )
    known: dict[str, Any] = {}
    for name, (kind, where) in _OPTIONS.items():
        if where is not None and name in values:
            known[where] = bool(values[name]) if kind is _BOOL else values[name]
    if "max_core" in values:
        known["max_core"] = None if values["max_core"] == "unlimited" else values["max_core"]
    if "hugetlbfs_mount" in values:
        known["hugetlb_mounts"] = tuple(where for where in _list(values["hugetlbfs_mount"]) if where)
    if "cgroup_device_acl" in values:
        known["device_acl"] = tuple(_list(values["cgroup_device_acl"]))
    return QemuConfig(
        user=_default_user(values, privileged),
        swtpm_user=_swtpm_user(values) if privileged else None,
        display_ports=_ports(values, "remote_display_port", 5900),
        websocket_ports=_ports(values, "remote_websocket_port", 5700),
        security_drivers=_drivers(values),
        controllers=_controllers(values),
        private_dev=_private_dev(values, privileged),
        sched_core=_sched_core(values),
        settings=_settings(values),
        reports=tuple(reports),
        other=dict(values),
        **known,
    )


def _list(value: ConfValue) -> list[str]:
    return value if isinstance(value, list) else [str(value)]


def _private_dev(values: Conf, privileged: bool) -> bool:
    """Tell whether guests have mount namespaces, which only root can make."""
    if "namespaces" not in values:
        return privileged
    wanted = [name for name in _list(values["namespaces"]) if name]
    for name in wanted:
        if name != "mount":
            raise ConfigSyntax(
                f"{values.where('namespaces')}: Unknown namespace: {name}; there is 'mount' only"
            )
    if wanted and not privileged:
        raise ConfigSyntax(
            f"{values.where('namespaces')}: cannot enable mount namespace: the daemon is not root"
        )
    return bool(wanted)


def _settings(values: Conf) -> Settings:
    known: dict[str, Any] = {
        name: values[name] if kind is _TEXT else bool(values[name])
        for name, kind in _SETTINGS.items()
        if name in values
    }
    # libvirt adds these two folders to what the file says
    if "memory_backing_dir" in known:
        known["memory_backing_dir"] = f"{str(known['memory_backing_dir']).rstrip('/')}/libvirt/qemu"
    behavior = known.get("deprecation_behavior", "none")
    if behavior not in _BEHAVIORS:
        raise ConfigSyntax(
            f"{values.where('deprecation_behavior')}: unknown deprecation_behavior '{behavior}', "
            f"use one of {', '.join(_BEHAVIORS)}"
        )
    default = values.get("default_tls_x509_cert_dir", _DEFAULT_TLS)
    for user in _TLS_USERS:
        own = f"/etc/pki/libvirt-{user}"
        known.setdefault(f"{user}_tls_x509_cert_dir", own if os.path.isdir(own) else default)
    for user in ("default", *_TLS_USERS):
        name = f"{user}_tls_x509_cert_dir"
        if name in values and not os.path.isdir(str(values[name])):
            raise ConfigSyntax(f"{values.where(name)}: {name} directory '{values[name]}' does not exist")
    if "default_tls_x509_verify" in values:
        for name in ("vnc_tls_x509_verify", "chardev_tls_x509_verify"):
            known.setdefault(name, bool(values["default_tls_x509_verify"]))
    return Settings(**known)


def _drivers(values: Conf) -> tuple[str, ...]:
    """Read ``security_driver``. Raises ConfigSyntax."""
    if "security_driver" not in values:
        return ()
    where, names = values.where("security_driver"), _list(values["security_driver"])
    for name in names:
        if name == "dac" or (name == "none" and len(names) > 1):
            raise ConfigSyntax(f"{where}: invalid security_driver '{name}' in a list of drivers; "
                               "'dac' is always on, 'none' stands alone")  # fmt: skip
    return tuple(names)


def _controllers(values: Conf) -> tuple[str, ...]:
    if "cgroup_controllers" not in values:
        return CONTROLLERS
    names = _list(values["cgroup_controllers"])
    for name in names:
        if name not in CONTROLLERS:
            raise ConfigSyntax(
                f"{values.where('cgroup_controllers')}: Unknown cgroup controller '{name}', "
                f"use some of {', '.join(CONTROLLERS)}"
            )
    return tuple(names)


def _sched_core(values: Conf) -> str:
    """Read ``sched_core``. Raises ConfigSyntax, also where the kernel does not schedule by cores."""
    mode = str(values.get("sched_core", "none"))
    if mode not in _CORES:
        raise ConfigSyntax(
            f"{values.where('sched_core')}: Unknown sched_core value {mode}, use one of {', '.join(_CORES)}"
        )
    if mode != "none" and not core_scheduling.is_known():
        raise ConfigSyntax(
            f"{values.where('sched_core')}: SCHED_CORE not supported by kernel, which guests shall have by "
            f"sched_core '{mode}'; boot one that has CONFIG_SCHED_CORE, or set it to 'none'"
        )
    return mode


def _ports(values: Conf, name: str, lowest: int) -> tuple[int, int]:
    """Read a range of ports. Raises ConfigSyntax."""
    low, high = (values.get(f"{name}_{end}", default) for end, default in (("min", lowest), ("max", 65535)))
    if not isinstance(low, int) or not isinstance(high, int) or low < lowest or high > 65535 or high < low:
        said = f"{name}_min" if f"{name}_min" in values else f"{name}_max"
        raise ConfigSyntax(
            f"{values.where(said)}: {name}_min {low} and _max {high} must be ordered and within "
            f"{lowest}-65535"
        )
    return low, high


# ---------------------------------------------------------------------------- users


def resolve_user(user: str, group: str | None) -> QemuUser:
    """Find ids for names, ``+number`` or numbers as libvirt takes them. Raises ConfigSyntax.

    A name comes first, even one of digits, unless there is a plus sign.
    """
    entry = _passwd(user)
    uid = entry.pw_uid if entry is not None else _number(user)
    if uid is None:
        raise ConfigSyntax(f"Failed to parse user '{user}'")
    primary = entry.pw_gid if entry is not None else uid
    gid = primary if group is None else _group(group)
    groups = {gid}
    if entry is not None:
        groups.update(os.getgrouplist(entry.pw_name, primary))
    return QemuUser(uid, gid, tuple(sorted(groups)))


def _group(group: str) -> int:
    if not group.startswith("+"):
        with contextlib.suppress(KeyError):
            return grp.getgrnam(group).gr_gid
    gid = _number(group)
    if gid is None:
        raise ConfigSyntax(f"Failed to parse group '{group}'")
    return gid


def _number(text: str) -> int | None:
    """Return an id in digits, perhaps with a plus sign; None for what is none.

    The greatest number stands for "leave it as it is" in the kernel's calls, so nobody has it.
    """
    bare = text.removeprefix("+")
    if not (bare.isascii() and bare.isdigit()) or int(bare) >= _NO_ID:
        return None
    return int(bare)


def _passwd(user: str) -> pwd.struct_passwd | None:
    """Return a user's entry: by name, else by number."""
    if not user.startswith("+"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(user)
    uid = _number(user)
    try:
        return pwd.getpwuid(uid) if uid is not None else None
    except KeyError:
        return None


def _default_user(values: Conf, privileged: bool) -> QemuUser | None:
    if not privileged:
        return None
    usual = next((name for name in _USERS if _exists(pwd.getpwnam, name)), "root")
    user = str(values.get("user", usual))
    usual = next((name for name in _GROUPS if _exists(grp.getgrnam, name)), "root")
    group = str(values.get("group", usual))
    try:
        return resolve_user(user, group)
    except ConfigSyntax as error:
        said = "group" if "group" in error.detail.split("'")[0] else "user"
        raise ConfigSyntax(f"{values.where(said)}: {error.detail}") from None


def _swtpm_user(values: Conf) -> QemuUser | None:
    """Return whom swtpm runs as, None where the usual user does not exist. Raises ConfigSyntax."""
    user, group = (str(values.get(name, _SWTPM)) for name in ("swtpm_user", "swtpm_group"))
    try:
        return resolve_user(user, group)
    except ConfigSyntax as error:
        said = "swtpm_group" if "group" in error.detail.split("'")[0] else "swtpm_user"
        if said not in values:
            return None  # the package is not installed
        raise ConfigSyntax(f"{values.where(said)}: {error.detail}") from None


def _exists(look_up: Callable[[str], object], name: str) -> bool:
    try:
        look_up(name)
    except KeyError:
        return False
    return True
