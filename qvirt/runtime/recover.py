"""After a start of the daemon: definitions read, running QEMUs found again, half-started ones cleared."""

import asyncio
import contextlib
import logging
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lxml import etree

from qvirt.constants.domain import (
    DomainPausedReason,
    DomainRunningReason,
    DomainShutoffReason,
    DomainState,
    DomainXMLFlags,
)
from qvirt.constants.domain_event import DomainEventStoppedDetailType
from qvirt.errors import QvirtError, SystemError_
from qvirt.host.cgroup import Group, path_of_process
from qvirt.host.persist import is_leftover, remove, write_atomic
from qvirt.host.proc import start_time
from qvirt.host.unix import connect
from qvirt.model.domain import Domain as Definition
from qvirt.model.domain import parse_live
from qvirt.model.live import format_domain
from qvirt.qemu.context import Launch
from qvirt.qemu.names import assign_aliases
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import QmpError
from qvirt.record import Record
from qvirt.runtime import live
from qvirt.runtime.domain import Domain
from qvirt.runtime.foreign import handback, takeover
from qvirt.runtime.foreign.renaming import Names
from qvirt.runtime.helpers import helper_watch
from qvirt.runtime.life import cgroups, endings, launch, lending, stopping
from qvirt.runtime.life.process import Process
from qvirt.runtime.plugging import hotplug
from qvirt.runtime.running import Running
from qvirt.runtime.state import VERSION, Footprint, Status, boot_id, read_status
from qvirt.runtime.tuning import iothreads, perf, vcpus
from qvirt.security.stack import Guard

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: seconds a QEMU gets to answer while the daemon starts, and later, when nobody waits for it
FIRST_DEADLINE = 3.0
RECONNECT_DEADLINE = 30.0

_INACTIVE = DomainXMLFlags.INACTIVE | DomainXMLFlags.SECURE

#: QEMU's run states -> ours
_RUN_STATES = {
    "running": (DomainState.RUNNING, DomainRunningReason.UNKNOWN),
    "paused": (DomainState.PAUSED, DomainPausedReason.USER),
    "prelaunch": (DomainState.PAUSED, DomainPausedReason.USER),
    "io-error": (DomainState.PAUSED, DomainPausedReason.IOERROR),
    "watchdog": (DomainState.PAUSED, DomainPausedReason.WATCHDOG),
    "internal-error": (DomainState.PAUSED, DomainPausedReason.UNKNOWN),
    "guest-panicked": (DomainState.CRASHED, 1),
    "suspended": (DomainState.PMSUSPENDED, 0),
    "shutdown": (DomainState.SHUTDOWN, 0),
    "debug": (DomainState.PAUSED, DomainPausedReason.UNKNOWN),
    "save-vm": (DomainState.PAUSED, DomainPausedReason.SNAPSHOT),
}


# --------------------------------------------------------------------- definitions


class _Loaded(Record):
    name: str
    uuid: str
    text: str
    path: Path
    mtime: int


async def load_definitions(hv: "Hypervisor") -> None:
    """Read every definition; what cannot be read stays where it is and is reported."""
    folder, autostart = hv.paths.definitions, hv.paths.autostart
    loaded, reports, links = await hv.files.run("definitions", partial(_read_all, folder, autostart))
    hv.reports += reports
    for one in sorted(loaded, key=lambda item: item.mtime):
        # Two files with one uuid are a rename that was cut off; the younger file is its result.
        other = hv.domains.find(one.uuid)
        if other is not None:
            hv.reports.append(
                f"definition '{hv.paths.definition(other.name)}' has the uuid of '{one.path}', which is "
                "newer; the older one is removed"
            )
            hv.domains.remove(other)
            await hv.files.run("rename that was cut off", partial(_finish_rename, hv, other.name, one.name))
            links = {one.name + link[len(other.name) :] if link.startswith(f"{other.name}.xml") else link
                     for link in links}  # fmt: skip
        domain = Domain(hv, one.name, one.uuid)
        domain.persistent = True
        domain.autostart = f"{one.name}.xml" in links
        domain.autostart_once = f"{one.name}.xml.once" in links
        domain.take_definition(None, one.text, exact=False)
        hv.domains.add(domain)


