"""QEMUs that somebody else started become domains (virDomainQemuAttach); the guest notices nothing.

The document is the machine as it is: the command line says what it was started as, the monitor what has
become of it. The process is not our child, and its files are not ours: nothing of them is lent, given back or
removed.
"""

import asyncio
import base64
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, cast

from qvirt.constants.domain import DomainRunningReason, DomainState, DomainXMLFlags
from qvirt.constants.domain_event import DomainEventStartedDetailType, DomainEventType
from qvirt.errors import (
    DomainExists,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
    QvirtError,
    SystemError_,
)
from qvirt.host import images
from qvirt.host.persist import remove, write_atomic
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.domain import Domain as Definition
from qvirt.model.live import format_domain
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.context import Launch
from qvirt.qemu.importer import Command
from qvirt.qemu.importer.parts import Part, Props
from qvirt.qemu.names import assign_aliases
from qvirt.qmp.client import Monitor
from qvirt.qmp.commands import as_objects
from qvirt.qmp.errors import MonitorClosed, QmpError
from qvirt.qmp.wire import Json, JsonValue
from qvirt.record import Record
from qvirt.runtime import live, recover
from qvirt.runtime.domain import Domain
from qvirt.runtime.domainlog import DomainLog
from qvirt.runtime.events import Lifecycle
from qvirt.runtime.foreign import adopted
from qvirt.runtime.foreign.adopted import Found, Machine
from qvirt.runtime.foreign.proc import Seen, elsewhere, look_at
from qvirt.runtime.foreign.renaming import Names
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import launch, stopping, taints
from qvirt.runtime.life.process import Process
from qvirt.runtime.lines.importing import import_command
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import iothreads, vcpus

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: seconds a monitor gets to greet us, and to answer all questions
GREETING_DEADLINE = 5.0
ANSWER_DEADLINE = 30.0

_NO_UUID = "00000000-0000-0000-0000-000000000000"
_FOLDERS = ("peripheral", "peripheral-anon", "unattached")
_BUSES = frozenset({"PCI", "PCIE", "SCSI", "IDE", "virtio-serial-bus", "usb-bus", "ccid-bus"})

Pair = tuple[Part, Device | None, Found | None]


class Picture(Record):
    """The machine as it is. live: with QEMU's ids as aliases; inactive: what boots it next time, as text."""

    live: Definition
    inactive: str
    pairs: list[Pair]
    machine: Machine
    notes: list[str]


async def adopt(hv: "Hypervisor", pid: int) -> Domain:
    """Make a domain of a QEMU that runs.

    Raises SystemError_ for no such process, OperationInvalid for one that is no QEMU, DomainExists for one
    that is a domain, ConfigUnsupported for one without a monitor to connect to, OperationFailed where another
    program has the monitor, or name or uuid are taken.
    """
    for known in hv.domains:
        if known.running is not None and known.running.pid == pid:
            raise DomainExists(f"'{known.name}' (pid {pid})")
    seen = await hv.files.run(f"process {pid}", partial(look_at, pid))
    async with contextlib.AsyncExitStack() as undo:
        try:
            process = Process.adopt(pid, seen.start_time)
        except ProcessLookupError as error:
            raise SystemError_(f"Unable to resolve /proc/{pid}/exe link", error) from error
        undo.callback(process.close)
        link = await _connect(seen)
        undo.callback(link.close)
        async with _within(ANSWER_DEADLINE, seen):
            picture = await _look(hv, seen, link)
        domain = await _take(hv, seen, process, link, picture, undo)
        undo.pop_all()
    return domain


