"""Domain documents from and to the command lines of QEMU."""

import re
from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.errors import InvalidArg
from qvirt.qemu.dialect.plain import parse_dialect
from qvirt.runtime.lines import export

NATIVE_FORMAT: Final = "qemu-argv"
"""libvirt's name; ``qemu-argv/0.12`` is for a QEMU of that release, ``qemu-argv/plain`` as one types it."""

SCRIPT_FORMAT: Final = "qemu-sh"
"""Ours: a shell script that starts the domain by itself, also as ``qemu-sh/0.12``."""

_NEEDS_QUOTES: Final = re.compile("[\r\n\t !\"#$&'()*;<>?[\\\\\\]^`{|}~]").search
"""Find what makes a word need quotes, by libvirt's rule."""

IMPORT_REPORT: Final = 1 << 30
"""A flag of our own: instead of the document, what became of each argument."""


@remote
async def connect_domain_xml_to_native(
    session: Session,
    nativeFormat: str,
    domainXml: str,
    flags: int,
) -> str:
    """Give the command line a document would be started with; starts nothing."""
    check_flags(flags, 0, "qemuConnectDomainXMLToNative")
    kind, slash, release = nativeFormat.partition("/")
    if kind not in (NATIVE_FORMAT, SCRIPT_FORMAT):
        raise InvalidArg(f"unsupported config type {nativeFormat}")
    dialect = parse_dialect(release) if slash else None
    if kind == SCRIPT_FORMAT:
        return await export.to_script(session.hypervisor, domainXml, dialect)
    argv, environment = await export.to_native(session.hypervisor, domainXml, dialect)
    return command_text([*(f"{name}={value}" for name, value in environment.items()), *argv])


@remote
async def connect_domain_xml_from_native(
    session: Session,
    nativeFormat: str,
    nativeConfig: str,
    flags: int,
) -> str:
    """Give the document of a QEMU command line, or of a script that has one; runs and keeps nothing."""
    check_flags(flags, IMPORT_REPORT, "qemuConnectDomainXMLFromNative")
    if nativeFormat != NATIVE_FORMAT:
        raise InvalidArg(f"unsupported config type {nativeFormat}")
    imported = await session.hypervisor.from_native(nativeConfig)
    if flags & IMPORT_REPORT:
        return "\n".join(imported.account.lines()) + "\n"
    return imported.domain.to_xml()


def command_text(words: list[str]) -> str:
    """Write environment and words as a shell would take them, on one line."""
    return " ".join([quote(word) if not word or _NEEDS_QUOTES(word) else word for word in words])


def quote(word: str) -> str:
    """Quote a word for the shell."""
    return "'" + word.replace("'", "'\\''") + "'"
