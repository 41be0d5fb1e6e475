"""A domain as the client sees it: a handle (name, UUID, id) and the calls on it.

Methods bear libvirt's names without the prefix; a call that has none here is made with
`Connection.call("DOMAIN_...", dom=domain.handle, ...)`.
"""

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from qvirt.client.stream import Stream

if TYPE_CHECKING:
    from qvirt.client.aio import Connection


class DomainInfo(NamedTuple):
    """State, memory in KiB, number of virtual CPUs, CPU time in nanoseconds."""

    state: int
    max_memory: int
    memory: int
    vcpus: int
    cpu_time: int


class Domain:
    """A handle; valid as long as its connection. `id` is -1 where the domain did not run when it was got."""

    __slots__ = ("connection", "id", "name", "uuid")

    def __init__(self, connection: "Connection", handle: tuple[str, bytes, int]) -> None:
        self.connection = connection
        self.name, raw, self.id = handle
        self.uuid = UUID(bytes=raw)

    def __repr__(self) -> str:
        return f"<Domain '{self.name}' {self.uuid} id {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domain) and (self.connection, self.uuid) == (other.connection, other.uuid)

    def __hash__(self) -> int:
        return hash(self.uuid)

    @property
    def handle(self) -> tuple[str, bytes, int]:
        """The handle as the wire carries it."""
        return (self.name, self.uuid.bytes, self.id)

    async def call(self, procedure: str, **arguments: Any) -> Any:
        """Call a procedure whose `dom` is this domain; raises the daemon's error."""
        return await self.connection.call(procedure, dom=self.handle, **arguments)

    # --- life ----------------------------------------------------------------------------------------

    async def create(self, flags: int = 0) -> None:
        """Start the domain and learn its id; raises OperationInvalid when it runs already."""
        if flags:
            self.id = (await self.call("DOMAIN_CREATE_WITH_FLAGS", flags=flags)).dom.id
        else:
            await self.call("DOMAIN_CREATE")
            self.id = (await self.connection.call("DOMAIN_LOOKUP_BY_UUID", uuid=self.uuid.bytes)).dom.id

    async def destroy(self, flags: int = 0) -> None:
        """Stop the domain at once; raises OperationInvalid when it does not run."""
        await self._flagged("DOMAIN_DESTROY", "DOMAIN_DESTROY_FLAGS", flags)
        self.id = -1

    async def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to shut down; returns as soon as it was asked."""
        await self._flagged("DOMAIN_SHUTDOWN", "DOMAIN_SHUTDOWN_FLAGS", flags)

    async def reboot(self, flags: int = 0) -> None:
        """Ask the guest to reboot; returns as soon as it was asked."""
        await self.call("DOMAIN_REBOOT", flags=flags)

    async def reset(self) -> None:
        """Reset the machine as its button would."""
        await self.call("DOMAIN_RESET", flags=0)

    async def suspend(self) -> None:
        """Stop the virtual CPUs."""
        await self.call("DOMAIN_SUSPEND")

    async def resume(self) -> None:
        """Let the virtual CPUs run on."""
        await self.call("DOMAIN_RESUME")

    async def undefine(self, flags: int = 0) -> None:
        """Remove the domain's definition."""
        await self._flagged("DOMAIN_UNDEFINE", "DOMAIN_UNDEFINE_FLAGS", flags)

    async def set_autostart(self, on: bool) -> None:
        """Say whether the domain starts with its host."""
        await self.call("DOMAIN_SET_AUTOSTART", autostart=on)

    async def _flagged(self, plain: str, with_flags: str, flags: int) -> None:
        if flags:
            await self.call(with_flags, flags=flags)
        else:
            await self.call(plain)

    # --- reading -------------------------------------------------------------------------------------

    async def xml_desc(self, flags: int = 0) -> str:
        """Give the domain's XML."""
        return str((await self.call("DOMAIN_GET_XML_DESC", flags=flags)).xml)

    async def state(self) -> tuple[int, int]:
        """Give state and reason."""
        answer = await self.call("DOMAIN_GET_STATE", flags=0)
        return answer.state, answer.reason

    async def info(self) -> DomainInfo:
        """Give state, memory, virtual CPUs and CPU time."""
        return DomainInfo(*await self.call("DOMAIN_GET_INFO"))

    async def os_type(self) -> str:
        """Give the OS type, "hvm" for a full machine."""
        return str((await self.call("DOMAIN_GET_OS_TYPE")).type)

    async def is_active(self) -> bool:
        """Tell whether the domain runs."""
        return bool((await self.call("DOMAIN_IS_ACTIVE")).active)

    async def is_persistent(self) -> bool:
        """Tell whether the domain has a definition that outlives it."""
        return bool((await self.call("DOMAIN_IS_PERSISTENT")).persistent)

    async def autostart(self) -> bool:
        """Tell whether the domain starts with its host."""
        return bool((await self.call("DOMAIN_GET_AUTOSTART")).autostart)

    async def has_managed_save_image(self) -> bool:
        """Tell whether the next start resumes from a saved state."""
        return bool((await self.call("DOMAIN_HAS_MANAGED_SAVE_IMAGE", flags=0)).result)

    async def snapshot_num(self) -> int:
        """Give the number of snapshots."""
        return int((await self.call("DOMAIN_SNAPSHOT_NUM", flags=0)).num)

    async def security_label(self) -> tuple[str, bool]:
        """Give the label of the running domain and whether it is enforced."""
        answer = await self.call("DOMAIN_GET_SECURITY_LABEL")
        return text_of(answer.label), bool(answer.enforcing)

    async def messages(self, flags: int = 0) -> list[str]:
        """Give the notes the daemon has about the domain: taints, deprecations."""
        return list((await self.call("DOMAIN_GET_MESSAGES", flags=flags)).msgs)

    # --- streams -------------------------------------------------------------------------------------

    async def open_console(self, device: str | None = None, flags: int = 0) -> Stream:
        """Open a console, the first one unless an alias is given; a stream both ways."""
        return await self.connection.stream(
            "DOMAIN_OPEN_CONSOLE", dom=self.handle, dev_name=device, flags=flags
        )

    async def open_channel(self, name: str | None = None, flags: int = 0) -> Stream:
        """Open a channel device; a stream both ways."""
        return await self.connection.stream("DOMAIN_OPEN_CHANNEL", dom=self.handle, name=name, flags=flags)


def text_of(chars: bytes) -> str:
    """Give the text of an array of char: up to its NUL."""
    return chars.partition(b"\0")[0].decode("utf-8", "surrogateescape")
