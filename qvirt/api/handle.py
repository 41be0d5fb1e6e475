"""Domain handles: name, uuid and id as they travel, and the domain they mean. The uuid is what counts."""

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias

from qvirt.errors import NoDomain

if TYPE_CHECKING:
    from qvirt.api.session import Session
    from qvirt.runtime.domain import Domain

Handle: TypeAlias = tuple[str, bytes, int]
"""Name, the uuid's 16 bytes, id (-1 when it does not run)."""


class DomainHandle(Protocol):
    """A handle as a client sent it."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def id(self) -> int: ...


class Named(Protocol):
    """Whatever has a domain's name, uuid and id."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def id(self) -> int: ...


@lru_cache(maxsize=4096)
def uuid_bytes(text: str) -> bytes:
    """Give the 16 bytes of a uuid in its usual text form."""
    return bytes.fromhex(text.replace("-", ""))


@lru_cache(maxsize=4096)
def uuid_text(data: bytes) -> str:
    """Give a uuid's usual text form."""
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def handle(domain: Named) -> Handle:
    """Make the handle of a domain."""
    return (domain.name, uuid_bytes(domain.uuid), domain.id)


def find(session: "Session", dom: DomainHandle) -> "Domain":
    """Give the domain a client's handle means; raises NoDomain."""
    uuid = uuid_text(dom.uuid)
    domain = session.instance.hypervisor.domains.find(uuid)
    if domain is None:
        raise NoDomain(f"no domain with matching uuid '{uuid}' ({dom.name})")
    return domain