@contextlib.asynccontextmanager
async def _within(seconds: float, seen: Seen) -> AsyncIterator[None]:
    """Give a QEMU so long for all its answers. Raises OperationTimeout."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise OperationTimeout(
            f"the QEMU of pid {seen.pid} did not answer all questions within {seconds:g} s"
        ) from None


async def _connect(seen: Seen) -> Monitor:
    try:
        return await Monitor.connect(seen.monitor, deadline=GREETING_DEADLINE)
    except (OperationTimeout, MonitorClosed) as error:
        raise OperationFailed(
            f"the monitor '{seen.monitor}' of pid {seen.pid} does not answer: another program is connected "
            "to it (a QEMU talks to one at a time), or the QEMU is stopped; end that program and try again"
        ) from error


# --------------------------------------------------------------------------- asking


async def _ask(link: Monitor, command: str, **arguments: JsonValue) -> Json:
    return await link.execute(command, arguments or None, deadline=ANSWER_DEADLINE)


async def _maybe(link: Monitor, command: str, **arguments: JsonValue) -> Json:
    """Ask what a QEMU may refuse to tell; None then."""
    try:
        return await _ask(link, command, **arguments)
    except QmpError:
        return None


async def _children(link: Monitor, path: str) -> list[tuple[str, str]]:
    """Return name and type of the properties of an object."""
    listed = as_objects(await _ask(link, "qom-list", path=path), "qom-list")
    return [(str(item.get("name")), str(item.get("type"))) for item in listed]


async def _machine(seen: Seen, link: Monitor) -> Machine:
    """Ask for all that may be otherwise than the command line says."""
    devices: list[Found] = []
    buses: dict[str, list[str]] = {}
    for folder in _FOLDERS:
        listed = sorted(await _children(link, f"/machine/{folder}"), key=lambda item: (len(item[0]), item[0]))
        for name, kind in listed:
            if kind.startswith("child<") and (folder == "peripheral" or name.startswith("device[")):
                path = f"/machine/{folder}/{name}"
                found, below = await _device(link, path, kind[6:-1])
                devices.append(found)
                if below:
                    buses[path] = below
    objects = await _objects(link)
    networks = await _maybe(link, "human-monitor-command", **{"command-line": "info network"})
    return Machine(
        folder=seen.folder,
        devices=devices,
        blocks=as_objects(await _ask(link, "query-block"), "query-block"),
        nodes=as_objects(await _ask(link, "query-named-block-nodes"), "query-named-block-nodes"),
        chardevs=as_objects(await _ask(link, "query-chardev"), "query-chardev"),
        networks=str(networks or "").replace("\r", ""),
        buses=buses,
        objects=objects,
    )


async def _device(link: Monitor, path: str, type: str) -> tuple[Found, list[str]]:
    listed = await _children(link, path)
    have = {name for name, _ in listed}
    wanted = [name for name in adopted.ASKED if name in have]
    answers = await asyncio.gather(*(_maybe(link, "qom-get", path=path, property=name) for name in wanted))
    if "virtio-backend" in have:
        listed += await _children(link, f"{path}/virtio-backend")
    buses = [name for name, kind in listed if kind.startswith("child<") and kind[6:-1] in _BUSES]
    props = cast("Props", dict(zip(wanted, answers, strict=True)))
    return Found(path, type, props), buses


async def _objects(link: Monitor) -> dict[str, Props]:
    """Return the memory and sources of randomness that devices rest on, as they would be made again."""
    found: dict[str, Props] = {}
    for name, kind in await _children(link, "/objects"):
        type = kind[6:-1]
        if not _is_backend(type):
            continue
        props: Props = {"qom-type": type, "id": name}
        for key in ("size", "filename", "mem-path"):
            value = await _maybe(link, "qom-get", path=f"/objects/{name}", property=key)
            if isinstance(value, (int, str)) and value:
                props[key] = value
        found[name] = props
    return found


def _is_backend(type: str) -> bool:
    """Tell whether an object is one that a plugged device may rest on."""
    return type.startswith(("memory-backend-", "rng-"))


# -------------------------------------------------------------------------- picture


async def _look(hv: "Hypervisor", seen: Seen, link: Monitor) -> Picture:
    """Find out what machine this is now."""
    now = await _machine(seen, link)
    words = list(seen.argv[1:])
    imported = await import_command(hv.documents, Command(seen.env, seen.argv), seen.folder)
    parts = [part for part, _ in imported.devices]
    matched, fresh = adopted.match(parts, now.devices)
    words, notes = adopted.since(words, parts, matched, fresh, now)
    if notes:
        again = Command(seen.env, (seen.argv[0], *words))
        imported = await import_command(hv.documents, again, seen.folder)
        parts = [part for part, _ in imported.devices]
        matched, strange = adopted.match(parts, now.devices, fresh)
        notes += [f"{found.type} '{found.path}' stays unknown" for found in strange]
    live_one = imported.domain
    pairs = [(part, node, found) for (part, node), found in zip(imported.devices, matched, strict=True)]
    known = [(node, found) for _, node, found in pairs]
    notes += adopted.correct(live_one, known, now)
    if not any(argument.startswith("-name") for argument in words):
        live_one.name = f"attach-pid-{seen.pid}"
    if live_one.uuid is None:
        live_one.uuid = await _uuid(hv, link)
    next_one = live_one.copy()
    await hv.documents.complete(next_one, abi_update=True)
    inactive = format_domain(next_one, DomainXMLFlags.INACTIVE | DomainXMLFlags.SECURE)
    await hv.documents.complete(live_one, abi_update=True)
    adopted.give_aliases(live_one, known)
    disks = live_one.devices.disks
    images.fill_in(await hv.files.run(f"images of '{live_one.name}'", partial(_below, live_one, [*disks])))
    adopted.take_indexes(live_one, known, now)
    notes += await hv.files.run(f"mounts of pid {seen.pid}", partial(_hidden, live_one, seen.pid))
    caps = await hv.documents.start_caps(live_one)
    assign_aliases(live_one, hv.documents.build_context(live_one, caps, Launch()))
    adopted.untangle(live_one)
    return Picture(live_one, inactive, pairs, now, notes)


def _below(definition: Definition, disks: list[Disk]) -> list[images.Found]:
    """Find the images below those of the disks; one that cannot be read is QEMU's to have open. Blocking."""
    found: list[images.Found] = []
    for disk in disks:
        try:
            found += images.look_below([disk])
        except (QvirtError, OSError) as error:
            log.info("domain '%s': the images below %s are not known: %s", definition.name, disk.name, error)
    return found


