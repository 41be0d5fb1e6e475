"""Command lines imported without a machine: stored emulator facts, no files."""

import shlex
from collections.abc import Callable, Mapping

from qvirt.qemu.importer import Imported, Surroundings, emulator_target, import_command_line
from tests.support import pure


def imported(
    line: str,
    *,
    env: Mapping[str, str] | None = None,
    probe: Callable[[str], str | None] = lambda path: None,
    read: Callable[[str], str | None] = lambda path: None,
    offers_kvm: bool = True,
    kind: Callable[[str], str] = lambda path: "",
) -> Imported:
    """Import one line; every argument must be accounted for."""
    argv = shlex.split(line)
    target, kvm = emulator_target(argv[0])
    caps = pure.caps(target)
    around = Surroundings(
        caps=caps,
        context=pure.context,
        probe=probe,
        kvm=kvm,
        offers_kvm=offers_kvm,
        read=read,
        kind=kind,
    )
    made = import_command_line(argv, env or {}, around)
    assert made.account.unaccounted() == []
    return made


def words(made: Imported) -> list[str]:
    """Return the words that are handed to QEMU as they are."""
    commandline = made.domain.qemu_commandline
    return [arg.value for arg in commandline.args] if commandline is not None else []
