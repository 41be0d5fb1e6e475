"""Secret handles: uuid and usage as they travel, and the secret they mean. The uuid is what counts."""

from typing import Protocol, TypeAlias

from qvirt.api.handle import uuid_bytes, uuid_text
from qvirt.api.owned import calls_of
from qvirt.api.session import Session
from qvirt.constants.error import ErrorDomain
from qvirt.drivers.secret.driver import Kept, Secrets
from qvirt.errors import NoSupport

SecretName: TypeAlias = tuple[bytes, int, str]
"""The uuid's 16 bytes, SecretUsageType, and what the secret is for."""

secret_call = calls_of("secret", ErrorDomain.SECRET)
"""Registers a call about secrets."""


class SecretHandle(Protocol):
    """A handle as a client sent it."""

    @property
    def uuid(self) -> bytes: ...


def secrets(session: Session) -> Secrets:
    """Return the instance's secrets."""
    found = session.hypervisor.secrets
    if found is None:
        raise NoSupport("this instance keeps no secrets")
    return found


def secret_handle(kept: Kept) -> SecretName:
    """Make the handle of a secret."""
    return (uuid_bytes(kept.uuid), *kept.usage)


def find_secret(session: Session, secret: SecretHandle) -> Kept:
    """Give the secret a client's handle means; raises NoSecret."""
    return secrets(session).by_uuid(uuid_text(secret.uuid))