def _hidden(definition: Definition, pid: int) -> list[str]:
    """Say which images the QEMU has of mounts of its own: the next start would take others. Blocking."""
    paths = (
        image.source.local_path
        for disk in definition.devices.disks
        if disk.source is not None
        for image in disk.images()
    )
    return [
        f"'{path}' is a file of its own mounts, as in a container; the next start needs it here"
        for path in paths
        if path is not None and elsewhere(pid, path)
    ]


async def _uuid(hv: "Hypervisor", link: Monitor) -> str:
    answer = await _maybe(link, "query-uuid")
    said = str(answer.get("UUID")) if isinstance(answer, dict) else _NO_UUID
    return said if said not in (_NO_UUID, "None") else hv.documents.generate_uuid()


# --------------------------------------------------------------------------- taking


async def _take(
    hv: "Hypervisor",
    seen: Seen,
    process: Process,
    link: Monitor,
    picture: Picture,
    undo: contextlib.AsyncExitStack,
) -> Domain:
    """Make the domain. What has been made is undone when a step fails."""
    definition = picture.live
    domain = hv.claim(definition)
    if domain is None:
        domain = Domain(hv, definition.name, definition.uuid or "")
        domain.take_definition(None, picture.inactive, exact=False)
        hv.domains.add(domain)
        undo.callback(hv.domains.remove, domain)
    async with domain.job(Job.MODIFY, "attach"):
        if domain.active:
            raise OperationInvalid(f"domain '{domain.name}' is already active")
        running = Running(
            id=hv.next_id(),
            definition=definition,
            folder="",
            monitor_path=seen.monitor,
            stage="running",
            process=process,
            link=link,
            names=Names(adopted.names(picture.pairs, picture.machine)),
        )
        definition.id = running.id
        running.caps = await hv.documents.start_caps(definition)
        maker = Launch()
        maker.id = running.id
        running.folder = hv.documents.build_context(definition, running.caps, maker).domain_dir
        running.master_key = os.urandom(32)
        _label(hv, seen, definition)
        recall = partial(hv.security.recall, running.id, definition, running.folder)
        running.guard = await hv.files.run(f"labels of '{domain.name}'", recall)
        running.guard.guest.user = seen.user  # with its own groups
        mark = running.footprint
        mark.folders = [running.folder]
        mark.files = [str(hv.paths.pidfile(domain.name))]
        _reserve(hv, running)
        undo.callback(_release, hv, running)
        domain.running = running
        domain.set_state(DomainState.RUNNING, DomainRunningReason.UNKNOWN)
        undo.push_async_callback(_undo, hv, domain, running)
        await domain.save_status(then=partial(_make, hv, domain.name, running))
        hv.checkpoint("adoption written down")
        link.name = domain.name
        link.on_event = partial(stopping.monitor_event, domain, running)
        link.on_closed = partial(stopping.monitor_closed, domain, running)
        async with _within(ANSWER_DEADLINE, seen):
            await _like_ours(running)
            word = await live.after_reconnect(domain, running)
            await vcpus.after_reconnect(running)
            await iothreads.after_reconnect(running)
        recover.take_state(domain, running, None, word)
        await taints.note(domain, running)
        domain.taint("external-launch")
        await domain.save_status()
        process.exited.add_done_callback(lambda _: stopping.process_ended(domain, running))
    for note in picture.notes:
        hv.log_line(domain, f"since it was started: {note}")
    domain.publish(Lifecycle(domain.ref, DomainEventType.STARTED, DomainEventStartedDetailType.BOOTED))
    hv.checkpoint("adopted")
    return domain


