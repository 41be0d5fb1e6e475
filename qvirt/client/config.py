"""The client's configuration: libvirt.conf (default URI, aliases, daemon mode) and the environment."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qvirt.errors import ConfigSyntax
from qvirt.record import Record, field

_ENTRY = re.compile(
    r"""\s*(?:\#[^\n]*
    |(?P<key>\w+)[ \t]*=[ \t]*(?P<value>"[^"\n]*"|'[^'\n]*'|\d+|\[[^\]]*\])[ \t]*(?:\#[^\n]*)?
    )?(?:\n|\Z)""",
    re.VERBOSE,
)
_STRING = re.compile(r"\"([^\"]*)\"|'([^']*)'")


class ClientConfig(Record):
    """What libvirt.conf says."""

    uri_default: str | None = None
    uri_aliases: Mapping[str, str] = field(default_factory=dict)
    remote_mode: str | None = None
    remote_proxy: str | None = None
    tls_priority: str | None = None

    def resolve(self, uri: str) -> str:
        """Replace an alias by its URI; anything that looks like a URI is left alone."""
        return uri if ":" in uri or "/" in uri else self.uri_aliases.get(uri, uri)


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Give the path of libvirt.conf: /etc/libvirt for root, the user's configuration directory else."""
    if os.geteuid() == 0:
        return Path("/etc/libvirt/libvirt.conf")
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return Path(base, "libvirt/libvirt.conf")


def load(path: Path | None = None) -> ClientConfig:
    """Read libvirt.conf, empty when there is none; raises ConfigSyntax with file and line."""
    path = path or config_path()
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, PermissionError):
        return ClientConfig()
    return parse(text, str(path))


def parse(text: str, name: str = "libvirt.conf") -> ClientConfig:
    """Parse the text of libvirt.conf; raises ConfigSyntax with file and line."""
    values: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        match = _ENTRY.match(text, at)
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise ConfigSyntax(f"{name}:{line}: expecting an assignment")
        at = match.end()
        if match["key"]:
            strings = [double or single for double, single in _STRING.findall(match["value"])]
            values[match["key"]] = strings if match["value"][0] in "\"'[" else [match["value"]]
    aliases = {}
    for entry in values.get("uri_aliases", []):
        alias, equals, uri = entry.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+", alias):
            raise ConfigSyntax(
                f"{name}: Malformed 'uri_aliases' config entry '{entry}', expected 'alias=uri://host/path'"
            )
        aliases[alias] = uri
    return ClientConfig(
        uri_default=next(iter(values.get("uri_default", [])), None),
        uri_aliases=aliases,
        **{
            name: next(iter(values.get(name, [])), None)
            for name in ("remote_mode", "remote_proxy", "tls_priority")
        },
    )


def default_uri(config: ClientConfig, environ: Mapping[str, str] = os.environ) -> str:
    """Give the URI where none was said: LIBVIRT_DEFAULT_URI, uri_default, or "", the daemon's choice."""
    return environ.get("LIBVIRT_DEFAULT_URI") or config.uri_default or ""
