"""Secrets: finding, defining, setting and reading their values, and their events."""

from collections.abc import Callable
from typing import Final

from qvirt.api.flags import PlainInvalidArg, check_flags
from qvirt.api.handle import uuid_text
from qvirt.api.secret_handle import SecretHandle, SecretName, find_secret, secret_call, secret_handle, secrets
from qvirt.api.session import Session
from qvirt.constants.secret import ConnectListAllSecretsFlags as Filter
from qvirt.constants.secret import SecretDefineFlags
from qvirt.drivers.secret.driver import Kept
from qvirt.errors import InvalidArg, InvalidSecret, RpcError

LIST_MAX: Final = 16384
"""Secrets or uuids a reply can carry."""

_GROUPS: Final[tuple[tuple[tuple[int, Callable[[Kept], bool]], ...], ...]] = (
    (
        (Filter.EPHEMERAL, lambda kept: kept.document.ephemeral),
        (Filter.NO_EPHEMERAL, lambda kept: not kept.document.ephemeral),
    ),
    (
        (Filter.PRIVATE, lambda kept: kept.document.private),
        (Filter.NO_PRIVATE, lambda kept: not kept.document.private),
    ),
)
"""Groups narrow each other; a group without flags passes all."""

_ALL: Final = sum(flag for group in _GROUPS for flag, _ in group)


def _known(session: Session) -> list[Kept]:
    return [kept for kept in secrets(session) if session.may_show(kept.uuid)]


@secret_call
def connect_num_of_secrets(session: Session) -> int:
    """Count the secrets."""
    return len(_known(session))


@secret_call
def connect_list_secrets(session: Session, maxuuids: int) -> list[str]:
    """List the uuids of the secrets."""
    if maxuuids > LIST_MAX:
        raise RpcError("maxuuids > REMOTE_SECRET_LIST_MAX")
    if maxuuids < 0:
        raise InvalidArg("maxuuids in must be zero or greater")
    return [kept.uuid for kept in _known(session)][:maxuuids]


@secret_call
def connect_list_all_secrets(session: Session, need_results: int, flags: int) -> tuple[list[SecretName], int]:
    """List secrets, filtered; without need_results only count them."""
    check_flags(flags, _ALL, "secretConnectListAllSecrets")
    found = _known(session)
    for group in _GROUPS:
        tests = [test for flag, test in group if flags & flag]
        if tests:
            found = [kept for kept in found if any(test(kept) for test in tests)]
    if not need_results:
        return [], len(found)
    if len(found) > LIST_MAX:
        raise RpcError(f"Too many secrets '{len(found)}' for limit '{LIST_MAX}'")
    return [secret_handle(kept) for kept in found], len(found)


@secret_call
def secret_lookup_by_uuid(session: Session, uuid: bytes) -> SecretName:
    """Find a secret by uuid."""
    return secret_handle(secrets(session).by_uuid(uuid_text(uuid)))


@secret_call
def secret_lookup_by_usage(session: Session, usageType: int, usageID: str) -> SecretName:
    """Find a secret by what it is for."""
    return secret_handle(secrets(session).by_usage(usageType, usageID))


@secret_call
async def secret_define_xml(session: Session, xml: str, flags: int) -> SecretName:
    """Keep a secret's document, checked strictly with VALIDATE."""
    check_flags(flags, SecretDefineFlags.VALIDATE, "secretDefineXML")
    validated = bool(flags & SecretDefineFlags.VALIDATE)
    return secret_handle(await secrets(session).define(xml, validated=validated))


@secret_call
def secret_get_xml_desc(session: Session, secret: SecretHandle, flags: int) -> str:
    """Give a secret's document, which does not hold its value."""
    check_flags(flags, 0, "secretGetXMLDesc")
    return find_secret(session, secret).document.to_xml()


@secret_call
async def secret_set_value(session: Session, secret: SecretHandle, value: bytes, flags: int) -> None:
    """Set a secret's value."""
    check_flags(flags, 0, "secretSetValue")
    if not value:
        raise PlainInvalidArg("value in virSecretSetValue must not be NULL")
    await secrets(session).set_value(find_secret(session, secret), value)


@secret_call
def secret_get_value(session: Session, secret: SecretHandle, flags: int) -> bytes:
    """Give a secret's value, unless it is private."""
    check_flags(flags, 0, "secretGetValue")
    kept = find_secret(session, secret)
    if kept.document.private:
        raise InvalidSecret("secret is private")
    return secrets(session).value_of(kept)


@secret_call
async def secret_undefine(session: Session, secret: SecretHandle) -> None:
    """Forget a secret and its value."""
    await secrets(session).undefine(find_secret(session, secret))


# ------------------------------------------------------------------------ events


@secret_call
def connect_secret_event_register_any(session: Session, eventID: int, secret: SecretHandle | None) -> int:
    """Send one kind of event of one secret or all; give the callback id they carry."""
    if secret is not None:
        find_secret(session, secret)
    uuid = uuid_text(secret.uuid) if secret is not None else None
    return session.subscriptions.register_object("secret", eventID, uuid)


@secret_call
def connect_secret_event_deregister_any(session: Session, callbackID: int) -> None:
    """Send them no more."""
    session.subscriptions.deregister_object("secret", callbackID)
