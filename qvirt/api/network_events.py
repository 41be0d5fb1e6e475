"""Registering for events of networks."""

from qvirt.api.handle import uuid_text
from qvirt.api.network_handle import NetworkHandle, find_network, network_call
from qvirt.api.session import Session


@network_call
def connect_network_event_register_any(session: Session, eventID: int, net: NetworkHandle | None) -> int:
    """Send one kind of event of one network or all; give the callback id they carry."""
    if net is not None:
        find_network(session, net)
    return session.subscriptions.register_object("network", eventID, uuid_text(net.uuid) if net else None)


@network_call
def connect_network_event_deregister_any(session: Session, callbackID: int) -> None:
    """Send them no more."""
    session.subscriptions.deregister_object("network", callbackID)
