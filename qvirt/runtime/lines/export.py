"""Domain documents as command lines and scripts: for the emulator they name, or for one of an older age."""

from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import InternalError
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu import script
from qvirt.qemu.addresses import assign
from qvirt.qemu.build import build, native_domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext, Dirs, Launch
from qvirt.qemu.dialect.ages import Version, age_caps
from qvirt.qemu.dialect.by_hand import by_hand
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.dialect.older import Change, build_older
from qvirt.qemu.dialect.plain import Plain, PlainCaps, plain_caps
from qvirt.qemu.machine import EMULATOR_TARGETS, emulator_names
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import CommandLine
from qvirt.record import replace
from qvirt.runtime.life import launch

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor


async def to_native(
    hv: "Hypervisor", xml: str, age: Version | Plain | None
) -> tuple[list[str], dict[str, str]]:
    """Return argv and environment of a domain document; starts nothing.

    age: the release of QEMU whose dialect is written, or the plain one; None for a start's words. Raises
    what reading, completing and building raise.
    """
    domain, caps = await _read(hv, xml, age)
    is_native = bool(domain.devices.interfaces) and not isinstance(caps, DialectCaps)
    if is_native:
        domain = native_domain(domain)
    ctx = hv.documents.build_context(domain, caps, Launch())
    if is_native:
        assign(domain, ctx)  # they have lost their addresses
    assign_aliases(domain, ctx)
    command = _build(domain, ctx, None)
    if age is not None:
        return command.argv(), command.env
    return command.argv(), launch.environment(ctx, command)


async def to_script(hv: "Hypervisor", xml: str, age: Version | Plain | None) -> str:
    """Return a shell script that starts the domain without us. Raises as `to_native`, ConfigUnsupported."""
    domain, caps = await _read(hv, xml, age)
    script.check(domain)
    ctx = replace(hv.documents.build_context(domain, caps, Launch()), dirs=_dirs(hv))
    ctx = replace(ctx, settings=replace(ctx.settings, memory_backing_dir=f"{script.RUN}/ram"))
    assign_aliases(domain, ctx)
    needs = script.Needs()
    networks = hv.networks or ()
    bridges = {network.name: network.bridge for network in networks if network.bridge}
    command = _build(domain, ctx, partial(script.standalone, ctx=ctx, bridges=bridges, needs=needs))
    return script.write(domain, replace(command, env={"LC_ALL": "C", **command.env}), ctx, needs)


def _dirs(hv: "Hypervisor") -> Dirs:
    """Return the script's own folders; firmware variables stay where the domain has them."""
    return replace(script.DIRS, nvram=hv.paths.dirs.nvram)


async def _read(hv: "Hypervisor", xml: str, age: Version | Plain | None) -> tuple[Domain, EmulatorCaps]:
    """Read and complete a document for the emulator it is for."""
    domain = parse_domain(xml)
    caps = await _caps(hv, domain, age)
    complete(domain, hv.documents.context(domain, caps, abi_update=True))
    return domain, caps


async def _caps(hv: "Hypervisor", domain: Domain, age: Version | Plain | None) -> EmulatorCaps:
    """Return what the emulator can do: by its age, by the monitor, or by what it prints."""
    if isinstance(age, tuple):
        arch = domain.os.type.arch or hv.documents.host.arch
        emulator = domain.devices.emulator or f"/usr/bin/{emulator_names(arch)[0]}"
        return age_caps(age, emulator=emulator, target=EMULATOR_TARGETS.get(arch, arch))
    try:
        caps = await hv.documents.start_caps(domain)
        return plain_caps(caps) if isinstance(age, Plain) else caps
    except InternalError:
        if domain.devices.emulator is None:
            raise
        return await hv.documents.emulators.texts(domain.devices.emulator)


def _build(domain: Domain, ctx: BuildContext, change: Change | None) -> CommandLine:
    if isinstance(ctx.caps, PlainCaps) and change is None:
        change = partial(by_hand, ctx=ctx)
    if isinstance(ctx.caps, DialectCaps):
        return build_older(domain, ctx, ctx.caps, change)
    command = build(domain, ctx)
    return command if change is None else replace(command, switches=list(change(command.switches)))
