"""The rules file, for machines without polkit: who may do what to which objects.

    allow  user=alice       domain:*                       domain_name=web-*
    allow  group=operators  domain:@read,start,stop
    deny   *                domain:read_secure
    allow  sasl=*@ACME.ORG  connect:@read  domain:@read

A line says allow or deny, who, which permissions, and of which objects where that matters. The first line
that fits decides. Where none fits, the superuser and the daemon's own user may, and nobody else.
docs/access.md has it all.
"""

import difflib
import fnmatch
import grp
import logging
import os
import pwd
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from qvirt.api.session import Identity
from qvirt.daemon.access import only_reads
from qvirt.daemon.policy import Question
from qvirt.errors import ConfigSyntax
from qvirt.record import Record
from qvirt.rpc import protocol

log = logging.getLogger(__name__)

FILE: Final = "access.rules"
"""Its name in libvirt's folder of settings."""

ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "connect": (),
    "domain": ("domain_name", "domain_uuid"),
    "interface": ("interface_name", "interface_macaddr"),
    "network": ("network_name", "network_uuid"),
    "network_port": ("network_name", "network_uuid", "network_port_uuid"),
    "node_device": ("node_device_name",),
    "nwfilter": ("nwfilter_name", "nwfilter_uuid"),
    "nwfilter_binding": ("nwfilter_binding_portdev",),
    "secret": (
        "secret_uuid",
        "secret_usage_volume",
        "secret_usage_ceph",
        "secret_usage_target",
        "secret_usage_name",
    ),
    "storage_pool": ("pool_name", "pool_uuid"),
    "storage_vol": ("pool_name", "pool_uuid", "vol_name", "vol_key"),
}
"""By the kind of object: what tells one from the others. ``connect_driver`` goes with all of them."""

_WHO: Final = ("user", "group", "sasl", "dn")

Permission = tuple[str, str]
"""Kind of object and permission; ``*`` for any."""


class Rule(Record):
    """One line. line: its number; text: as it stands there.

    who: which of user (uid), group (gid), sasl or dn is compared, and with what; None for everybody.
    """

    line: int
    text: str
    allow: bool
    who: tuple[str, int | str] | None
    permissions: frozenset[Permission]
    patterns: tuple[tuple[str, str], ...]

    def fits(self, who: Identity, question: Question) -> bool:
        """Tell whether the line is about this client, permission and object."""
        return self._is(who) and self._names(question) and self._matches(question.attributes)

    def _is(self, who: Identity) -> bool:
        if self.who is None:
            return True
        kind, wanted = self.who
        if kind == "user":
            return who.uid == wanted
        if kind == "group":
            return wanted == who.gid or wanted in who.groups
        said = who.sasl_user if kind == "sasl" else who.x509_dn
        return said is not None and fnmatch.fnmatchcase(said, str(wanted))

    def _names(self, question: Question) -> bool:
        kind, permission = question.object, question.permission
        wanted = self.permissions
        return (
            (kind, permission) in wanted
            or (kind, "*") in wanted
            or ("*", permission) in wanted
            or ("*", "*") in wanted
        )

    def _matches(self, attributes: Mapping[str, str]) -> bool:
        return all(
            name in attributes and fnmatch.fnmatchcase(attributes[name], pattern)
            for name, pattern in self.patterns
        )


class Rules:
    """A rules file as it was last read; a policy."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigSyntax with file and line."""
        self.path = path
        self.rules = read_rules(path)

    def reload(self) -> None:
        """Read the file again; raises ConfigSyntax and leaves the rules as they were."""
        self.rules = read_rules(self.path)

    def answer(self, who: Identity, question: Question) -> bool | None:
        """Decide by the first rule that fits."""
        return self.decide(who, question)[0]

    async def allows(self, who: Identity, question: Question) -> bool:
        """Decide by the first rule that fits."""
        return self.decide(who, question)[0]

    def decide(self, who: Identity, question: Question) -> tuple[bool, Rule | None]:
        """Decide, and give the rule that did; None where no rule fits."""
        for rule in self.rules:
            if rule.fits(who, question):
                return rule.allow, rule
        return who.uid in (0, os.geteuid()), None


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Read a rules file; raises ConfigSyntax with file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigSyntax(f"{path}: cannot be read: {reason}; access_drivers names 'rules'") from error
    return parse_rules(text, str(path))


def parse_rules(text: str, source: str) -> tuple[Rule, ...]:
    """Read the lines of a rules file; raises ConfigSyntax with file and line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if words:
                found.append(_rule(number, line.strip(), words))
        except ValueError as error:
            raise ConfigSyntax(f"{source}:{number}: {error}") from None
    return tuple(found)


def _rule(number: int, text: str, words: list[str]) -> Rule:
    if words[0] not in ("allow", "deny"):
        raise ValueError(f"a rule begins with 'allow' or 'deny', not '{words[0]}'")
    if len(words) < 3:
        raise ValueError(
            "a rule says allow or deny, who, and which permissions: allow user=alice domain:read"
        )
    permissions: set[Permission] = set()
    patterns = []
    for word in words[2:]:
        name, equals, pattern = word.partition("=")
        if equals:
            patterns.append((name, pattern))
        else:
            permissions |= _permissions(word)
    if not permissions:
        raise ValueError("a rule names a permission: OBJECT:PERMISSION, such as domain:start")
    _check_patterns(permissions, patterns)
    return Rule(number, text, words[0] == "allow", _who(words[1]), frozenset(permissions), tuple(patterns))


def _who(word: str) -> tuple[str, int | str] | None:
    if word == "*":
        return None
    kind, _, value = word.partition("=")
    if kind not in _WHO or not value:
        raise ValueError(f"'{word}' names nobody: use *, user=NAME, group=NAME, sasl=PATTERN or dn=PATTERN")
    if kind == "user":
        return kind, int(value) if value.isdigit() else _number(value, "user")
    if kind == "group":
        return kind, int(value) if value.isdigit() else _number(value, "group")
    return kind, value


def _number(name: str, kind: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"there is no {kind} '{name}'") from None


def _permissions(word: str) -> set[Permission]:
    kind, colon, names = word.partition(":")
    if not colon or not names:
        raise ValueError(f"'{word}' is no permission: use OBJECT:PERMISSION, such as domain:start")
    known = protocol.remote().acl_permissions
    if kind != "*" and kind not in known:
        raise ValueError(f"there are no objects '{kind}'{near(kind, known)}")
    every = known[kind] if kind != "*" else tuple({name for names in known.values() for name in names})
    found: set[Permission] = set()
    for name in names.split(","):
        if name == "@read":
            found |= {(kind, each) for each in every if only_reads(each)}
        elif name == "*" or name in every:
            found.add((kind, name))
        else:
            raise ValueError(f"'{kind}' has no permission '{name}'{near(name, every)}")
    return found


def _check_patterns(permissions: Iterable[Permission], patterns: Iterable[tuple[str, str]]) -> None:
    for kind, _ in permissions:
        known = ("connect_driver", *(ATTRIBUTES[kind] if kind != "*" else ()))
        for name, _ in patterns:
            if name not in known:
                raise ValueError(f"objects '{kind}' have no attribute '{name}'{near(name, known)}")


def near(name: str, known: Iterable[str]) -> str:
    """Give a hint at the nearest known name, as the end of a sentence."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean '{found[0]}'?" if found else ""
