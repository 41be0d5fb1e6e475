"""Guests of a running libvirtd: which of them we can go on with, and what is to be known about each.

A status file of libvirt's says all there is to say; nothing is asked of QEMU, whose monitor libvirtd holds,
and nothing is changed.
"""

import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from lxml import etree

from qvirt.drivers.network import plug
from qvirt.errors import OperationInvalid, QvirtError
from qvirt.host.cgroup import path_of_process
from qvirt.host.config import read_config
from qvirt.host.proc import start_time
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.devices.tpm import Tpm
from qvirt.model.domain import Domain, parse_live
from qvirt.qemu.devices.disk import has_managed_reservations
from qvirt.record import Record, field
from qvirt.runtime.helpers import pr_helper, swtpm, virtiofs
from qvirt.runtime.paths import Paths
from qvirt.runtime.state import Footprint, HelperMark, Status
from qvirt.security.dac import Dac
from qvirt.security.drivers import drivers
from qvirt.security.loans import daemon_word
from qvirt.security.stack import Stack
from qvirt.xml.document import parse_element


class Finding(Record, frozen=False):
    """About one guest. obstacles: why it cannot be taken over. notes: what stays as it is, or is lost."""

    name: str
    obstacles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def models_here(paths: Paths) -> tuple[str, ...]:
    """Return the security models that a daemon of ours has in use on these files.

    Raises InternalError for one that qemu.conf asks for and that is not there: such a daemon would not start.
    """
    config = read_config(paths.conf, privileged=os.geteuid() == 0)
    word = daemon_word(str(paths.lib))
    known = drivers(config, word, paths.etc.parent, paths.dirs)
    return (*Stack.open(config, None, word, known).names, Dac.name)


def examine(status: Status, models: Container[str | None]) -> Finding:
    """Say what a status file of libvirt's holds that is not for us. Blocking: looks at files.

    models: the security models in use here.
    """
    found = Finding(status.name)
    if not status.pid or start_time(status.pid) is None:
        found.notes.append(f"its QEMU (pid {status.pid}) has ended; its traces are cleared away")
        return found
    if not is_of(status):
        found.obstacles.append(f"process {status.pid} is not its QEMU")
    if not os.path.exists(status.monitor):
        found.obstacles.append(f"its monitor's socket '{status.monitor}' is not there")
    try:
        definition = parse_live(status.xml)
    except QvirtError as error:
        found.obstacles.append(f"its document cannot be read: {error}".split("\n")[0])
        return found
    for element in (parse_element(extra, "(status)") for extra in status.extras):
        _examine_element(element, found)
    if _scope(status.pid) and not path_of_process(status.pid):
        found.notes.append("its control groups are systemd's: limits stay as they are and cannot be changed")
    found.obstacles += _obstacles(definition)
    found.notes += _notes(definition, models)
    if not os.path.exists(f"{status.folder}/master-key.aes"):
        found.notes.append("its master key is gone: devices with secrets cannot be plugged in")
    return found


def examine_ours(status: Status) -> Finding:
    """Say what keeps libvirt from going on with a guest of ours. Blocking."""
    found = Finding(status.name)
    if not status.pid or start_time(status.pid) is None:
        found.notes.append(f"its QEMU (pid {status.pid}) has ended; its traces are cleared away")
        return found
    if status.stage != "running":
        found.obstacles.append("it is being started")
    if not is_of(status):
        found.obstacles.append(
            f"process {status.pid} was not started for it: libvirt would not know it again"
        )
    if not any(extra.startswith("<qemuCaps") and "<flag" in extra for extra in status.extras):
        found.obstacles.append(
            "its status file does not say what its emulator can, without which libvirt ends it: start qvirtd "
            "again, which writes it"
        )
    if status.footprint.plugging:
        found.notes.append("a device is being plugged in; libvirt sees it when the guest has taken it")
    return found


def is_of(status: Status) -> bool:
    """Tell whether the process of a status file has the domain's name in its command line."""
    try:
        words = Path(f"/proc/{status.pid}/cmdline").read_bytes()
    except OSError:
        return False
    name = status.name.replace(",", ",,").encode("utf-8", "surrogateescape")
    return re.search(rb"\0guest=" + re.escape(name) + rb"[,\0](?!,)", words) is not None


def _scope(pid: int) -> bool:
    try:
        return ".scope/" in Path(f"/proc/{pid}/cgroup").read_text(errors="replace").replace("\n", "/")
    except OSError:
        return False


def _examine_element(element: etree._Element, found: Finding) -> None:
    match element.tag:
        case "blockjobs":
            for job in element.iterfind("blockjob"):
                found.obstacles.append(
                    f"block job '{job.get('name')}' ({job.get('type')}) is under way: "
                    "end it with virsh blockjob"
                )
        case "backups":
            if len(element):
                found.obstacles.append("a backup is under way: end it with virsh domjobabort")
        case "job":
            if (kind := element.get("async", "none")) != "none":
                found.obstacles.append(f"a job is under way ({kind}): wait for its end, or virsh domjobabort")
        case "chardevStdioLogd":
            found.notes.append("virtlogd writes its log: it goes on being needed")
        case "dbusDaemon":
            found.obstacles.append("a message bus was started for it, which only libvirt ends")
        case "slirp":
            found.notes.append("slirp-helper runs for it, and ends with it")


