"""What a record of a refusal means for a profile: the rule that would allow it, or that it does no harm."""

import re

from qvirt.security.apparmor.rules import PERMISSIONS, join, literal
from qvirt.security.denials import Denial

#: the kernel's letters for what a rule has one for
_MASK = {"c": "w", "d": "w", "a": "w"}

#: what QEMU and its libraries look at and do without
_LOOKED_AT = re.compile(r"/sys/(devices/system|module|bus/nd)/|/proc/|/(dev|run)/shm/lttng")


def rule_that_allows(denial: Denial) -> str:
    """Return the rule that would allow what was refused, in backquotes; '' where no simple one does."""
    rule = _rule(denial)
    return f"`{rule},`" if rule else ""


def _rule(denial: Denial) -> str:
    fields = denial.fields
    operation = fields.get("operation", "")
    if "capname" in fields:
        return f"capability {fields['capname']}"
    if "family" in fields:
        return _socket(denial)
    if operation in ("signal", "ptrace"):
        which = f" set=({fields['signal']})" if "signal" in fields else ""
        return f"{operation} ({_words(denial)}){which} peer={_quoted(fields.get('peer', 'unconfined'))}"
    if operation in ("mount", "umount", "pivotroot"):
        return _mount(operation, fields)
    if operation in ("change_profile", "change_onexec", "stack"):
        return f"change_profile -> {_quoted(fields.get('target') or denial.path)}"
    if operation == "userns_create":
        return "userns"
    perms = join(_MASK.get(char, char) for char in denial.what if char in PERMISSIONS or char in _MASK)
    perms += "ix" if "x" in denial.what else ""
    return f"{_quoted(denial.path)} {perms}" if denial.path.startswith("/") and perms else ""


def _words(denial: Denial) -> str:
    return ", ".join(denial.what.split())


def _quoted(text: str) -> str:
    return f'"{literal(text)}"'


def _socket(denial: Denial) -> str:
    fields = denial.fields
    kind = fields.get("sock_type", "")
    if fields["family"] == "unix" and "peer" in fields:
        return f"unix ({_words(denial)}) type={kind} peer=(label={_quoted(fields['peer'])})"
    return f"network {fields['family']} {kind}".strip()


def _mount(operation: str, fields: dict[str, str]) -> str:
    point = _quoted(fields.get("name", "/"))
    if operation == "umount":
        return f"umount {point}"
    if operation == "pivotroot":
        return f"pivot_root {point}"
    words = ["mount"]
    if "fstype" in fields:
        words.append(f"fstype={fields['fstype']}")
    if "flags" in fields:
        words.append(f"options=({fields['flags']})")
    if "srcname" in fields:
        words.append(_quoted(fields["srcname"]))
    return f"{' '.join(words)} -> {point}"


def is_harmless(denial: Denial, said: str) -> bool:
    """Tell whether QEMU would have gone on. said: its own words; what they name does harm."""
    if denial.path in said:
        return False
    reads = denial.fields.get("operation") in ("open", "getattr") and denial.what == "r"
    return reads and _LOOKED_AT.match(denial.path) is not None
