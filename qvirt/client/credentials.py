"""What a client answers when it is asked who it is: auth.conf, the URI, whoever sits in front of it.

auth.conf has groups of ``name=value`` lines: ``[auth-SERVICE-HOST]`` names a ``[credentials-NAME]`` group by
``credentials=NAME``; ``[auth-SERVICE-default]`` is for all other hosts. (https://libvirt.org/auth.html)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qvirt.client.uri import Uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigSyntax, SystemError_
from qvirt.net.sasl import Answer, Prompt

SERVICE: Final = "libvirt"

Groups = Mapping[str, Mapping[str, str]]


def find(uri: Uri, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Give the file that counts: LIBVIRT_AUTH_FILE, `authfile=`, the user's, the system's; None without one.

    Raises SystemError_ when one that was named is not there.
    """
    said = environ.get("LIBVIRT_AUTH_FILE") or uri.parameter("authfile")
    if said:
        if not os.path.exists(said):
            missing = OSError(2, os.strerror(2))
            raise SystemError_(f"Failed to open file '{said}'", missing, domain=ErrorDomain.AUTH)
        return Path(said)
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    places = [Path(base, "libvirt/auth.conf"), Path("/etc/libvirt/auth.conf")]
    return next((path for path in places if os.access(path, os.R_OK)), None)


def parse(text: str, name: str) -> Groups:
    """Read auth.conf; raises ConfigSyntax with file and line."""
    groups: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            current = groups.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if not equals or current is None:
            raise ConfigSyntax(
                f"{name}:{number}: expecting '[GROUP]' or 'NAME=VALUE' in a group, not '{line}'"
            )
        current[key.strip()] = value.strip()
    return groups


def look_up(groups: Groups, host: str, name: str, source: str) -> str | None:
    """Give what the file says for a host; raises ConfigSyntax for a group that leads nowhere."""
    group = groups.get(f"auth-{SERVICE}-{host}") or groups.get(f"auth-{SERVICE}-default")
    if group is None:
        return None
    wanted = group.get("credentials")
    if wanted is None:
        raise ConfigSyntax(f"{source}: Missing item 'credentials' in group 'auth-{SERVICE}-{host}'")
    found = groups.get(f"credentials-{wanted}")
    if found is None:
        raise ConfigSyntax(
            f"{source}: Missing group 'credentials-{wanted}' referenced from 'auth-{SERVICE}-{host}'"
        )
    return found.get(name)


def answerer(uri: Uri, ask: Answer | None, environ: Mapping[str, str] = os.environ) -> Answer:
    """Make what answers for a URI. ask: asks whoever uses the client, None when nobody is there.

    Raises SystemError_, ConfigSyntax.
    """
    path = find(uri, environ)
    groups = parse(path.read_text("utf-8", "surrogateescape"), str(path)) if path else {}

    def answer(prompt: Prompt) -> str | None:
        value = look_up(groups, uri.host or "localhost", prompt.name, str(path))
        if value is None and prompt.name == "authname":
            # What people call a user's name, in the file and in the URI.
            value = look_up(groups, uri.host or "localhost", "username", str(path)) or uri.user
        if value is None and ask is not None and prompt.name not in ("username", "realm"):
            value = ask(prompt)
        return value

    return answer
