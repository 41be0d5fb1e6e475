"""The objects access control speaks of: which one a call is about, which there are, and how each is told
apart.

An object is named to whoever decides by libvirt's attributes (``domain_name``, ``domain_uuid``, …). They are
read from the object itself: of a handle that a client sent, only the uuid counts.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from qvirt.api.handle import find, uuid_text
from qvirt.api.network_handle import find_network, find_port, networks
from qvirt.api.secret_handle import find_secret, secrets
from qvirt.api.session import Session
from qvirt.constants.secret import SecretUsageType
from qvirt.model.domain import parse_domain
from qvirt.model.network import parse_network
from qvirt.model.network_port import parse_network_port
from qvirt.model.secret import parse_secret

Attributes: TypeAlias = dict[str, str]
"""What tells an object from others of its kind; empty for one that has no name yet, and for the connection.
"""

Arguments: TypeAlias = Mapping[str, Any]


def _domain(name: str | None, uuid: str | None) -> Attributes:
    return {"domain_name": name or "", "domain_uuid": uuid or ""}


def _network(name: str | None, uuid: str | None) -> Attributes:
    return {"network_name": name or "", "network_uuid": uuid or ""}


_USAGES: Final = {
    SecretUsageType.VOLUME: "secret_usage_volume",
    SecretUsageType.CEPH: "secret_usage_ceph",
    SecretUsageType.ISCSI: "secret_usage_target",
    SecretUsageType.TLS: "secret_usage_name",
    SecretUsageType.VTPM: "secret_usage_name",
}


def _secret(uuid: str | None, usage_type: int, usage_id: str) -> Attributes:
    named = {_USAGES[usage_type]: usage_id} if usage_type in _USAGES else {}
    return {"secret_uuid": uuid or "", **named}


def _of_domain(session: Session, dom: Any) -> Attributes:
    domain = find(session, dom)
    return _domain(domain.name, domain.uuid)


def _of_network(session: Session, net: Any) -> Attributes:
    network = find_network(session, net)
    return _network(network.name, network.uuid)


def _of_port(session: Session, port: Any) -> Attributes:
    network, found = find_port(session, port)
    return {**_network(network.name, network.uuid), "network_port_uuid": found.uuid or ""}


def _of_secret(session: Session, secret: Any) -> Attributes:
    kept = find_secret(session, secret)
    return _secret(kept.uuid, *kept.usage)


HANDLES: Final[Mapping[str, Callable[[Session, Any], Attributes]]] = {
    "remote_nonnull_domain": _of_domain,
    "remote_nonnull_domain_snapshot": lambda session, snapshot: _of_domain(session, snapshot.dom),
    "remote_nonnull_domain_checkpoint": lambda session, checkpoint: _of_domain(session, checkpoint.dom),
    "remote_nonnull_network": _of_network,
    "remote_nonnull_network_port": _of_port,
    "remote_nonnull_secret": _of_secret,
}
"""By the handle's structure: finds the object a client's handle means; raises NoDomain and its like."""


def _domain_document(text: str) -> Attributes:
    domain = parse_domain(text)
    return _domain(domain.name, domain.uuid)


def _network_document(text: str) -> Attributes:
    network = parse_network(text)
    return _network(network.name, network.uuid)


def _secret_document(text: str) -> Attributes:
    secret = parse_secret(text)
    return _secret(secret.uuid, secret.usage_type, secret.usage_id)


DOCUMENTS: Final[Mapping[str, Callable[[str], Attributes]]] = {
    "domain": _domain_document,
    "network": _network_document,
    "secret": _secret_document,
    "network_port": lambda text: {"network_port_uuid": parse_network_port(text).uuid or ""},
}
"""By the kind of object: reads which one a document would make; raises as reading it does."""

DOCUMENT_PARAMETERS: Final = ("xml", "xml_desc", "dom_xml")
"""What arguments that hold the document of a new object are called."""


def _domains(session: Session, _: Arguments) -> Iterator[tuple[str, Attributes]]:
    for domain in session.hypervisor.domains:
        yield domain.uuid, _domain(domain.name, domain.uuid)


def _networks(session: Session, _: Arguments) -> Iterator[tuple[str, Attributes]]:
    for network in networks(session):
        yield network.uuid, _network(network.name, network.uuid)


def _ports(session: Session, named: Arguments) -> Iterator[tuple[str, Attributes]]:
    network = find_network(session, named["network"])
    for uuid in network.ports:
        yield uuid, {**_network(network.name, network.uuid), "network_port_uuid": uuid}


def _secrets(session: Session, _: Arguments) -> Iterator[tuple[str, Attributes]]:
    for kept in secrets(session):
        yield kept.uuid, _secret(kept.uuid, *kept.usage)


LISTS: Final[Mapping[str, Callable[[Session, Arguments], Iterator[tuple[str, Attributes]]]]] = {
    "domain": _domains,
    "network": _networks,
    "network_port": _ports,
    "secret": _secrets,
}
"""By the kind of object: what a call that lists could show, each with the key it is shown or left out by."""

EVENTS: Final[Mapping[str, Callable[[Any], Attributes]]] = {
    "domain": lambda handle: _domain(handle[0], uuid_text(handle[1])),
    "network": lambda handle: _network(handle[0], uuid_text(handle[1])),
    "secret": lambda handle: _secret(uuid_text(handle[0]), handle[1], handle[2]),
}
"""By the kind of event: which object its message is about."""
