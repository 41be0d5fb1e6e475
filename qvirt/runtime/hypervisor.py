"""Hypervisor: one per daemon. It owns the instance's folders, the domains, the event bus, the emulators."""

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qvirt.constants.domain import DomainShutoffReason
from qvirt.constants.domain_event import DomainEventStoppedDetailType
from qvirt.constants.error import ErrorDomain
from qvirt.drivers.network.driver import Networks
from qvirt.drivers.secret.driver import Secrets
from qvirt.errors import InternalError, NoDomain, OperationFailed, OperationInvalid, QvirtError
from qvirt.host.config import QemuConfig, QemuUser, read_config
from qvirt.host.emulators import EmulatorTable
from qvirt.host.persist import FileWorker
from qvirt.host.ports import PortAllocator
from qvirt.model.domain import Domain as Definition
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.cpu_live import CpuSeen
from qvirt.record import replace
from qvirt.runtime import domainlog, interfaces, recover
from qvirt.runtime.asking import stats
from qvirt.runtime.documents import Documents
from qvirt.runtime.domain import Domain
from qvirt.runtime.domainlog import DomainLog
from qvirt.runtime.events import EventBus
from qvirt.runtime.foreign.recorded import Recorded
from qvirt.runtime.helpers import processes
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import starting
from qvirt.runtime.life.cgroups import Cgroups
from qvirt.runtime.life.process import become_reaper
from qvirt.runtime.paths import InstanceLock, Paths, make_folders
from qvirt.runtime.records import DomainStats
from qvirt.runtime.running import Running
from qvirt.runtime.state import Status
from qvirt.runtime.tuning import perf
from qvirt.security import private_dev
from qvirt.security.dac import kvm_usable
from qvirt.security.drivers import drivers
from qvirt.security.launcher import confining
from qvirt.security.loans import daemon_word
from qvirt.security.reach import unsearchable
from qvirt.security.stack import Guard, Stack

if TYPE_CHECKING:
    from qvirt.qemu.importer import Imported

log = logging.getLogger(__name__)

Checkpoint = Callable[[str], None]

#: parsed definitions kept at a time; the texts of all are kept
PARSED_LIMIT = 64


def uuid_of(definition: Definition) -> str:
    """Return the uuid that a complete definition has."""
    if definition.uuid is None:
        raise InternalError(f"definition of '{definition.name}' has no uuid")
    return definition.uuid