def _read_all(folder: Path, autostart: Path) -> tuple[list[_Loaded], list[str], set[str]]:
    loaded: list[_Loaded] = []
    reports: list[str] = []
    for path in sorted(folder.iterdir()):
        if is_leftover(path):
            remove(path)
        elif path.suffix == ".xml" and path.is_file():
            try:
                loaded.append(_read_one(path))
            except (OSError, ValueError, etree.XMLSyntaxError) as error:
                reports.append(f"definition '{path}' cannot be read and is left as it is: {error}")
    links = {path.name for path in autostart.iterdir()} if autostart.is_dir() else set()
    return loaded, reports, links


def _read_one(path: Path) -> _Loaded:
    """Read name and uuid; the rest is read when it is needed."""
    data = path.read_bytes()
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    root = etree.fromstring(data, parser)
    name, uuid = root.findtext("name"), root.findtext("uuid")
    if root.tag != "domain" or not name or not uuid:
        raise ValueError("it is no domain with a name and a uuid")
    if name != path.stem:
        raise ValueError(f"domain config filename '{path}' does not match domain name '{name}'")
    begin = data.index(b"<domain")
    return _Loaded(
        name, uuid.strip(), data[begin:].decode("utf-8", "surrogateescape"), path, path.stat().st_mtime_ns
    )


def _finish_rename(hv: "Hypervisor", old: str, new: str) -> None:
    for link in (hv.paths.autostart_link, hv.paths.autostart_once_link):
        if link(old).is_symlink():
            with contextlib.suppress(FileExistsError):
                link(new).symlink_to(hv.paths.definition(new))
            remove(link(old))
    remove(hv.paths.definition(old))


# ------------------------------------------------------------------ running QEMUs


class _Found(Record):
    """A guest that ran. live: its document; None where there is none that can be read."""

    status: Status
    live: Definition | None


async def reconnect_all(hv: "Hypervisor") -> None:
    """Find all QEMUs that ran under the last daemon, all at once."""
    found, unreadable = await hv.files.run("status files", partial(_read_statuses, hv.paths.run))
    for path, reason in unreadable:
        status = await hv.files.run("QEMU without a status", partial(_rebuild, hv, path))
        if status is None:
            aside = path.with_name(path.name + ".unreadable")
            await hv.files.run("status file", partial(os.replace, path, aside))
            hv.reports.append(f"status file '{path}' cannot be read and is kept as '{aside}': {reason}")
        else:
            hv.reports.append(
                f"status file '{path}' cannot be read ({reason}); the running QEMU (pid {status.pid}) was "
                "taken over with its definition"
            )
            found.append(_Found(status, None))
    found = await _left_out(hv, found)
    for status in (one.status for one in found):
        if status.version not in (0, VERSION):
            hv.reports.append(
                f"the status of '{status.name}' is of version {status.version}, this is {VERSION}; "
                "what is known of it is used"
            )
        hv.note_id(status.id)
        await hv.files.run(f"files of '{status.name}'", partial(_note_loans, hv, status))
    await asyncio.gather(*(_take_up(hv, one) for one in found))


async def _left_out(hv: "Hypervisor", found: list[_Found]) -> list[_Found]:
    """Leave libvirt's guests alone that are not for us; returns the others."""
    taken: list[_Found] = []
    for one in found:
        status = one.status
        if status.version == 0:
            look = await hv.files.run(
                f"status of '{status.name}'", partial(takeover.examine, status, hv.security.names)
            )
            if look.obstacles:
                hv.untaken[status.name] = status
                hv.note_id(status.id)
                if one.live is not None:
                    with contextlib.suppress(QvirtError):  # nobody else gets its labels, as far as it has any
                        keep = partial(hv.security.recall, status.id, one.live, status.folder)
                        await hv.files.run(f"labels of '{status.name}'", keep)
                hv.reports.append(
                    f"domain '{status.name}' runs under libvirt (pid {status.pid}) and is left to it: "
                    f"{'; '.join(look.obstacles)}"
                )
                continue
        taken.append(one)
    return taken


async def _take_over(hv: "Hypervisor", running: Running, status: Status) -> None:
    """Take down what libvirt made on the host for a guest, as if we had."""
    definition = running.definition
    pidfile = hv.paths.pidfile(status.name)
    cgroup = running.group.path if running.group is not None else ""
    running.footprint = mark = takeover.footprint(status, pidfile, cgroup, definition)
    mark.macs = await hv.files.run(
        f"devices of '{status.name}'", partial(takeover.saved_macs, pidfile.parent, definition)
    )
    mark.files += [str(pidfile.parent / lower) for lower in mark.macs]
    if running.caps is None:
        return
    ctx = hv.documents.build_context(definition, running.caps, Launch())
    paths = partial(launch.files_of, definition, ctx)
    mark.loans = await hv.files.run(
        f"files of '{status.name}'", lambda: hv.security.take_over(status.id, paths())
    )