def _obstacles(definition: Domain) -> Iterator[str]:
    if definition.type not in ("kvm", "qemu"):
        yield f"domain type '{definition.type}' is not served"
    for dev in definition.devices.all():
        if isinstance(dev, Hostdev) and dev.managed:
            yield "a host's PCI device is managed: nobody would give it back to its driver"
        elif isinstance(dev, Interface) and dev.plugged().type == InterfaceType.HOSTDEV:
            yield "an interface is a host's PCI device: nobody would give it back to its driver"
        elif isinstance(dev, Interface) and dev.filterref is not None:
            yield f"interface {dev.mac.address} is filtered (nwfilter): nobody would remove the rules"
    for disk in definition.devices.disks:
        if disk.mirror is not None:
            yield f"disk '{disk.target.dev}' is being mirrored: end the job with virsh blockjob"


def _notes(definition: Domain, models: Container[str | None]) -> Iterator[str]:
    for label in definition.seclabels:
        if label.model is not None and label.model not in models:
            yield (
                f"it is confined by {label.model}, which this daemon does not use here: what is plugged in "
                "gets no label or rule of it, and what it has keeps its label"
            )


def refuse_untaken(untaken: Mapping[str, Status], name: str, uuid: str) -> None:
    """Keep a guest from being started that runs and was not taken over. Raises OperationInvalid."""
    for status in untaken.values():
        if (status.name == name or f"<uuid>{uuid}</uuid>" in status.xml) and is_of(status):
            under = "" if status.version else " under libvirt"
            raise OperationInvalid(
                f"domain '{status.name}' runs{under} (pid {status.pid}) and was not taken over: the "
                "daemon's log says why; give it back, or remove what stands in the way and start this daemon "
                "again"
            )


def saved_macs(folder: Path, definition: Domain) -> dict[str, str]:
    """Return the host's devices that have a guest's MAC address, and their own as libvirt noted. Blocking."""
    found: dict[str, str] = {}
    for interface in definition.devices.interfaces:
        lower = plug.lower_device(interface)
        mac = plug.saved_mac(folder, lower) if lower is not None else None
        if lower is not None and mac is not None:
            found[lower] = mac
    return found


def _helpers(status: Status, run: Path, definition: Domain) -> list[HelperMark]:
    """Return the helpers that libvirt started for a guest, found by their pid files. Blocking."""
    short = f"{status.id}-{status.name[:20]}"
    found: list[HelperMark] = []
    # name, program, pid file, socket
    known: list[tuple[str, str, Path, Path]] = []
    for dev in definition.devices.all():
        alias = str(dev.alias.name)
        if isinstance(dev, Tpm) and dev.backend.type == "emulator":
            folder = run / "swtpm"
            known.append((swtpm.NAME, "swtpm", folder / f"{short}-swtpm.pid", folder / f"{short}-swtpm.sock"))
        elif isinstance(dev, Filesystem) and dev.driver.type == "virtiofs":
            socket = Path(status.folder) / f"{alias}-fs.sock"
            known.append((virtiofs.name(alias), "virtiofsd", run / f"{short}-{alias}-fs.pid", socket))
        elif isinstance(dev, Disk) and has_managed_reservations(dev):
            socket = Path(status.folder) / "pr-helper0.sock"
            known.append((pr_helper.NAME, "qemu-pr-helper", run / f"{short}-pr-helper0.pid", socket))
    for name, program, pidfile, socket in known:
        try:
            pid = int(pidfile.read_text(encoding="ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        began = start_time(pid)
        # the number may be another process's by now, and the folder is not root's alone
        is_ours = name != swtpm.NAME or any((definition.uuid or "-").encode() in word for word in words)
        if began is not None and is_ours and os.path.basename(words[0]) == program.encode():
            found.append(HelperMark(name, pid, began, files=[str(socket), str(pidfile)]))
    return list({mark.name: mark for mark in found}.values())


def footprint(status: Status, pidfile: Path, cgroup: str, definition: Domain) -> Footprint:
    """Return what libvirt made on the host for a guest, to be undone when it ends. Owners of files apart."""
    folders = [status.folder]
    for extra in status.extras:
        if extra.startswith("<channelTargetDir"):
            folders.append(parse_element(extra, "(status)").get("path", ""))
    ports = [
        port
        for graphics in definition.devices.graphics
        for port in (graphics.port, graphics.tls_port, graphics.websocket)
        if port is not None and port > 0
    ]
    links = [
        interface.target.dev
        for interface in definition.devices.interfaces
        if interface.actual_type == InterfaceType.DIRECT and interface.target.dev
    ]
    return Footprint(
        folders=[folder for folder in folders if folder],
        files=[str(pidfile)],
        ports=ports,
        links=links,
        cgroup=cgroup,
        helpers=_helpers(status, pidfile.parent, definition),
    )
