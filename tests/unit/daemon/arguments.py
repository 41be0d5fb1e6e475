"""Arguments for any procedure, made from its structure: handles of objects that are there, documents."""

import uuid
from collections.abc import Mapping
from typing import Any

from qvirt.rpc.protocol import Procedure
from qvirt.rpc.types import Chars, Fields, Items, Maybe, Number, Opaque, Text, Type, Union

DOMAIN = ("one", uuid.UUID("11111111-1111-1111-1111-111111111111").bytes)
NETWORK = ("net", uuid.UUID("22222222-2222-2222-2222-222222222222").bytes)
PORT = uuid.UUID("33333333-3333-3333-3333-333333333333").bytes
SECRET = (uuid.UUID("55555555-5555-5555-5555-555555555555").bytes, 3, "target")
UUIDS = {"domain": DOMAIN[1], "network": NETWORK[1], "network_port": PORT, "secret": SECRET[0]}

HANDLES: Mapping[str, Any] = {
    "remote_nonnull_domain": (*DOMAIN, -1),
    "remote_nonnull_domain_snapshot": ("snapshot", (*DOMAIN, -1)),
    "remote_nonnull_domain_checkpoint": ("checkpoint", (*DOMAIN, -1)),
    "remote_nonnull_network": NETWORK,
    "remote_nonnull_network_port": (NETWORK, PORT),
    "remote_nonnull_secret": SECRET,
}

_NEW = uuid.UUID("44444444-4444-4444-4444-444444444444")
DOCUMENTS = {
    "domain": f"<domain type='qemu'><name>new</name><uuid>{_NEW}</uuid><memory>65536</memory>"
    "<os><type>hvm</type></os></domain>",
    "network": f"<network><name>new</name><uuid>{_NEW}</uuid></network>",
    "network_port": f"<networkport><uuid>{_NEW}</uuid><owner><name>one</name><uuid>{_NEW}</uuid></owner>"
    "<mac address='52:54:00:00:00:01'/></networkport>",
    "secret": f"<secret><uuid>{_NEW}</uuid><usage type='iscsi'><target>t</target></usage></secret>",
}


def arguments(procedure: Procedure, *, flags: int = 0, **named: Any) -> tuple[Any, ...]:
    """Make arguments as the dispatcher decodes them; flags and others by name as they are given."""
    if procedure.args is None:
        return ()
    kind = next((rule.object for rule in procedure.acl or ()), "")
    values = []
    for name, type_ in procedure.args.layout.fields:
        if name in named:
            values.append(named[name])
        elif name == "flags":
            values.append(flags)
        elif name in ("xml", "xml_desc") and kind in DOCUMENTS:
            values.append(DOCUMENTS[kind])
        elif name == "uuid" and isinstance(type_, Opaque):
            values.append(UUIDS.get(kind, bytes(16)))
        else:
            values.append(_value(type_))
    return procedure.decode_args(procedure.encode_args(values))


def _value(type_: Type) -> Any:
    match type_:
        case Number():
            return 0.0 if type_.format == "d" else 0
        case Text():
            return "one"
        case Opaque(most, fixed) | Chars(most, fixed):
            return bytes(most) if fixed else b""
        case Items(item, most, fixed):
            return [_value(item)] * most if fixed else []
        case Maybe():
            return None
        case Fields(name, fields):
            return HANDLES.get(name) or tuple(_value(each) for _, each in fields)
        case Union(_, arms):
            number, arm = arms[0]
            return (number, _value(arm))
