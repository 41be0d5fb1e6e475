"""Hypervisor: one per daemon. It owns the instance's folders, the domains, the event bus, the emulators' facts."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Self

from qvirt.runtime.domain import Domain
from qvirt.runtime.events import EventBus
from qvirt.runtime.paths import Paths
from qvirt.runtime.records import DomainStats

if TYPE_CHECKING:
    from qvirt.host.config import QemuConfig
    from qvirt.qemu.caps import EmulatorCaps

Checkpoint = Callable[[str], None]


class Registry:
    """The domains, by uuid, name and id. Lookups are from memory and never wait."""

    def by_uuid(self, uuid: str) -> Domain:
        """Raises NoDomain."""
        raise NotImplementedError

    def by_name(self, name: str) -> Domain:
        """Raises NoDomain."""
        raise NotImplementedError

    def by_id(self, id: int) -> Domain:
        """Raises NoDomain."""
        raise NotImplementedError

    def find(self, uuid: str) -> Domain | None:
        """Return the domain, or None."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Domain]:
        """All domains, in the order of their definition; safe while domains come and go."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


class Hypervisor:
    """The driver's heart; see the module.

    reports: what was wrong at start (unparsable definitions kept aside …), one sentence each.
    """

    paths: Paths
    config: "QemuConfig"
    domains: Registry
    events: EventBus
    reports: list[str]

    @classmethod
    async def open(
        cls,
        paths: Paths,
        *,
        config: "QemuConfig | None" = None,
        checkpoint: Checkpoint | None = None,
        autostart: bool = True,
    ) -> Self:
        """Lock the instance, load the definitions, find the running QEMUs again, autostart the others.

        config: qemu.conf as read; None reads it from the instance's folder.
        checkpoint: called with a name between any two steps that leave something behind (tests).
        Raises OperationFailed when another daemon serves this tree.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of the instance; domains go on without us. Autodestroy is the API's to call."""
        raise NotImplementedError

    async def caps(self, emulator: str) -> "EmulatorCaps":
        """Return what an emulator can do (probed once, cached)."""
        raise NotImplementedError

    async def define(self, xml: str, *, validate: bool = False) -> Domain:
        """Keep a definition (virDomainDefineXMLFlags); an existing one is replaced.

        Raises XmlError and the like, OperationFailed when name and uuid belong to different domains.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    async def drop_owner(self, owner: object) -> None:
        """Destroy the domains that were started to live as long as ``owner`` (a connection)."""
        raise NotImplementedError

    async def to_native(self, xml: str) -> list[str]:
        """Return the argv, environment first (``KEY=value``), of a domain document; starts nothing."""
        raise NotImplementedError

    async def bulk_stats(
        self,
        domains: Iterable[Domain],
        stats: int,
        *,
        nowait: bool = False,
        backing: bool = False,
        deadline: float = 5.0,
    ) -> list[DomainStats]:
        """Ask all domains at once for the groups ``stats`` (DomainStatsTypes; 0 for all), within seconds."""
        raise NotImplementedError
