"""Which class a port gets for its floor, and when there is not enough for it; what the kernel is told."""

from pathlib import Path
from typing import Any

import pytest

from qvirt.drivers.network import floors
from qvirt.drivers.network.network import Network, NetworkFolders, NetworkHost
from qvirt.errors import OperationInvalid, OperationUnsupported
from qvirt.model.devices.interface import Mac
from qvirt.model.netdev import Bandwidth, Traffic
from qvirt.model.network import parse_network
from qvirt.model.network_port import NetworkPort, PortPlug, parse_network_port


def network(inbound: str = "average='1000'") -> Network:
    files: Any = None
    here = Path("/nowhere")
    made = Network(NetworkHost(NetworkFolders(here, here, here, here), files, True), "n", "uuid")
    said = f"<bandwidth><inbound {inbound}/></bandwidth>" if inbound else ""
    made.live = parse_network(f"<network><name>n</name><bridge name='b'/>{said}</network>")
    return made


def port(uuid: str, floor: int | None, plug: str = "network") -> NetworkPort:
    limits = Bandwidth(inbound=Traffic(average=5, floor=floor))
    return NetworkPort(
        uuid=uuid, mac=Mac(address="52:54:00:00:00:01"), bandwidth=limits, plug=PortPlug(type=plug)
    )


def enter(book: Network, *made: NetworkPort) -> list[int | None]:
    for one in made:
        floors.reserve(book, one)
        book.ports[str(one.uuid)] = one
    return [one.class_id for one in made]


def test_the_first_free_class_is_given() -> None:
    book = network()
    assert enter(book, port("a", 100), port("b", None), port("c", 200), port("d", 300)) == [3, None, 4, 5]
    del book.ports["c"]
    assert enter(book, port("e", 50), port("a", 10), port("f", 1)) == [4, 3, 6]
    # one that asks for nothing any more gives its class back
    assert enter(book, port("a", None), port("g", 1)) == [None, 3]


@pytest.mark.parametrize(
    ("inbound", "what"), [("average='1000'", "average=1000"), ("average='500' peak='1000'", "peak=1000")]
)
def test_no_more_is_promised_than_there_is(inbound: str, what: str) -> None:
    book = network(inbound)
    enter(book, port("a", 600), port("b", 400))
    with pytest.raises(
        OperationInvalid, match=f"combined inbound floor=1001 would overcommit {what} on network"
    ):
        enter(book, port("c", 1))
    enter(book, port("b", 1), port("c", 399))


def test_who_has_nothing_to_guarantee() -> None:
    with pytest.raises(OperationUnsupported, match="network 'n' has no inbound QoS set"):
        enter(network(""), port("a", 1))
    with pytest.raises(OperationUnsupported, match="'floor' is only supported for interface type 'network'"):
        enter(network(), port("a", 1, "bridge"))


def test_a_document_says_its_class_where_libvirt_says_it() -> None:
    made = port("11111111-2222-3333-4444-555555555555", 100)
    (number,) = enter(network(), made)
    text = made.to_xml()
    assert f"<bandwidth classID='{number}'>" in text
    text = text.replace("<mac", "<owner><name>x</name></owner><mac")
    assert parse_network_port(text).class_id == number
