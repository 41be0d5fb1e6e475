"""Secrets on disk, as libvirt keeps them: ``UUID.xml``, and ``UUID.base64`` with the value. Blocking."""

import base64
import binascii
import os
from pathlib import Path
from typing import Final

from qvirt.errors import QvirtError, SystemError_
from qvirt.host.persist import is_leftover, make_folder, remove, write_atomic
from qvirt.model.secret import Secret, parse_secret
from qvirt.record import Record

#: bytes of a value (VIR_SECRET_VALUE_MAX), which is also what the wire carries
VALUE_MAX: Final = 65536


class Loaded(Record):
    """What the folder held: documents with values (None where none was set), and what could not be read."""

    secrets: list[tuple[Secret, bytes | None]]
    reports: list[str]


def open_folder(folder: Path) -> None:
    """Make the folder, closed to everybody else whatever it was before. Raises SystemError_."""
    try:
        make_folder(folder, 0o700)
        if folder.stat().st_mode & 0o7777 != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise SystemError_(f"cannot create folder '{folder}'", error) from error


def load(folder: Path) -> Loaded:
    """Read everything; what cannot be read stays where it is and is reported. Raises SystemError_."""
    open_folder(folder)
    found: list[tuple[Secret, bytes | None]] = []
    reports: list[str] = []
    for path in sorted(folder.glob("*.xml")):
        if is_leftover(path):
            continue
        try:
            document = parse_secret(path.read_text(encoding="utf-8", errors="surrogateescape"))
            if document.uuid != path.stem:
                raise QvirtError(f"<uuid> does not match secret file name '{path.name}'")
            found.append((document, _read_value(_value(folder, path.stem))))
        except (QvirtError, OSError) as error:
            reports.append(f"secret '{path}' was left alone: {error}")
    return Loaded(found, reports)


def _read_value(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        text = file.read(2 * VALUE_MAX)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise QvirtError(f"invalid base64 in '{path.name}': {error}") from None


def _document(folder: Path, uuid: str) -> Path:
    return folder / f"{uuid}.xml"


def _value(folder: Path, uuid: str) -> Path:
    return folder / f"{uuid}.base64"


def write(folder: Path, document: Secret, value: bytes | None) -> None:
    """Keep a secret, or forget what was kept of one that is ephemeral now. Raises SystemError_."""
    uuid = str(document.uuid)
    if document.ephemeral:
        erase(folder, uuid)
        return
    open_folder(folder)
    if value is not None:
        write_value(folder, uuid, value)
    write_atomic(_document(folder, uuid), document.to_xml().encode("utf-8", "surrogateescape"))


def write_value(folder: Path, uuid: str, value: bytes) -> None:
    """Keep a value. Raises SystemError_."""
    open_folder(folder)
    write_atomic(_value(folder, uuid), base64.b64encode(value))


def erase(folder: Path, uuid: str) -> None:
    """Forget a secret, its value first. Raises SystemError_."""
    remove(_value(folder, uuid))
    remove(_document(folder, uuid))