def _label(hv: "Hypervisor", seen: Seen, definition: Definition) -> None:
    """Say whom files of new devices are to be lent to, where it is not whom our guests run as."""
    ours = (hv.user.uid, hv.user.gid) if hv.user is not None else (os.geteuid(), os.getegid())
    if (seen.user.uid, seen.user.gid) != ours:
        label = f"+{seen.user.uid}:+{seen.user.gid}"
        definition.seclabels.append(SecLabel(type="static", model="dac", relabel=True, label=label))


def _reserve(hv: "Hypervisor", running: Running) -> None:
    """Note the ports of its displays, so that no other guest is given them."""
    for graphics in running.definition.devices.graphics:
        for port in (graphics.port, graphics.tls_port, graphics.websocket):
            if port is not None and port > 0:
                hv.display_ports.reserve(port)
                hv.websocket_ports.reserve(port)
                running.footprint.ports.append(port)


def _release(hv: "Hypervisor", running: Running) -> None:
    for port in running.footprint.ports:
        hv.display_ports.release(port)
        hv.websocket_ports.release(port)


def _make(hv: "Hypervisor", name: str, running: Running) -> None:
    launch.make_folders([running.folder], running.guard)
    launch.write_master_key(running.folder, running.master_key or b"", running.guard)
    write_atomic(hv.paths.pidfile(name), f"{running.pid}\n".encode(), 0o644)
    DomainLog.append(hv.paths.logfile(name), f"adopted, pid={running.pid}")


async def _like_ours(running: Running) -> None:
    """Make a QEMU behave as one of ours: it waits for us after a power-off, and takes encrypted secrets."""
    if running.caps is not None and running.caps.has_command("set-action"):
        await running.execute("set-action", {"shutdown": "pause"})
    key = base64.b64encode(running.master_key or b"").decode("ascii")
    secret: dict[str, JsonValue] = {"qom-type": "secret", "id": "masterKey0", "format": "base64", "data": key}
    with contextlib.suppress(QmpError):  # one that a manager before us has left cannot go while it is used
        await running.execute("object-del", {"id": "masterKey0"})
    await running.execute("object-add", secret)


async def _undo(hv: "Hypervisor", domain: Domain, running: Running) -> None:
    """Let go of a QEMU as it was."""
    running.finishing = True
    domain.running = None
    domain.set_state(DomainState.SHUTOFF, 0)

    def work() -> list[str]:
        remove(hv.paths.status(domain.name))
        return launch.sweep(running.guard, running.footprint, hv.own_folders)

    for failure in await hv.files.run(f"adoption of '{domain.name}'", work):
        log.error("domain '%s': %s", domain.name, failure)