def _group(hv: "Hypervisor", status: Status, definition: Definition) -> Group | None:
    """Return a guest's control groups; those of libvirt's guests are where libvirt makes them."""
    path = status.footprint.cgroup
    if not path and not status.version:
        path = path_of_process(status.pid) or hv.cgroups.path_of(definition, status.id)
    group = hv.cgroups.group(path)
    return group if group is not None and group.exists() else None


def _note_loans(hv: "Hypervisor", status: Status) -> None:
    hv.security.note(status.id, status.footprint.loans)


def _read_statuses(folder: Path) -> tuple[list[_Found], list[tuple[Path, str]]]:
    found: list[_Found] = []
    unreadable: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        if is_leftover(path):
            remove(path)
        elif path.suffix == ".xml":
            try:
                status = read_status(path.read_text("utf-8", "surrogateescape"), str(path))
            except (QvirtError, OSError) as error:
                unreadable.append((path, str(error).split("\n")[0]))
                continue
            try:
                found.append(_Found(status, parse_live(status.xml)))
            except QvirtError as error:
                log.warning("the document in '%s' cannot be read: %s", path, error)
                found.append(_Found(status, None))
    return found, unreadable


def _rebuild(hv: "Hypervisor", path: Path) -> Status | None:
    """Make up a status for a QEMU of which only the pid file and the definition are left."""
    name = path.stem
    domain = hv.domains.find_name(name)
    try:
        pid = int(hv.paths.pidfile(name).read_text(encoding="ascii").strip())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except (OSError, ValueError):
        return None
    began = start_time(pid)
    key = re.search(rf"{re.escape(str(hv.paths.lib))}/domain-(\d+)-[^/\"]*", " ".join(words))
    if domain is None or began is None or key is None or not any(f"guest={name}" in word for word in words):
        return None
    return Status(
        name=name,
        id=int(key[1]),
        state=DomainState.RUNNING,
        reason=DomainRunningReason.UNKNOWN,
        stage="running",
        xml="",
        monitor=f"{key[0]}/monitor.sock",
        pid=pid,
        start_time=began,
        boot_id=boot_id(),
        folder=key[0],
        footprint=Footprint(
            folders=[key[0]], files=[str(hv.paths.pidfile(name))], cgroup=path_of_process(pid)
        ),
    )


async def _take_up(hv: "Hypervisor", found: _Found) -> None:
    """Take one QEMU over again; one that cannot be is reported, and not started a second time."""
    status = found.status
    try:
        await _reconnect(hv, status, found.live)
    except (QvirtError, OSError) as error:
        domain = hv.domains.find_name(status.name)
        if domain is None or domain.running is None:
            hv.untaken[status.name] = status
        hv.reports.append(f"domain '{status.name}' (pid {status.pid}) cannot be taken over: {error}")


async def _reconnect(hv: "Hypervisor", status: Status, live: Definition | None) -> None:
    """Take one QEMU over again, or clear away what is left of it."""
    domain, running = await _restore(hv, status, live)
    try:
        await hv.files.run(f"labels of '{domain.name}'", running.guard.find_again, lending.DEADLINE)
    except QvirtError as error:
        hv.reports.append(f"domain '{domain.name}' does not take orders of this daemon's label: {error}")
    helper_watch.find_again(domain, running, same_boot=status.boot_id in ("", boot_id()))
    try:
        if not status.pid and status.stage == "starting":
            read = partial(_launched, hv.paths.pidfile(status.name))
            status.pid = await hv.files.run(f"pid file of '{status.name}'", read)
        process = _adopt(status)
    except ProcessLookupError:
        await _gone(domain, running, status)
        return
    running.process = process
    if status.stage != "running":
        # It was being started: nobody knows how far it got, so it goes and can be started again.
        log.warning("domain '%s' was half started; QEMU (pid %d) is killed", domain.name, process.pid)
        process.send(signal.SIGKILL)
        await process.wait(stopping.KILL_WAIT)
        await _gone(domain, running, status)
        return
    try:
        word = await _reach(domain, running, FIRST_DEADLINE)
    except (QvirtError, TimeoutError) as error:
        if isinstance(error, QmpError) or process.is_gone:
            log.error("domain '%s': QEMU refused a question: %s", domain.name, error)
        await _unreachable(hv, domain, running, str(error))
        return
    perf.count_again(running)
    take_state(domain, running, status, word)
    process.exited.add_done_callback(lambda _: stopping.process_ended(domain, running))
    if domain.state == DomainState.SHUTDOWN and running.stage == "running":
        running.got_shutdown = True
        endings.power_off(domain, running)
    if status.autodestroy:
        log.info("domain '%s': the connection it was to live with is gone; it is destroyed", domain.name)
        hv.background(domain.destroy(), f"autodestroy of {domain.name}")
    hv.background(helper_watch.after_reconnect(domain, running), f"helpers of {domain.name}")
    await domain.note_status()
    hv.checkpoint("reconnected")


