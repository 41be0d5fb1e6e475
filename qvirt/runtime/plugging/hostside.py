"""The host's side of devices that come to a running guest and go: images, owners, sockets, taps.

look      find out what is below the images and what is needed; changes only the new documents
claim     write down what is going to be made, then make it; raises, and `release` takes away what there is
release   take away and give back what only these devices had
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import QvirtError
from qvirt.host import images, overlays
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.qemu.context import BuildContext, Launch
from qvirt.qemu.devices.base import FileResource, HelperResource, ListenResource, Resource, handler
from qvirt.qmp.commands import as_objects, int_of
from qvirt.record import Record
from qvirt.runtime import interfaces
from qvirt.runtime.helpers import helper_kinds, helper_watch, processes
from qvirt.runtime.life import launch, lending, limits
from qvirt.runtime.life.launch import Passed
from qvirt.runtime.plugging import pci, usb
from qvirt.runtime.running import Running
from qvirt.runtime.state import PciMark
from qvirt.security.loans import Loan

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain


async def context(
    domain: "Domain", running: Running, *, passing: bool = False, new: Device | None = None
) -> BuildContext:
    """Return the context for devices of a running guest. passing: for descriptors that are made for it.

    Its domain is the live definition; new: what is going to be plugged in.
    """
    documents = domain.hypervisor.documents
    if running.caps is None:
        running.caps = await documents.start_caps(running.definition)
    maker = Launch()
    if passing:
        if running.master_key is None:
            read = partial(launch.read_master_key, running.folder)
            running.master_key = await domain.hypervisor.files.run(f"key of '{domain.name}'", read)
        maker = Passed(running.id, domain.hypervisor.secrets, running.master_key)
    maker.id = running.id
    maker.fdsets = await _fdsets(running, new)
    ctx = documents.build_context(running.definition, running.caps, maker)
    ctx.abi_update = True
    return ctx


async def _fdsets(running: Running, new: Device | None) -> dict[str, int]:
    """Return which sets of descriptors QEMU has, by what they are of, where a device of the guest has one."""
    devices = [*running.definition.devices.interfaces, new]
    if not any(isinstance(dev, Interface) and dev.type == InterfaceType.VDPA for dev in devices):
        return {}
    found: dict[str, int] = {}
    for entry in as_objects(await running.execute("query-fdsets"), "query-fdsets"):
        number = int_of(entry, "fdset-id", "query-fdsets")
        fds = entry.get("fds")
        paths = (
            [str(fd.get("opaque", "")) for fd in fds if isinstance(fd, dict)] if isinstance(fds, list) else []
        )
        found |= dict.fromkeys(paths or [f"set {number}"], number)
    return found


class Needs(Record):
    """What devices need of the host. loans: files that QEMU's user is to be let at.

    functions: PCI functions of the host that the guest had not yet; they are noted as its own.
    """

    plan: launch.Plan
    loans: list[Loan]
    recipes: list[processes.Recipe]
    functions: list[PciMark]


async def look(
    domain: "Domain",
    running: Running,
    devices: Sequence[Device],
    ctx: BuildContext,
    name: Callable[[], None],
    *,
    plugging: bool = False,
) -> Needs:
    """Find the images below the ones that new disks name and USB devices, and check that QEMU gets at all.

    name: gives aliases to the devices and the images found. plugging: transient disks get their overlays.
    As nobody else has these documents yet, all is one piece of file work. Raises what keeps a file from
    being read, OperationUnsupported for an overlay that is there already.
    """
    hv = domain.hypervisor
    await usb.find(domain, devices)
    disks = [dev for dev in devices if isinstance(dev, Disk)]
    user = running.user
    owner = (user.uid, user.gid) if user is not None else None

    taken = hv.folders_of_others(domain)

    def work() -> Needs:
        images.fill_in(images.look_below(disks, user=owner))
        plan = launch.Plan(overlays=overlays.cover(disks, domain.name) if plugging else [])
        name()
        launch.survey_devices(devices, ctx, plan)
        launch.set_overlays_aside(plan)
        if plugging:
            launch.check_places(plan, taken)
        recipes = helper_kinds.recipes(domain, running, devices, ctx)
        plan.others += processes.resources(running.definition, recipes)
        return Needs(plan, lending.prepare(running, plan.files), recipes, functions)

    functions: list[PciMark] = []
    placed: list[Interface] = []
    try:
        for interface in _interfaces(devices) if plugging else ():
            interfaces.take_place(domain, interface)
            placed.append(interface)
        functions += await pci.reserve(domain, running, devices)
        return await hv.files.run(f"host's side of '{domain.name}'", work)
    except BaseException:
        pci.drop(running, functions)
        for interface in placed:
            await asyncio.shield(interfaces.leave_place(domain, interface))
        raise


async def claim(
    domain: "Domain", running: Running, devices: Sequence[Device], needs: Needs, passed: Passed
) -> None:
    """Make what the devices, which are in the live definition, need of the host."""
    hv = domain.hypervisor
    mark = running.footprint
    plan, loans, definition = needs.plan, needs.loans, running.definition
    for interface in _interfaces(devices):
        await interfaces.reserve(domain, running, interface)
    mark.loans += loans
    mark.files += [wanted.path for wanted in plan.listeners]
    mark.files += [overlay.path for overlay in plan.overlays]
    folders = [folder for folder in dict.fromkeys(plan.folders) if folder not in mark.folders]
    mark.folders += folders
    processes.reserve(running, needs.recipes)
    hv.checkpoint("device checked")

    def make() -> None:
        hv.checkpoint("device written down")
        launch.make_folders(folders, running.guard)
        launch.write_overlays(plan, running.guard)
        pci.take(hv, mark.pci)
        lending.dress_late(running, plan.files)
        lending.open_up(hv, running, loans, plan.opened)
        limits.follow(running.pid, definition, devices)

    await domain.save_status(make, lending.DEADLINE)
    hv.checkpoint("device's files given")
    for interface in _interfaces(devices):
        with await interfaces.connect(domain, running, interface) as connection:
            for name, fds in connection.take().items():
                passed.adopt(name, fds)
    await helper_watch.start(domain, running, needs.recipes)
    if plan.listeners or plan.handed:
        bind = partial(launch.make_listeners, plan, passed, running.guard)
        await hv.files.run(f"sockets of '{domain.name}'", bind)
    hv.checkpoint("device's host side made")


async def release(
    domain: "Domain", running: Running, devices: Sequence[Device], ctx: BuildContext
) -> list[str]:
    """Take away what only these devices had, which are not in the live definition any more.

    Returns what could not be taken away.
    """
    hv = domain.hypervisor
    functions = pci.unused(running, running.definition.devices.all())
    for interface in _interfaces(devices):
        await interfaces.disconnect(domain, running, interface)
    unused = helper_kinds.unused(devices, running.definition.devices.all())
    await processes.stop(domain, running, unused)
    mark = running.footprint
    gone, kept = _resources(devices, ctx), _resources(running.definition.devices.all(), ctx)
    missing: list[str] = []
    try:
        kept += launch.beside_devices(running.definition, ctx)
    except QvirtError as error:
        missing.append(str(error))  # huge pages were unmounted since
    gone += pci.nodes(running, functions)  # an interface knows no more what its network gave it
    gone += [HelperResource(running.definition, name) for name in unused]
    own = _own_files(gone) - _own_files(kept)
    disks = [dev for dev in devices if isinstance(dev, Disk)]
    files = [path for path in mark.files if path in own]

    def sweep() -> list[str]:
        failures = missing + lending.look_back(running, disks)
        for one in pci.still_open(running, functions):
            functions.remove(one)
            failures.append(f"QEMU has PCI device {one.name} open still: it is given back when QEMU ends")
        loans = lending.unused(running, gone, kept)
        failures += running.guard.take_back(loans, gone, kept)
        failures += launch.remove_files(files, hv.own_folders)
        mark.loans = [loan for loan in mark.loans if loan not in loans]
        try:
            limits.follow(running.pid, running.definition, devices, lower=bool(functions))
        except QvirtError as error:
            failures.append(str(error))
        failures += lending.shut(hv, running, gone, kept)
        return failures + pci.give_back(hv, functions)

    failures = await hv.files.run(f"host's side of '{domain.name}'", sweep, lending.DEADLINE)
    mark.files = [path for path in mark.files if path not in files]
    pci.drop(running, functions)
    return failures


async def change(
    domain: "Domain",
    running: Running,
    old: Device,
    new: Device,
    needs: Needs,
    ctx: BuildContext,
    passed: Passed,
) -> None:
    """Bring the host's side of a device of the live definition to a new description; on failure as it was."""
    if isinstance(old, Interface) and isinstance(new, Interface):
        await interfaces.update(domain, running, old, new)
        return
    try:
        await claim(domain, running, [new], needs, passed)
    except BaseException:
        await asyncio.shield(release(domain, running, [new], ctx))
        raise


async def change_back(
    domain: "Domain", running: Running, old: Device, new: Device, ctx: BuildContext
) -> list[str]:
    """Undo a change. Returns what could not be taken away."""
    if isinstance(old, Interface) and isinstance(new, Interface):
        await interfaces.update(domain, running, new, old)
        return []
    return await release(domain, running, [new], ctx)


async def forget(domain: "Domain", running: Running, old: Device, ctx: BuildContext) -> list[str]:
    """Take away what only the old description had, after a change. Returns what could not be taken away."""
    return [] if isinstance(old, Interface) else await release(domain, running, [old], ctx)


def _interfaces(devices: Sequence[Device]) -> Iterator[Interface]:
    return (dev for dev in devices if isinstance(dev, Interface))


def _resources(devices: Iterable[Device], ctx: BuildContext) -> list[Resource]:
    return [resource for dev in devices for resource in handler(dev).resources(dev, ctx)]


def _own_files(resources: Iterable[Resource]) -> set[str]:
    """Return what may be this run's own: sockets, and overlays of transient disks."""
    return {
        resource.path
        for resource in resources
        if isinstance(resource, ListenResource)
        or (isinstance(resource, FileResource) and overlays.is_overlay(resource.path))
    }
