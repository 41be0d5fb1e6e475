"""The order of the passes that turn today's records into those of an older emulator."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from qvirt.model.devices.audio import Audio
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


Change = Callable[[Sequence[Switch]], Iterable[Switch]]


def build_older(
    domain: Domain, ctx: BuildContext, caps: DialectCaps, change: Change | None = None
) -> CommandLine:
    """Return the command line that the emulator with these capabilities takes.

    The domain must be complete and have its aliases; it is changed as `build` changes it. ``change`` is given
    today's records, before they are made older. Raises what
    `build` raises, and ConfigUnsupported for what such an emulator cannot be told.
    """
    if not caps.says("@memory-up") and domain.memory is not None:
        domain.memory.value -= domain.memory.value % 1024
    env = _sound(domain, caps)
    command = build(domain, ctx, placed=False)
    switches = list(change(command.switches)) if change is not None else command.switches
    for rewrite in PASSES:
        switches = list(rewrite(switches, ctx, caps))
    return CommandLine(command.emulator, list(switches), env | command.env)


def _sound(domain: Domain, caps: DialectCaps) -> dict[str, str]:
    """Return the variable that names the one place sound goes to, where ``-audiodev`` cannot.

    A display that plays by itself needs none, and sound cards are given a stand-in to name.
    """
    if caps.says("-audiodev"):
        return {}
    audios = domain.devices.audios
    if not audios:
        audios.append(Audio(id=1, type="none"))
        return {}
    return {"QEMU_AUDIO_DRV": _DRIVERS.get(audios[0].type, audios[0].type)}


_DRIVERS = {"file": "wav", "pulseaudio": "pa"}