async def _reach(domain: Domain, running: Running, deadline: float) -> str:
    """Connect to a QEMU that runs, and ask what may have changed; returns its run state.

    deadline: seconds for the connection, and again for the answers. Raises QvirtError, TimeoutError.
    """
    running.link = await Monitor.connect(
        running.monitor_path,
        name=domain.name,
        on_event=partial(stopping.monitor_event, domain, running),
        on_closed=partial(stopping.monitor_closed, domain, running),
        deadline=deadline,
        making=running.guard.making(ours=True),
        by=connect,
    )
    async with asyncio.timeout(deadline):
        word = await live.after_reconnect(domain, running)
        await vcpus.after_reconnect(running)
        await iothreads.after_reconnect(running)
        await cgroups.after_reconnect(domain, running)
        await hotplug.after_reconnect(domain, running)
    return word


async def _restore(hv: "Hypervisor", status: Status, live: Definition | None) -> tuple[Domain, Running]:
    domain = hv.domains.find_name(status.name)
    if live is not None or domain is None:
        definition = live or parse_live(status.xml)
    else:
        definition = (await domain.definition()).copy()
        caps = await hv.documents.start_caps(definition)
        assign_aliases(definition, hv.documents.build_context(definition, caps, Launch()))
        definition.id = status.id
    if domain is None:
        domain = Domain(hv, definition.name, definition.uuid or "")
        text = status.inactive_xml or format_domain(definition, _INACTIVE)
        domain.take_definition(None, text, exact=False)
        hv.domains.add(domain)
    running = Running(
        id=status.id,
        definition=definition,
        folder=status.folder,
        monitor_path=status.monitor,
        stage=status.stage,
        footprint=status.footprint,
        vcpu_threads=status.vcpu_pids,
        taints=status.taints,
        extras=status.extras,
        fake_reboot=status.fake_reboot,
        clock_base=status.clock_base,
        vcpus_gone=status.vcpus_gone,
        owner=_GONE_OWNER if status.autodestroy else None,
        names=Names(status.names),
    )
    recall = partial(_recall, hv, running.id, definition, running.folder)
    running.guard = await hv.files.run(f"labels of '{status.name}'", recall)
    with contextlib.suppress(QvirtError):  # the emulator was removed; its QEMU runs on without our knowing
        running.caps = await hv.documents.start_caps(definition)
    running.group = _group(hv, status, definition)
    if running.caps is not None:
        await handback.record(hv, running, running.caps)
    if status.version == 0:
        await _take_over(hv, running, status)
    if status.boot_id not in ("", boot_id()):
        running.footprint.pci = []  # the machine has given its devices to whom it likes since
    for port in running.footprint.ports:
        hv.display_ports.reserve(port)
        hv.websocket_ports.reserve(port)
    domain.running = running
    domain.set_state(status.state, status.reason)
    return domain, running


def _recall(hv: "Hypervisor", run: int, definition: Definition, folder: str) -> Guard:
    """Return what confines a guest; its user reaches its folders, whoever guests run as by now. Blocking."""
    guard = hv.security.recall(run, definition, folder)
    try:
        lending.open_folders(hv, guard.user)
    except SystemError_ as error:
        hv.reports.append(f"domain '{definition.name}': {error.detail}")
    return guard


#: stands for a connection of a daemon that is no more
_GONE_OWNER = object()