class Registry:
    """The domains, by uuid, name and id. Lookups are from memory and never wait."""

    def __init__(self) -> None:
        self._by_uuid: dict[str, Domain] = {}
        self._by_name: dict[str, Domain] = {}

    def by_uuid(self, uuid: str) -> Domain:
        """Raises NoDomain."""
        domain = self._by_uuid.get(uuid)
        if domain is None:
            raise NoDomain(f"no domain with matching uuid '{uuid}'")
        return domain

    def by_name(self, name: str) -> Domain:
        """Raises NoDomain."""
        domain = self._by_name.get(name)
        if domain is None or domain.name != name:
            raise NoDomain(f"no domain with matching name '{name}'")
        return domain

    def by_id(self, id: int) -> Domain:
        """Raises NoDomain."""
        for domain in self._by_uuid.values():
            if domain.id == id and id >= 0:
                return domain
        raise NoDomain(f"no domain with matching id {id}")

    def find(self, uuid: str) -> Domain | None:
        """Return the domain of a uuid, or None."""
        return self._by_uuid.get(uuid)

    def find_name(self, name: str) -> Domain | None:
        """Return the domain that has a name, or is about to get it; or None."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Domain]:
        return iter(list(self._by_uuid.values()))

    def __len__(self) -> int:
        return len(self._by_uuid)

    def add(self, domain: Domain) -> None:
        """Add a domain whose name and uuid are free."""
        self._by_uuid[domain.uuid] = domain
        self._by_name[domain.name] = domain

    def remove(self, domain: Domain) -> None:
        """Take a domain out."""
        if self._by_uuid.get(domain.uuid) is domain:
            del self._by_uuid[domain.uuid]
        if self._by_name.get(domain.name) is domain:
            del self._by_name[domain.name]

    def reserve_name(self, name: str, domain: Domain) -> None:
        """Keep a name for a domain that is being renamed."""
        self._by_name[name] = domain

    def release_name(self, name: str, domain: Domain) -> None:
        """Give a reserved name up."""
        if domain.name != name and self._by_name.get(name) is domain:
            del self._by_name[name]

    def rename(self, domain: Domain, name: str) -> None:
        """Let a domain be found under its new name, and no more under the old one."""
        self._by_name.pop(domain.name, None)
        domain.name = name
        self._by_name[name] = domain


class Hypervisor:
    """The driver's heart; see the module.

    user: whom QEMUs run as, None for the daemon's own. reports: what was wrong at start (definitions that
    cannot be read and were kept aside …), one sentence each. checkpoint: called with a name between any two
    steps that leave something behind.
    """

    def __init__(self, paths: Paths, config: QemuConfig, checkpoint: Checkpoint | None) -> None:
        """Use `open`."""
        self.paths = paths
        self.config = config
        self.user: QemuUser | None = config.user
        self.checkpoint: Checkpoint = checkpoint or (lambda name: None)
        self.domains = Registry()
        self.events = EventBus()
        self.reports: list[str] = []
        self.files = FileWorker()
        self.emulators = EmulatorTable(paths.cache / "capabilities")
        self.documents = Documents(paths, config, self.emulators)
        #: what the CPUs of guests turned out to have, for the next guest that is asked for the same
        self.cpus_seen: dict[tuple[object, ...], tuple[EmulatorCaps, CpuSeen]] = {}
        self.display_ports = PortAllocator("display", *config.display_ports)
        self.websocket_ports = PortAllocator("webSocket", *config.websocket_ports)
        #: what guests are limited by
        self.cgroups = Cgroups(paths, config)
        #: what libvirt says of emulators
        self.recorded = Recorded(paths.cache)
        #: libvirt's guests that run and were not taken over, by name
        self.untaken: dict[str, Status] = {}
        #: what confines guests
        self.security = Stack()
        #: whether guests get a /dev of their own
        self.private_dev = False
        #: the virtual networks that interfaces are plugged into; None where there are none
        self.networks: Networks | None = None
        #: the passphrases and keys that documents name; None before they are read
        self.secrets: Secrets | None = None
        self.closing = False
        #: seconds from the word to go until a QEMU must have answered on its monitor
        self.start_deadline = 60.0
        self._lock: InstanceLock | None = None
        self._last_id = 0
        self._parsed: OrderedDict[Domain, None] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls,
        paths: Paths,
        *,
        config: QemuConfig | None = None,
        checkpoint: Checkpoint | None = None,
        autostart: bool = True,
        default_network: bool = False,
    ) -> Self:
        """Lock the instance, load the definitions, find the running QEMUs again, autostart the others.

        config: qemu.conf as read; None reads it from the instance's folder. Autostarts go on in the
        background. default_network: define it, as the machine's own instance does.
        Raises OperationFailed when another daemon serves this tree.
        """
        if config is None:
            config = read_config(paths.conf, privileged=os.geteuid() == 0)
        if "memory_backing_dir" not in config.other:
            config = replace(
                config, settings=replace(config.settings, memory_backing_dir=str(paths.lib / "ram"))
            )
        self = cls(paths, config, checkpoint)
        self.reports += config.reports
        make_folders(paths, None)
        self._lock = InstanceLock(paths)
        try:
            become_reaper()
            self._choose_user()
            self.emulators.wrap = confining(self.user)
            word = daemon_word(str(paths.lib))
            known = drivers(config, word, paths.etc.parent, paths.dirs)
            self.security = Stack.open(config, self.user, word, known)
            self.documents.security_models = self.security.names
            make_folders(paths, (self.user.uid, self.user.gid) if self.user is not None else None)
            await self.cgroups.open()
            self.reports += self.cgroups.reports
            await self._try_namespaces()
            self.secrets = await Secrets.open(paths.secrets, self.files)
            self.reports += self.secrets.reports
            self.networks = await self._open_networks(default_network or paths.kind == "system")
            self.reports += self.networks.reports
            await recover.load_definitions(self)
            await recover.reconnect_all(self)
            await interfaces.settle_ports(self)
            interfaces.follow_networks(self)
            if autostart:
                self.background(self._autostart(), "autostart")
            self.background(self._bound_logs(), "domain logs")
        except BaseException:
            await self.close()
            raise
        for report in self.reports:
            log.warning("%s", report)
        return self

    async def _try_namespaces(self) -> None:
        """Find out whether guests can have a /dev of their own, where they shall."""
        if not self.config.private_dev or os.geteuid() != 0:
            return
        reason = await self.files.run("namespaces", partial(private_dev.refusal, str(self.paths.lib)))
        self.private_dev = reason is None
        if reason is not None:
            self.reports.append(
                f"no guest has a /dev of its own: the kernel refuses a mount namespace: {reason}"
            )

    async def _open_networks(self, with_default: bool) -> Networks:
        return await Networks.open(
            self.paths.networks, self.files, privileged=os.geteuid() == 0, with_default=with_default
        )

    async def _autostart(self) -> None:
        """Start what is marked: networks first, guests are plugged into them. @background."""
        if self.networks is not None:
            await self.networks.autostart()
        await recover.autostart_all(self)

    async def _bound_logs(self) -> None:
        """Keep the logs of running guests and their helpers from growing without end. @background."""
        while True:
            await asyncio.sleep(domainlog.BOUND_EVERY)
            logs: list[Path] = []
            for domain in self.domains:
                if domain.running is not None:
                    logs.append(self.paths.logfile(domain.name))
                    logs += [Path(mark.log) for mark in domain.running.footprint.helpers]
            if logs:
                try:
                    await self.files.run("domain logs", partial(domainlog.bound, logs))
                except QvirtError as error:
                    log.warning("%s", error.detail)

    def _choose_user(self) -> None:
        """Run QEMU as ourselves where the tree given with --root is closed to its user."""
        if self.user is None or self.paths.kind != "root":
            return
        folder = unsearchable(str(self.paths.lib), self.user)
        if folder is not None:
            log.info("QEMU runs as the daemon's user: '%s' is closed to uid %d", folder, self.user.uid)
            self.user = QemuUser(os.geteuid(), os.getegid(), (os.getegid(),))

    async def close(self) -> None:
        """Let go of the instance; domains go on without us."""
        self.closing = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5.0)
        for domain in self.domains:
            running = domain.running
            if running is None:
                continue
            for stream in list(running.consoles.values()):
                stream.drop()
            perf.stop(running)
            if running.agent is not None:
                running.agent.close()
            processes.let_go(running)
            if running.process is not None:
                running.process.close()
            if running.link is not None:
                running.link.close()
        if self.networks is not None:
            await self.networks.close()
        await self.cgroups.close()
        await self.files.close()
        if self._lock is not None:
            self._lock.release()

    # -------------------------------------------------------------------- service

    @property
    def marking(self) -> str | None:
        """Our word in the marks of lent files; None where owners are not remembered."""
        return daemon_word(str(self.paths.lib)) if self.config.remember_owner else None

    @property
    def own_folders(self) -> tuple[str, ...]:
        """The folders in which a run's traces are removed."""
        memory = [f"{where}/libvirt/qemu" for _, where in self.documents.host.hugepage_mounts]
        return (str(self.paths.lib), str(self.paths.run), self.config.settings.memory_backing_dir, *memory)

    def folders_of_others(self, domain: Domain) -> set[str]:
        """Return the folders that the runs of other guests have made."""
        others = (other.running for other in self.domains if other is not domain)
        return {folder for one in others if one is not None for folder in one.footprint.folders}

    def next_id(self) -> int:
        """Return the number of the next run."""
        self._last_id += 1
        return self._last_id

    def note_id(self, id: int) -> None:
        """Never give out the number of a run that was found again."""
        self._last_id = max(self._last_id, id)

    async def guard(self, running: Running) -> Guard:
        """Label a definition that is going to run, and return what confines it. Raises QvirtError."""
        others = [other.running.guard.guest for other in self.domains if other.running is not None]
        label = partial(self.security.guard, running.id, running.definition, others)
        return await self.files.run(f"labels of '{running.definition.name}'", label)

    def background(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something nobody waits for; its failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.closing:
            log.error("%s: %s", task.get_name(), error, exc_info=error)

    def used(self, domain: Domain) -> None:
        """Note that a parsed definition is in use; the one unused longest is dropped."""
        self._parsed[domain] = None
        self._parsed.move_to_end(domain)
        if len(self._parsed) > PARSED_LIMIT:
            old, _ = self._parsed.popitem(last=False)
            old.forget_parsed()

    def log_line(self, domain: Domain, text: str) -> None:
        """Write a line into a domain's log, in the background."""
        path = self.paths.logfile(domain.name)
        self.background(self.files.run("domain log", lambda: DomainLog.append(path, text)), "domain log")

    def domain_stopped(self, domain: Domain) -> None:
        """Forget a transient domain that has stopped."""
        domain.updated = False
        if not domain.persistent:
            self.domains.remove(domain)
            self._parsed.pop(domain, None)

    def domain_undefined(self, domain: Domain) -> None:
        """Forget a domain without definition, unless it runs."""
        if not domain.active:
            self.domains.remove(domain)
            self._parsed.pop(domain, None)

    async def caps(self, emulator: str) -> EmulatorCaps:
        """Return what an emulator can do (probed once, cached)."""
        return await self.emulators.caps(emulator)

    # -------------------------------------------------------------------- domains

    def claim(self, definition: Definition) -> Domain | None:
        """Return the domain a document is about, None when it is new.

        Raises OperationFailed when its name or uuid is another domain's.
        """
        same_uuid = self.domains.find(uuid_of(definition))
        if same_uuid is not None:
            if same_uuid.name != definition.name:
                raise OperationFailed(
                    f"domain '{same_uuid.name}' is already defined with uuid {same_uuid.uuid}",
                    domain=ErrorDomain.DOMAIN,
                )
            return same_uuid
        same_name = self.domains.find_name(definition.name)
        if same_name is not None:
            raise OperationFailed(
                f"domain '{definition.name}' already exists with uuid {same_name.uuid}",
                domain=ErrorDomain.DOMAIN,
            )
        return None

    async def define(self, xml: str, *, validate: bool = False) -> Domain:
        """Keep a definition (virDomainDefineXMLFlags); an existing one is replaced.

        Raises XmlError and the like, OperationFailed when name and uuid belong to different domains.
        """
        definition = await self.documents.read(xml, validate=validate)
        definition.id = None
        domain = self.claim(definition)
        is_new = domain is None
        text = self.documents.write(definition, secure=True)
        if domain is None:
            domain = Domain(self, definition.name, uuid_of(definition))
            domain.take_definition(definition, text)  # who finds it while it is being written can read it
            self.domains.add(domain)  # from here on nobody else can take the name
        try:
            async with domain.job(Job.MODIFY, "define"):
                if self.domains.find(domain.uuid) is not domain:
                    # it was undefined while we waited
                    self.claim(definition)
                    self.domains.add(domain)
                await domain.keep(definition, text)
                was_persistent, domain.persistent = domain.persistent, True
                domain.updated = domain.active
                domain.publish_defined(updated=was_persistent)
        except BaseException:
            if is_new and not domain.persistent and not domain.active:
                self.domains.remove(domain)
            raise
        return domain

    async def create(
        self,
        xml: str,
        *,
        paused: bool = False,
        autodestroy: object | None = None,
        validate: bool = False,
        reset_nvram: bool = False,
    ) -> Domain:
        """Start a transient domain (virDomainCreateXML). autodestroy: the owner, see `drop_owner`."""
        definition = await self.documents.read(xml, validate=validate)
        definition.id = None
        domain = self.claim(definition)
        if domain is None:
            domain = Domain(self, definition.name, uuid_of(definition))
            domain.take_definition(None, self.documents.write(definition, secure=True))
            self.domains.add(domain)
        elif domain.active:
            raise OperationInvalid(f"domain '{domain.name}' is already active")
        elif not domain.persistent:
            raise OperationInvalid(f"domain '{domain.name}' is already being started")
        try:
            async with domain.job(Job.MODIFY, "create"):
                if domain.active:
                    raise OperationInvalid(f"domain '{domain.name}' is already active")
                if self.domains.find(domain.uuid) is not domain:
                    # it was undefined while we waited
                    self.claim(definition)
                    self.domains.add(domain)
                await starting.start(
                    domain, definition, paused=paused, owner=autodestroy, reset_nvram=reset_nvram
                )
        except BaseException:
            if not domain.persistent and not domain.active:
                self.domains.remove(domain)
            raise
        return domain

    async def adopt(self, pid: int) -> Domain:
        """Make a domain of a QEMU that somebody else started (virDomainQemuAttach)."""
        from qvirt.runtime.foreign.adopt import adopt  # as the importer, which it brings along

        return await adopt(self, pid)

    async def drop_owner(self, owner: object) -> None:
        """Destroy the domains that were started to live as long as ``owner`` (a connection)."""
        for domain in self.domains:
            running = domain.running
            if running is None or running.owner is not owner:
                continue
            running.stop_reason = running.stop_reason or (
                DomainShutoffReason.DESTROYED,
                DomainEventStoppedDetailType.DESTROYED,
                "destroyed",
            )
            with contextlib.suppress(OperationInvalid):  # it has just stopped by itself
                try:
                    await domain.destroy()
                except OperationInvalid:
                    raise
                except QvirtError as error:
                    log.error("autodestroy of '%s' failed: %s", domain.name, error)

    async def from_native(self, text: str) -> "Imported":
        """Return the document a QEMU command line stands for, and what became of each argument."""
        from qvirt.runtime.lines.importing import import_text  # seldom asked; every start would pay for it

        offers_kvm = await asyncio.to_thread(kvm_usable, self.user)
        return await import_text(self.documents, text, offers_kvm=offers_kvm)

    async def bulk_stats(
        self,
        domains: Iterable[Domain],
        groups: int,
        *,
        nowait: bool = False,
        backing: bool = False,
        deadline: float = 5.0,
    ) -> list[DomainStats]:
        """Ask all domains at once for groups of figures (DomainStatsTypes; 0 for all), within seconds."""
        return await stats.bulk(domains, groups, nowait=nowait, backing=backing, deadline=deadline)
