"""QEMU command lines imported with what is known of this machine: its emulators, its images."""

import asyncio
import os
import stat

from qvirt.errors import InvalidArg
from qvirt.host.images import is_block, read_info
from qvirt.model.domain import Domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.context import BuildContext, Launch
from qvirt.qemu.importer import (
    Command,
    Imported,
    Surroundings,
    emulator_target,
    import_command_line,
    parse_commands,
)
from qvirt.runtime.documents import Documents

#: folders an emulator named without one is looked for in
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/libexec")
#: programs that start an emulator and are none themselves
_WRAPPERS = frozenset({"kvm", "qemu", "qemu-kvm"})
#: bytes of a configuration file that are read
_LARGEST_CONFIG = 1 << 20


async def import_text(documents: Documents, text: str, *, offers_kvm: bool) -> Imported:
    """Return the domain of the first QEMU command in a text. Raises InvalidArg and what completion raises.

    offers_kvm: guests that are started here may use KVM, where their emulator can; the others are emulated.
    """
    commands = await asyncio.to_thread(parse_commands, text)  # a long one takes seconds
    imported = await import_command(documents, commands[0], offers_kvm=offers_kvm)
    if len(commands) > 1:
        imported.account.note(
            f"the text has {len(commands)} QEMU commands; this is the first, of line {commands[0].line}"
        )
    return imported


async def import_command(
    documents: Documents, command: Command, folder: str = "", *, offers_kvm: bool = True
) -> Imported:
    """Return the domain that a command line and its environment describe. folder: where its paths begin."""
    target, kvm = emulator_target(command.argv[0])
    path = find_emulator(command.argv[0], target)
    caps = await documents.emulators.caps(path)
    around = _surroundings(documents, caps, folder, kvm=kvm, offers_kvm=offers_kvm)
    # images are looked at on the way
    return await asyncio.to_thread(import_command_line, command.argv, command.env, around)


def find_emulator(program: str, target: str) -> str:
    """Return the emulator to use for a program's name. Raises InvalidArg when there is none."""
    name = os.path.basename(program)
    if program.startswith("/") and name not in _WRAPPERS and os.access(program, os.X_OK):
        return program
    for folder in _FOLDERS:
        for candidate in (name, f"qemu-system-{target}"):
            path = f"{folder}/{candidate}"
            if candidate not in _WRAPPERS and candidate.startswith("qemu") and os.access(path, os.X_OK):
                return path
    raise InvalidArg(f"no emulator for '{program}' here: qemu-system-{target} is not installed")


def _surroundings(
    documents: Documents, caps: EmulatorCaps, folder: str, *, kvm: bool, offers_kvm: bool
) -> Surroundings:
    def context(domain: Domain) -> BuildContext:
        return documents.build_context(domain, caps, Launch())

    def probe(path: str) -> str | None:
        return probe_format(os.path.join(folder, path))

    def read(path: str) -> str | None:
        return _read_config(os.path.join(folder, path))

    def kind(path: str) -> str:
        whole = os.path.join(folder, path)
        return _kind(whole) if whole.startswith("/") else ""  # whose folder is not known

    return Surroundings(
        caps=caps,
        context=context,
        probe=probe,
        kind=kind,
        kvm=kvm,
        offers_kvm=offers_kvm,
        read=read,
    )


def probe_format(path: str) -> str | None:
    """Return the format an image's header says, None for one that cannot be read. Blocking."""
    try:
        return read_info(path).format
    except OSError:
        return None


def _read_config(path: str) -> str | None:
    """Return the text of one of QEMU's configuration files, None for what is none. Blocking."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = file.read(_LARGEST_CONFIG + 1)
    try:
        return data.decode() if len(data) <= _LARGEST_CONFIG else None
    except UnicodeDecodeError:
        return None


def _kind(path: str) -> str:
    try:
        return "block" if is_block(path) else "file"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return ""
