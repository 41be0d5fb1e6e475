"""Guests with helpers, and programs that stand in for what takes long or shall fail."""

import os
from pathlib import Path

from tests.functional.runtime.instance import Instance, document

UUID = "5e1b2c3d-1111-2222-3333-444455556666"

#: what has a helper: shared memory, room for more, and the devices
SHARED_MEMORY = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
PORTS = "<controller type='pci' index='0' model='pcie-root'/>" + 4 * (
    "<controller type='pci' model='pcie-root-port'/>"
)
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"

#: makes no keys, which takes seconds: a swtpm without state makes one by itself
QUICK_SETUP = """#!/bin/sh
while [ $# -gt 0 ]; do case $1 in --tpm-state) touch "$2/was-set-up" ;; esac; shift; done
"""


def shared_folder(root: Path, tag: str = "share", inside: str = "") -> str:
    """Return a folder shared by virtiofs, which is made."""
    path = root / f"shared-{tag}"
    path.mkdir(exist_ok=True)
    return (
        f"<filesystem type='mount'><driver type='virtiofs'/>{inside}<source dir='{path}'/>"
        f"<target dir='{tag}'/></filesystem>"
    )


def helped(*devices: str) -> str:
    """Return a guest with devices that have helpers."""
    text = document("helped", *devices, extra=SHARED_MEMORY, uuid=UUID)
    return text.replace("machine='pc'", "machine='q35'")


def program(folder: Path, name: str, text: str) -> Path:
    """Write a program that everybody may run."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def path_with(folder: Path) -> str:
    """Return a PATH where what is in a folder comes first."""
    return f"{folder}:{os.environ.get('PATH', os.defpath)}"


def state_of(it: Instance) -> Path:
    """Return where the state of the guest's TPM is kept."""
    return it.paths.swtpm_storage / UUID
