"""Programs that serve vhost-user devices, as packages and administrators describe them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from qvirt.errors import InternalError, OperationFailed

#: where they are described; the later ones win
DESCRIPTIONS = ("/usr/share/qemu/vhost-user", "/etc/qemu/vhost-user")


def find(type: str, missing: str, folders: Sequence[str] | None = None) -> str:
    """Return the program that is described as one that serves a type of devices (``fs``, ``gpu``). Blocking.

    Descriptions are files of JSON; one that another folder has under the same name overrides it, and an empty
    one hides it. Raises OperationFailed with ``missing``, which takes the folders, and InternalError for one
    that cannot be read.
    """
    folders = DESCRIPTIONS if folders is None else folders
    described: dict[str, Path] = {}
    for folder in folders:
        if os.path.isdir(folder):
            described |= {path.name: path for path in Path(folder).glob("*.json")}
    for file in sorted(described):
        text = described[file].read_text()
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except ValueError as error:
            raise InternalError(f"cannot read '{described[file]}': {error}") from error
        if found.get("type") == type and found.get("binary"):
            return str(found["binary"])
    raise OperationFailed(f"Unable to find a satisfying {missing.format(' or '.join(folders))}")