def _launched(pidfile: Path) -> int:
    """Return the process that the launcher wrote down before we did, 0 for none. Blocking."""
    try:
        return int(pidfile.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _adopt(status: Status) -> Process:
    if not status.pid or (status.boot_id and status.boot_id != boot_id()):
        raise ProcessLookupError(status.pid)
    began = status.start_time
    if not began:
        # libvirt's file does not say when the process began; its command line must name the domain
        if not takeover.is_of(status):
            raise ProcessLookupError(status.pid)
        began = start_time(status.pid) or 0
    return Process.adopt(status.pid, began)


async def _gone(domain: Domain, running: Running, status: Status) -> None:
    """Clear up after a QEMU that is no more."""
    was_running = status.stage == "running"
    running.stage = "running" if was_running else "starting"
    running.stop_reason = (
        (DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.FAILED, "crashed")
        if was_running
        else (DomainShutoffReason.FAILED, DomainEventStoppedDetailType.FAILED, "failed")
    )
    await stopping.finish(domain, running, quiet=not was_running)


async def _unreachable(hv: "Hypervisor", domain: Domain, running: Running, reason: str) -> None:
    """Decide about a QEMU that lives and does not talk to us."""
    process = running.qemu
    if process.is_gone or start_time(process.pid) is None:
        running.stop_reason = (DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.FAILED, "crashed")
        await stopping.finish(domain, running)
        return
    # A guest is not killed because its QEMU is slow or stopped: it stays, with its state unknown to us.
    hv.reports.append(
        f"domain '{domain.name}': QEMU (pid {process.pid}) does not answer: {reason}; it is tried again"
    )
    running.monitor_failed = True
    process.exited.add_done_callback(lambda _: stopping.process_ended(domain, running))
    hv.background(_try_again(hv, domain, running), f"reconnect of {domain.name}")


async def _try_again(hv: "Hypervisor", domain: Domain, running: Running) -> None:
    """Go on trying to reach a QEMU, ever more slowly. @background."""
    pause = 1.0
    while domain.running is running and running.process is not None and not running.process.is_gone:
        await asyncio.sleep(pause)
        pause = min(pause * 2, 60.0)
        if running.link is not None:
            running.link.close()
        try:
            word = await _reach(domain, running, RECONNECT_DEADLINE)
        except (QvirtError, TimeoutError) as error:
            log.warning("domain '%s' still does not answer: %s", domain.name, error)
            continue
        running.monitor_failed = False
        take_state(domain, running, None, word)
        await domain.note_status()
        return


def take_state(domain: Domain, running: Running, status: Status | None, word: str) -> None:
    """Take QEMU's run state, keeping the reason where the state is the one we knew."""
    state, reason = _RUN_STATES.get(word, (DomainState.RUNNING, DomainRunningReason.UNKNOWN))
    if status is not None and status.state == state:
        domain.set_state(status.state, status.reason)
    elif state == DomainState.PAUSED and domain.state == DomainState.CRASHED:
        pass  # a panicked guest is a paused QEMU
    else:
        domain.set_state(state, reason)
    running.touch()


# -------------------------------------------------------------------------- autostart


async def autostart_all(hv: "Hypervisor") -> None:
    """Start what is marked, unless a daemon has done so since the machine was booted. @background.

    The mark is made at the end: a daemon that dies half way leaves the rest to the next one.
    """
    marked = [
        domain for domain in hv.domains if (domain.autostart or domain.autostart_once) and not domain.active
    ]
    mark = hv.paths.run / "autostarted"
    if await hv.files.run("autostart mark", partial(_is_marked, mark)):
        return
    gate = asyncio.Semaphore(max(2, os.cpu_count() or 1))

    async def one(domain: Domain) -> None:
        async with gate:
            once = domain.autostart_once
            try:
                if not domain.active:
                    await domain.start()
            except QvirtError as error:
                report = f"Failed to autostart VM '{domain.name}': {error}"
                hv.reports.append(report)
                log.error("%s", report)
            try:
                if once and domain.persistent:
                    await domain.set_autostart_once(False)
            except QvirtError as error:
                log.error("VM '%s' stays marked to be started once: %s", domain.name, error)

    await asyncio.gather(*(one(domain) for domain in marked))
    await hv.files.run("autostart mark", partial(write_atomic, mark, f"{boot_id()}\n".encode(), 0o644))


def _is_marked(path: Path) -> bool:
    """Tell whether this boot's autostarts are done; libvirt's mark is empty, ours names the boot."""
    try:
        return path.read_text(encoding="ascii").strip() in ("", boot_id())
    except FileNotFoundError:
        return False
