"""Events to bytes. The payload of one event is encoded once, whoever receives it."""

from struct import Struct
from typing import Final

from qvirt.api.events import Message
from qvirt.rpc import protocol
from qvirt.rpc.packet import HEADER, pack_event
from qvirt.rpc.xdr import XdrStruct

_CALLBACK_ID: Final = Struct(">i")
_PAYLOAD: Final = HEADER.size


def encode(message: Message, callback_id: int | None) -> bytes:
    """Make the packet of an event; callback_id: None for the legacy style."""
    if callback_id is None:
        packet = message.encoded.get("legacy")
        if packet is None:
            packet = message.encoded["legacy"] = _legacy(message)
        return packet
    packet = message.encoded.get("callback")
    if packet is None:
        packet = message.encoded["callback"] = _callback(message)
    # The callback id is the first field of each of these messages.
    return packet[:_PAYLOAD] + _CALLBACK_ID.pack(callback_id) + packet[_PAYLOAD + _CALLBACK_ID.size :]


def connection_closed(reason: int) -> bytes:
    """Make the packet that tells a client the connection ends; reason: virConnectCloseReason."""
    procedure = protocol.remote().by_name["CONNECT_EVENT_CONNECTION_CLOSED"]
    return pack_event(procedure, _message(procedure).encode((reason,)))


def _message(procedure: protocol.Procedure) -> XdrStruct:
    if procedure.msg is None:
        raise ValueError(f"procedure {procedure.name} is no event")
    return procedure.msg


def _legacy(message: Message) -> bytes:
    if message.event_id is None:
        raise ValueError("monitor events have no legacy style")
    number = protocol.event_ids("domain")[message.event_id].legacy
    if number is None:
        raise ValueError(f"event {message.event_id} has no legacy style")
    procedure = protocol.remote().by_number[number]
    return pack_event(procedure, _message(procedure).encode(message.values))


def _callback(message: Message) -> bytes:
    if message.event_id is None:
        procedure = protocol.qemu().by_name["DOMAIN_MONITOR_EVENT"]
        return pack_event(procedure, _message(procedure).encode((0, *message.values)))
    event = protocol.event_ids(message.kind)[message.event_id]
    procedure = protocol.remote().by_number[event.callback]
    if event.legacy is None:
        return pack_event(procedure, _message(procedure).encode((0, *message.values)))
    return pack_event(procedure, _message(procedure).encode((0, *message.prefix, message.values)))
