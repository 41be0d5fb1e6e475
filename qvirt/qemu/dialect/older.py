"""The order of the passes that turn today's records into those of an older emulator."""

from collections.abc import Callable, Iterator, Sequence

from qvirt.model.domain import Domain
from qvirt.qemu.build import build
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect import bare, devices, displays, drives, machine, nics
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.switches import CommandLine, Switch

Pass = Callable[[Sequence[Switch], BuildContext, DialectCaps], Iterator[Switch]]

PASSES: tuple[Pass, ...] = (
    machine.rewrite,
    drives.rewrite,
    nics.rewrite,
    displays.rewrite,
    bare.rewrite,
    devices.rewrite,
)
"""Each reads what the one before it made; `bare` does without ``-device``, `devices` spells what is left."""


def build_older(domain: Domain, ctx: BuildContext, caps: DialectCaps) -> CommandLine:
    """Return the command line that the emulator with these capabilities takes.

    The domain must be complete and have its aliases; it is changed as `build` changes it. Raises what
    `build` raises, and ConfigUnsupported for what such an emulator cannot be told.
    """
    if not caps.says("@memory-up") and domain.memory is not None:
        domain.memory.value -= domain.memory.value % 1024
    command = build(domain, ctx, placed=False)
    switches: Sequence[Switch] = command.switches
    for rewrite in PASSES:
        switches = list(rewrite(switches, ctx, caps))
    return CommandLine(command.emulator, list(switches), command.env)
