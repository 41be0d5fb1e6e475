"""libvirt URIs: parsing, the parameters that concern only the client, the name a daemon is asked to open.

    driver[+transport]://[user@][host][:port]/path[?parameters]

The transport defaults to unix without a host and to tls with one (https://libvirt.org/uri.html). Without a
host the two slashes may be left out. Transports and the client's parameters are known in whatever case,
drivers are not.
"""

import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, InvalidArg, NoConnect
from qvirt.record import Record

TRANSPORTS: Final = ("tls", "unix", "ssh", "ext", "tcp", "libssh2", "libssh")
PORTS: Final = {"tcp": 16509, "tls": 16514, "ssh": 22, "libssh": 22, "libssh2": 22}

CLIENT_PARAMETERS: Final[frozenset[str]] = frozenset(
    (
        "name",
        "command",
        "socket",
        "auth",
        "sshauth",
        "netcat",
        "keyfile",
        "pkipath",
        "known_hosts",
        "known_hosts_verify",
        "tls_priority",
        "mode",
        "proxy",
        "no_sanity",
        "no_verify",
        "no_tty",
        "authfile",
    )
)
"""Parameters that never reach the daemon."""

PATH_DRIVERS: Final = ("qemu", "vbox", "vz")
"""Drivers whose URIs are nothing without a path, so that a host without one must be a slip."""

_SHAPE: Final = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*):"
    r"(?:(?!//)|//(?:(?P<user>[^@/?#]*)@)?(?P<host>\[[^\[\]/?#]*\]|[^:\[\]/?#]*)(?::(?P<port>[0-9]*))?(?=[/?#]|\Z))"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:\#(?P<fragment>.*))?",
    re.DOTALL,
)
_PORTS: Final = range(1, 65536)


class Uri(Record):
    """A parsed URI; driver "" and path "" stand for no URI at all: whatever the daemon prefers."""

    driver: str = ""
    transport: str = "unix"
    user: str | None = None
    host: str = ""
    port: int | None = None
    path: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    fragment: str = ""

    def parameter(self, name: str) -> str | None:
        """Give the value of a parameter, None when it is absent; the last one counts, case does not."""
        return {key.lower(): value for key, value in self.parameters}.get(name)

    def is_set(self, name: str) -> bool:
        """Tell whether a yes-or-no parameter is on: any number but 0."""
        value = self.parameter(name)
        if value is None:
            return False
        try:
            return int(value) != 0
        except ValueError as error:
            raise _invalid(
                f"Failed to parse value of URI component {name}: '{value}' is not a number"
            ) from error

    @property
    def is_local(self) -> bool:
        """Tell whether the daemon is on this machine."""
        return not self.host and self.transport == "unix"

    @property
    def name(self) -> str:
        """The name to open: without transport, host and the client's own parameters."""
        chosen = self.parameter("name")
        if chosen is not None:
            return chosen
        if self.driver in ("", "remote"):
            return ""
        query = "&".join(
            f"{quote(key)}={quote(value)}"
            for key, value in self.parameters
            if key.lower() not in CLIENT_PARAMETERS
        )
        fragment = f"#{self.fragment}" if self.fragment else ""
        return f"{self.driver}://{self.path}" + (f"?{query}" if query else "") + fragment

    def __str__(self) -> str:
        if not self.driver:
            return ""
        default = "tls" if self.host else "unix"
        scheme = self.driver if self.transport == default else f"{self.driver}+{self.transport}"
        host = f"[{quote(self.host, ':')}]" if ":" in self.host else self.host
        user = f"{quote(self.user)}@" if self.user is not None else ""
        port = f":{self.port}" if self.port is not None else ""
        query = "&".join(f"{quote(key)}={quote(value)}" for key, value in self.parameters)
        fragment = f"#{self.fragment}" if self.fragment else ""
        return f"{scheme}://{user}{host}{port}{self.path}" + (f"?{query}" if query else "") + fragment


def parse(text: str) -> Uri:
    """Parse a URI; raises InvalidArg or InternalError with libvirt's sentence when it makes no sense."""
    if not text:
        return Uri()
    parts = _SHAPE.fullmatch(text)
    if parts is None and (":" not in text or text.startswith("/")):
        raise NoConnect(f"URI '{text}' does not include a driver name; maybe you want qemu:///system")
    if parts is None:
        raise InternalError(f"Unable to parse URI {text}", domain=ErrorDomain.URI)
    driver, plus, transport = parts["scheme"].partition("+")
    host = unquote((parts["host"] or "").strip("[]"))
    port = int(parts["port"]) if parts["port"] else None
    if port is not None and port not in _PORTS:
        raise InternalError(f"Unable to parse URI {text}: there is no port {port}", domain=ErrorDomain.URI)
    path = parts["path"]
    if driver in PATH_DRIVERS and ((host and not path) or (path and not path.startswith("/"))):
        # 'qemu://system' and 'qemu:system' are the usual slips; libvirt names what was meant.
        raise InternalError(
            f"invalid URI {text} (maybe you want {parts['scheme']}:///{host or path})",
            domain=ErrorDomain.NONE,
        )
    transport = transport.lower()
    if not plus:
        transport = "tls" if host else "unix"
    if transport not in TRANSPORTS:
        raise _invalid(
            f"remote_open: transport in URL not recognised (should be tls|unix|ssh|ext|tcp|libssh2|libssh): "
            f"'{transport}' in {text}"
        )
    if transport == "unix" and host:
        raise _invalid(f"using unix socket and remote server '{host}' is not supported.")
    query = parts["query"] or ""
    return Uri(
        driver=driver,
        transport=transport,
        user=unquote(parts["user"]) if parts["user"] is not None else None,
        host=host,
        port=port,
        path=path,
        # libvirt's query strings know no plus for space.
        parameters=tuple(
            parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, separator=_separator(query))
        ),
        fragment=parts["fragment"] or "",
    )


def sub_uri(uri: Uri) -> str:
    """Give the URI a helper on the daemon's host opens: local, with what tells it the socket."""
    kept = tuple((key, value) for key, value in uri.parameters if key in ("socket", "mode"))
    name = uri.path or "/system"
    local = Uri(driver=uri.driver or "qemu", path=name, parameters=kept)
    return str(local)


def _separator(query: str) -> str:
    return ";" if ";" in query and "&" not in query else "&"


def _invalid(detail: str) -> InvalidArg:
    return InvalidArg(detail, domain=ErrorDomain.REMOTE)
