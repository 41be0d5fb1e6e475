"""qemu.conf: read with libvirt's grammar, into typed settings.

What is not modelled yet is read and kept in ``other``, so that a later piece of work finds it.
"""

import grp
import os
import pwd
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from qvirt.errors import ConfigSyntax
from qvirt.qemu.context import Settings
from qvirt.record import Record, field

ConfValue = int | str | list[str]

#: users and groups a distribution makes for QEMU, the first that exists is the default
_USERS = ("libvirt-qemu", "qemu")
_GROUPS = ("libvirt-qemu", "qemu", "kvm")

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:\#[^\n]*\n?[ \t\r\n]*)*
        (?:(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)|(?P<number>-?[0-9]+)
          |\"""(?P<long>.*?)\"""|"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'|(?P<mark>[=\[\],]))""",
    re.VERBOSE | re.DOTALL,
)


def parse_conf(text: str, source: str) -> dict[str, ConfValue]:
    """Read ``key = value`` lines: numbers, quoted strings, lists of strings; ``#`` starts a comment.

    Raises ConfigSyntax with file and line.
    """
    values: dict[str, ConfValue] = {}
    position = 0

    def fail(expected: str) -> ConfigSyntax:
        return ConfigSyntax(f"{source}:{text.count(chr(10), 0, position) + 1}: expecting {expected}")

    def token(expected: str) -> re.Match[str]:
        nonlocal position
        match = _TOKEN.match(text, position)
        if match is None:
            raise fail(expected)
        position = match.end()
        return match

    def quoted(match: re.Match[str]) -> str | None:
        return next((match[kind] for kind in ("long", "double", "single") if match[kind] is not None), None)

    def items() -> list[str]:
        found: list[str] = []
        while True:
            match = token("a value or ']'")
            if match["mark"] == "]":
                return found
            value = quoted(match) if match["number"] is None else match["number"]
            if value is None:
                raise fail("a value")
            found.append(value)
            match = token("',' or ']'")
            if match["mark"] == "]":
                return found
            if match["mark"] != ",":
                raise fail("',' or ']'")

    while re.compile(r"(?:[ \t\r\n]|\#[^\n]*(?:\n|$))*$").match(text, position) is None:
        name = token("a name")["name"]
        if name is None:
            raise fail("a name")
        if token("an assignment")["mark"] != "=":
            raise fail("an assignment")
        match = token("a value")
        if match["mark"] == "[":
            values[name] = items()
        elif match["number"] is not None:
            values[name] = int(match["number"])
        else:
            value = quoted(match)
            if value is None:
                raise fail("a value")
            values[name] = value
    return values


class QemuUser(Record):
    """Whom QEMU runs as, with the supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class QemuConfig(Record):
    """qemu.conf as it counts for this daemon.

    user: None when QEMU runs as the daemon itself does. max_core, max_files, max_processes: 0 or None mean
    "as the daemon". settings: what the XML and the command line depend on.
    """

    user: QemuUser | None = None
    dynamic_ownership: bool = True
    remember_owner: bool = True
    clear_emulator_capabilities: bool = True
    security_default_confined: bool = True
    max_core: int | None = 0
    max_files: int = 0
    max_processes: int = 0
    display_ports: tuple[int, int] = (5900, 65535)
    websocket_ports: tuple[int, int] = (5700, 65535)
    auto_start_bypass_cache: bool = False
    log_timestamp: bool = True
    deprecation_behavior: str = "none"
    settings: Settings = field(default_factory=Settings)
    other: Mapping[str, ConfValue] = field(default_factory=dict)


def resolve_user(user: str, group: str | None) -> QemuUser:
    """Find ids for names, ``+number`` or numbers as libvirt takes them. Raises ConfigSyntax."""
    name = user.removeprefix("+")
    try:
        entry = pwd.getpwuid(int(name)) if user.startswith("+") else pwd.getpwnam(user)
        uid, primary, login = entry.pw_uid, entry.pw_gid, entry.pw_name
    except KeyError:
        if not name.isdigit():
            raise ConfigSyntax(f"Failed to parse user '{user}': no such user") from None
        uid, primary, login = int(name), int(name), ""
    gid = primary
    if group:
        bare = group.removeprefix("+")
        try:
            gid = int(bare) if group.startswith("+") else grp.getgrnam(group).gr_gid
        except (KeyError, ValueError):
            if not bare.isdigit():
                raise ConfigSyntax(f"Failed to parse group '{group}': no such group") from None
            gid = int(bare)
    groups = os.getgrouplist(login, gid) if login else [gid]
    return QemuUser(uid, gid, tuple(sorted({*groups, *(os.getgrouplist(login, primary) if login else ())})))


def _default_user(values: Mapping[str, ConfValue], privileged: bool) -> QemuUser | None:
    if not privileged:
        return None
    user = str(values.get("user", "")) or next(
        (name for name in _USERS if _exists(pwd.getpwnam, name)), "root"
    )
    group = str(values.get("group", "")) or next(
        (name for name in _GROUPS if _exists(grp.getgrnam, name)), "root"
    )
    found = resolve_user(user, group)
    return None if found.uid == 0 and found.gid == 0 else found


def _exists(look_up: Callable[[str], object], name: str) -> bool:
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def _limit(value: ConfValue | None) -> int | None:
    """Read max_core: a number of bytes, or "unlimited" (None)."""
    if value is None:
        return 0
    return None if value == "unlimited" else int(value) if not isinstance(value, list) else 0


def read_config(path: Path, *, privileged: bool) -> QemuConfig:
    """Read qemu.conf; a missing file means the defaults. privileged: the daemon is root.

    Raises ConfigSyntax for what cannot be read, and names the key and line.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise ConfigSyntax(f"{path}: cannot be read: {error.strerror}") from error
    return make_config(parse_conf(text, str(path)), privileged=privileged)


def make_config(values: Mapping[str, ConfValue], *, privileged: bool) -> QemuConfig:
    """Turn parsed values into the configuration."""
    known: dict[str, object] = {}
    defaults = Settings()
    for name in Settings.__annotations__:
        if name in values:
            value = values[name]
            known[name] = bool(value) if isinstance(getattr(defaults, name), bool) else value

    def number(name: str, default: int) -> int:
        value = values.get(name, default)
        if isinstance(value, int):
            return value
        raise ConfigSyntax(f"qemu.conf: {name}: expecting a number")

    low, high = number("remote_display_port_min", 5900), number("remote_display_port_max", 65535)
    if low < 5900 or high > 65535 or high < low:
        raise ConfigSyntax(
            f"qemu.conf: remote_display_port_min {low} and _max {high} must be ordered and within 5900-65535"
        )
    return QemuConfig(
        user=_default_user(values, privileged),
        dynamic_ownership=bool(number("dynamic_ownership", 1)),
        remember_owner=bool(number("remember_owner", 1)),
        clear_emulator_capabilities=bool(number("clear_emulator_capabilities", 1)),
        security_default_confined=bool(number("security_default_confined", 1)),
        max_core=_limit(values.get("max_core")),
        max_files=number("max_files", 0),
        max_processes=number("max_processes", 0),
        display_ports=(low, high),
        websocket_ports=(
            number("remote_websocket_port_min", 5700),
            number("remote_websocket_port_max", 65535),
        ),
        auto_start_bypass_cache=bool(number("auto_start_bypass_cache", 0)),
        log_timestamp=bool(number("log_timestamp", 1)),
        deprecation_behavior=str(values.get("deprecation_behavior", "none")),
        settings=Settings(**known),  # type: ignore[arg-type]  # narrowed field by field above
        other=dict(values),
    )
