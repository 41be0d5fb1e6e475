"""The daemon's own configuration: libvirtd.conf, or virtqemud.conf where there is none."""

import difflib
import grp
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from qvirt.daemon import remote_config
from qvirt.daemon.remote_config import AuthMode, RemoteConfig, make_remote_config
from qvirt.errors import ConfigSyntax
from qvirt.host.conf import Conf, ConfValue, parse_conf
from qvirt.record import Record, field, fields, replace

ACCESS_DRIVERS: Final = ("polkit", "rules", "nop")
"""Who can be asked what clients may do; nop allows everything."""

FILES: Final = ("libvirtd.conf", "virtqemud.conf")

_ELSEWHERE: Final = ("host_uuid", "host_uuid_source")
"""Settings that others read out of `Config.unused`."""

_MEANINGLESS: Final = (
    "admin_max_queued_clients",
    "keepalive_required",
    "admin_keepalive_required",
    "ovs_timeout",
    "log_buffer_size",
)
"""Settings libvirt has that nothing here goes by; they are reported and left alone."""

_LATER: Final = frozenset((*_ELSEWHERE, *_MEANINGLESS))


class Config(Record):
    """Settings under libvirt's names. Permissions are numbers, times seconds.

    unix_sock_rw_perms, unix_sock_ro_perms: None lets the authentication decide, as libvirt does.
    reports: one sentence for each setting that nothing goes by.
    """

    unix_sock_group: str | None = None
    unix_sock_ro_perms: int | None = None
    unix_sock_rw_perms: int | None = None
    unix_sock_admin_perms: int | None = None
    unix_sock_dir: str | None = None
    auth_unix_ro: AuthMode | None = None
    auth_unix_rw: AuthMode | None = None
    access_drivers: tuple[str, ...] = ()
    min_workers: int = 5
    max_workers: int = 20
    prio_workers: int = 5
    max_clients: int = 5000
    max_anonymous_clients: int = 20
    max_client_requests: int = 5
    keepalive_interval: int = 5
    keepalive_count: int = 5
    admin_min_workers: int = 5
    admin_max_workers: int = 20
    admin_max_clients: int = 5000
    admin_max_client_requests: int = 5
    admin_keepalive_interval: int = 5
    admin_keepalive_count: int = 5
    audit_level: int = 1
    audit_logging: int = 0
    log_level: int = 3
    log_filters: str = ""
    log_outputs: str = ""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    unused: Mapping[str, ConfValue] = field(default_factory=dict)
    reports: tuple[str, ...] = ()

    @property
    def socket_gid(self) -> int | None:
        """The group the sockets are given to; raises ConfigSyntax when there is none of that name."""
        if self.unix_sock_group is None:
            return None
        try:
            return grp.getgrnam(self.unix_sock_group).gr_gid
        except KeyError:
            raise ConfigSyntax(f"unix_sock_group: there is no group '{self.unix_sock_group}'") from None


class Limits(Record):
    """What one client may cost, and how long things may take; not for users to set. Bytes and seconds.

    output_high: output left unread above which a client's calls wait. output_max: output at which a client
    that does not read is dropped; one reply may have 32 MiB. waiting_calls, waiting_bytes: what may wait for
    its turn before the socket is left unread. untrusted_packet: largest packet before authentication (SASL
    data is the longest such a client sends). readonly_packet: largest of a read-only connection, which may be
    anybody's; the longest are documents of CPUs. auth, auth_crowded: how long a client may stay without
    authenticating, and while as many such clients as may wait.
    calls: how long running calls get to finish when the daemon ends.
    """

    output_high: int = 1 << 20
    output_max: int = 64 << 20
    waiting_calls: int = 64
    waiting_bytes: int = 1 << 20
    untrusted_packet: int = 512 << 10
    readonly_packet: int = 1 << 20
    auth: float = 60.0
    auth_crowded: float = 5.0
    calls: float = 10.0


_INTEGERS: Final = frozenset(name for name, type_ in Config.__annotations__.items() if type_ is int)
_PERMISSIONS: Final = frozenset(("unix_sock_ro_perms", "unix_sock_rw_perms", "unix_sock_admin_perms"))
_AUTH: Final = frozenset(("auth_unix_ro", "auth_unix_rw"))
_NAMES: Final = frozenset(fields(Config)) - {"unused", "remote", "reports"}


def read_config(path: Path | None, folder: Path) -> Config:
    """Read the file named, else the first of ours in the folder; without any, the defaults.

    Raises ConfigSyntax with file and setting, also when a file that was named is not there.
    """
    candidates = [path] if path else [folder / name for name in FILES]
    for candidate in candidates:
        try:
            text = candidate.read_text(errors="surrogateescape")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigSyntax(f"{candidate}: cannot be read: {error.strerror}") from error
        return make_config(parse_conf(text, str(candidate)))
    if path:
        raise ConfigSyntax(f"{path}: no such file")
    return Config()


def make_config(values: Conf) -> Config:
    """Check and convert what a file says; raises ConfigSyntax with file and line."""
    known: dict[str, Any] = {}
    unused: dict[str, ConfValue] = {}
    reports = [*values.reports] + [
        f"{values.where(name)}: option '{name}' has no meaning here"
        for name in values
        if name in _MEANINGLESS
    ]
    for name, value in values.items():
        if name in _NAMES:
            known[name] = _convert(name, value, values.where(name))
        elif name in _LATER:
            unused[name] = value
        elif name not in remote_config.NAMES:
            near = difflib.get_close_matches(name, {*_NAMES, *_LATER, *remote_config.NAMES}, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigSyntax(f"{values.where(name)}: unknown setting '{name}'{hint}")
    return replace(
        Config(), **known, remote=make_remote_config(values), unused=unused, reports=tuple(reports)
    )


def _convert(name: str, value: ConfValue, source: str) -> int | str | tuple[str, ...]:
    if name == "access_drivers":
        return _access_drivers(value, source)
    if name in _INTEGERS:
        if not isinstance(value, int) or value < -1:
            raise ConfigSyntax(f"{source}: {name}: '{value}' is no number it can have")
        return value
    if not isinstance(value, str):
        raise ConfigSyntax(f"{source}: {name}: expected a quoted string, not {value!r}")
    if name in _PERMISSIONS:
        try:
            return int(value, 8)
        except ValueError:
            raise ConfigSyntax(f"{source}: {name}: '{value}' is not an octal file mode") from None
    if name in _AUTH and value not in ("none", "polkit", "sasl"):
        raise ConfigSyntax(f"{source}: {name}: unsupported auth '{value}', use 'none', 'polkit' or 'sasl'")
    return value


def _access_drivers(value: ConfValue, source: str) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [str(value)]
    for name in names:
        if name not in ACCESS_DRIVERS:
            raise ConfigSyntax(
                f"{source}: access_drivers: there is no driver '{name}', use {', '.join(ACCESS_DRIVERS)}"
            )
    return tuple(name for name in names if name != "nop")
