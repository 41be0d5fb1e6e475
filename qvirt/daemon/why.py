"""Explains a decision of access control: ``python -m qvirt.daemon.why SETTINGS USER CALL [OBJECT...]``.

Reads the daemon's settings as it would, and says of each permission a call needs which rule decides, or what
polkit would be asked. Its status is 0 where the user may, 1 where not, 2 when something is wrong.
"""

import os
import pwd
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from qvirt.api.names import public_function
from qvirt.api.session import Identity
from qvirt.daemon.config import read_config
from qvirt.daemon.guard import FREE
from qvirt.daemon.policy import Question
from qvirt.daemon.polkit import action_of
from qvirt.daemon.rules import ATTRIBUTES, FILE, Rules, near
from qvirt.errors import InvalidArg, QvirtError
from qvirt.rpc import protocol
from qvirt.rpc.protocol import AccessRule, Procedure


def main(argv: Sequence[str]) -> int:
    """Print the explanation; gives the exit status."""
    try:
        settings, user, call, *words = argv
        lines, allowed = explain(Path(settings), user, call, words)
    except QvirtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0 if allowed else 1


def explain(settings: Path, user: str, call: str, words: Sequence[str]) -> tuple[list[str], bool]:
    """Give the explanation and the decision. Raises ConfigSyntax, InvalidArg.

    settings: the folder with libvirtd.conf and the rules. user: a name, a uid, ``sasl=NAME`` or ``dn=NAME``.
    call: a procedure or public function. words: the object's name, or ``ATTRIBUTE=VALUE``.
    """
    drivers = read_config(None, settings).access_drivers
    who = identity(user)
    procedure, name = _procedure(call)
    rules = Rules(settings / FILE) if "rules" in drivers else None
    needed = () if procedure.name in FREE else procedure.acl or ()
    lines = [f"{name} ({procedure.name}), asked for by {user}:"]
    if not drivers:
        return [*lines, "  allowed: access_drivers names nobody to be asked"], True
    if not needed:
        return [*lines, "  allowed: it needs no permission"], True
    allowed = True
    for rule in needed:
        question = Question(rule.object, rule.permission, _attributes(rule.object, words))
        lines.append(f"  {question.name}{_when(rule)}")
        if rules is not None:
            said, reason = _by_rules(rules, who, question)
            lines.append(f"    {'allowed' if said else 'refused'} {reason}")
            allowed &= said or bool(rule.mask or rule.parameter)
        if "polkit" in drivers:
            lines += _by_polkit(question, who)
    for rule in procedure.aclfilter:
        lines.append(f"  what it lists, or tells of, is decided one by one: {rule.object}:{rule.permission}")
    return lines, allowed


def identity(user: str) -> Identity:
    """Give who a user is to the rules; raises InvalidArg."""
    kind, equals, name = user.partition("=")
    if equals and kind == "sasl":
        return Identity(sasl_user=name)
    if equals and kind == "dn":
        return Identity(x509_dn=name)
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        if user.isdigit():
            return Identity(uid=int(user), gid=int(user))
        raise InvalidArg(f"there is no user '{user}'") from None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Identity(uid=entry.pw_uid, gid=entry.pw_gid, groups=groups)


def _procedure(call: str) -> tuple[Procedure, str]:
    """Find a procedure by its name or its public function's."""
    wanted = call.upper().replace("-", "_")
    names = []
    for program, table in (("remote", protocol.remote()), ("qemu", protocol.qemu())):
        for procedure in table.by_number.values():
            if procedure.event:
                continue
            public = public_function(procedure.name, program)
            if wanted == procedure.name or call.lower() == public.lower():
                return procedure, public
            names += [procedure.name, public]
    hint = near(call, names) or near(wanted, names)
    raise InvalidArg(f"there is no call '{call}'{hint}")


def _attributes(kind: str, words: Sequence[str]) -> dict[str, str]:
    found = {"connect_driver": "QEMU"}
    known = ATTRIBUTES[kind]
    for word in words:
        name, equals, value = word.partition("=")
        if equals and (name in known or name == "connect_driver"):
            found[name] = value
        elif known:
            found[known[0]] = word
    return found


def _when(rule: AccessRule) -> str:
    if rule.parameter is not None:
        return f", where {rule.parameter} is {rule.value}"
    if rule.mask:
        return f", {'without' if rule.unset else 'with'} the flags {rule.mask:#x}"
    return ""


def _by_rules(rules: Rules, who: Identity, question: Question) -> tuple[bool, str]:
    said, rule = rules.decide(who, question)
    if rule is not None:
        return said, f"by {rules.path}:{rule.line}: {rule.text}"
    if said:
        return said, "as no rule fits, and the superuser and the daemon's own user may what no rule is about"
    return said, f"as no rule of {rules.path} fits{_hint(rules, who, question)}"


def _hint(rules: Rules, who: Identity, question: Question) -> str:
    """Say which rule would fit if the object were another one."""
    for rule in rules.rules:
        others = {name: pattern for name, pattern in rule.patterns if name not in question.attributes}
        if rule.allow and others and rule.fits(who, _with(question, others)):
            missing = ", ".join(sorted(others))
            return f"; line {rule.line} would, by {missing}, if that was said: {rule.text}"
    return ""


def _with(question: Question, attributes: dict[str, str]) -> Question:
    return Question(question.object, question.permission, {**question.attributes, **attributes})


def _by_polkit(question: Question, who: Identity) -> Iterator[str]:
    action = action_of(question)
    if who.uid is None:
        yield "    refused by polkit, which knows processes of this machine only"
        return
    details = [word for item in question.attributes.items() for word in ("--detail", *item)]
    yield f"    polkit is asked about {action}. To ask it about a process:"
    yield f"      {shlex.join(['pkcheck', '--action-id', action, *details])} --process PID"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
