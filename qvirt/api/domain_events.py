"""Registering for events, in the old style and the new."""

from qvirt.api.handle import DomainHandle, uuid_text
from qvirt.api.registry import remote, remote_any
from qvirt.api.session import Session
from qvirt.constants.domain_event import DomainEventID


@remote
def connect_domain_event_register(session: Session) -> int:
    """Send lifecycle events of all domains, in the oldest style."""
    session.subscriptions.register(DomainEventID.LIFECYCLE, None, legacy=True)
    return 1


@remote
def connect_domain_event_deregister(session: Session) -> int:
    """Send them no more."""
    session.subscriptions.deregister_legacy(DomainEventID.LIFECYCLE)
    return 0


@remote
def connect_domain_event_register_any(session: Session, eventID: int) -> None:
    """Send one kind of event of all domains, without callback ids."""
    session.subscriptions.register(eventID, None, legacy=True)


@remote
def connect_domain_event_deregister_any(session: Session, eventID: int) -> None:
    """Send them no more."""
    session.subscriptions.deregister_legacy(eventID)


@remote
def connect_domain_event_callback_register_any(
    session: Session,
    eventID: int,
    dom: DomainHandle | None,
) -> int:
    """Send one kind of event of one domain or all; give the callback id they carry."""
    return session.subscriptions.register(eventID, uuid_text(dom.uuid) if dom else None)


@remote
def connect_domain_event_callback_deregister_any(
    session: Session,
    callbackID: int,
) -> None:
    """Send them no more; nothing with this id follows the reply."""
    session.subscriptions.deregister(callbackID)


@remote_any
def connect_register_close_callback(session: Session) -> None:
    """Tell this client before the daemon closes the connection."""
    session.close_callback = True


@remote_any
def connect_unregister_close_callback(session: Session) -> None:
    """Close without a word."""
    session.close_callback = False
