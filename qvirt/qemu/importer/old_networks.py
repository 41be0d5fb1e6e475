"""``-net``, ``-nic`` and ``-redir`` as parts: cards and backends, and what they are plugged into."""

import re

from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument, collect, split_opts
from qvirt.qemu.importer.parts import Part, Props, integer
from qvirt.qemu.keyval import JsonValue

#: what ``-net nic,model=`` calls cards that have another name as a device
_CARDS = {"virtio": "virtio-net-pci", "ne2k_isa": "ne2k_isa", "e1000-82540em": "e1000"}


def read_networks(line: Line) -> list[Part]:
    """Read ``-net``, ``-nic``, ``-redir``; return the cards the machine makes."""
    cards: list[Part] = []
    hubs: dict[int, tuple[list[Part], list[Part]]] = {}
    given = line.given("net", "nic")
    if line.makes_nothing:
        for argument in given:
            line.pass_on([argument], list(argument.words), "this machine makes no card of it")
        return cards
    forwards = _redirections(line)
    counter = 0
    dumps: list[tuple[int, Argument, Props]] = []
    for argument in given:
        props = collect(split_opts(argument.value or "", "type"))
        type = props.get("type")
        if type == "none":
            line.to_xml([argument], "no <interface>")
            continue
        if not type:
            line.drop([argument], "it names no kind of network")
            continue
        if argument.name == "nic":
            counter += 1
            cards += _nic(line, argument, props, counter)
            continue
        hub = integer(props.pop("vlan", "0"), "vlan")
        members = hubs.setdefault(hub, ([], []))
        if type == "dump":
            dumps.append((hub, argument, props))
        elif type == "nic":
            members[0].append(Part("device", _card(line, props), (argument,)))
        else:
            props.pop("name", None)
            part = Part("netdev", {**props, "id": f"net{len(members[1])}.{hub}"}, (argument,))
            if type == "channel":
                line.drop([argument], "-net channel was a channel to the guest's network, gone since 0.12")
                continue
            members[1].append(part)
    defaulted = line.defaults and not given and not line.given("netdev")
    if defaulted and line.family:
        hubs[0] = (
            [Part("device", _card(line, {}), ())],
            [Part("netdev", {"type": "user", "id": "net0.0"}, ())],
        )
    for number, (nics, backends) in sorted(hubs.items()):
        cards += _plug(line, number, nics, backends, forwards)
        forwards = [] if backends else forwards
    for hub, argument, props in dumps:
        _dump(line, argument, props, hubs[hub][1])
    for argument, _ in forwards:
        line.drop([argument], "there is no user network to forward from")
    return cards


def _dump(line: Line, argument: Argument, props: Props, backends: list[Part]) -> None:
    """Say ``-net dump`` as the filter that came after it, on what the cards are plugged into."""
    if not backends:
        line.drop([argument], "nothing is plugged in whose packets it would write down")
        return
    filter: Props = {"qom-type": "filter-dump", "id": f"dump{argument.number}", "netdev": backends[0].id}
    filter["file"] = props.get("file", "qemu-vlan0.pcap")
    if "len" in props:
        filter["maxlen"] = props["len"]
    line.parts.add(Part("object", filter, (argument,)))


def _redirections(line: Line) -> list[tuple[Argument, str]]:
    found: list[tuple[Argument, str]] = []
    for argument in line.given("redir"):
        protocol, _, rest = (argument.value or "").partition(":")
        host, _, guest = rest.partition(":")
        address, _, port = guest.rpartition(":")
        found.append((argument, f"{protocol}::{host}-{address}:{port}"))
    return found


def _plug(
    line: Line, number: int, nics: list[Part], backends: list[Part], forwards: list[tuple[Argument, str]]
) -> list[Part]:
    """Plug cards into backends: directly, or into a hub where there are several or QEMU keeps the network.

    QEMU has a hub in between always. A tap and a socket are the daemon's to make, and one card sees no hub.
    """
    user = next((part for part in backends if part.props["type"] == "user"), None)
    if user is not None and forwards:
        known = user.props.get("hostfwd")
        listed: list[JsonValue] = known if isinstance(known, list) else [known] if known else []
        user.props["hostfwd"] = [*listed, *(text for _, text in forwards)]
        user.given = (*user.given, *(argument for argument, _ in forwards))
    for part in backends:
        line.parts.add(part)
    if len(nics) == 1 and len(backends) == 1 and user is None:
        nics[0].props["netdev"] = backends[0].id
        return nics
    if not nics:
        for part in backends:
            part.settled = "dropped"
            line.drop(part.given, "no card is plugged into it")
        return []
    if not backends:
        for part in nics:
            line.note("the card is plugged into nothing", part.given)
        return nics
    for place, part in enumerate((*nics, *backends)):
        port: Props = {"type": "hubport", "id": f"hub{number}port{place}", "hubid": str(number)}
        if part.kind == "netdev":
            port["netdev"] = part.id
        else:
            part.props["netdev"] = port["id"]
        line.parts.add(Part("netdev", port, part.given))
    return nics


def _card(line: Line, props: Props) -> Props:
    """Return a card's properties from those of ``-net nic``."""
    default = {"q35": "e1000e", "virt": "virtio-net-pci", "s390": "virtio-net-ccw"}.get(line.family, "e1000")
    if line.family == "q35" and re.match(r"pc-q35-(?:2\.([0-9]|1[01])|1\.\d)(?:\.|$)", line.machine_type):
        default = "e1000"
    model = str(props.get("model", default))
    card: Props = {"driver": _CARDS.get(model, model)}
    if model == "virtio" and line.arch == "s390x":
        card["driver"] = "virtio-net-ccw"
    for old, new in (
        ("macaddr", "mac"),
        ("mac", "mac"),
        ("addr", "addr"),
        ("vectors", "vectors"),
        ("netdev", "netdev"),
    ):
        if old in props:
            card[new] = props[old]
    if isinstance(props.get("id"), str):
        card["id"] = props["id"]
    return card


def _nic(line: Line, argument: Argument, props: Props, number: int) -> list[Part]:
    """Read ``-nic``: a backend and a card at once."""
    card = _card(line, {key: props.pop(key) for key in ("model", "mac", "macaddr", "addr") if key in props})
    if card["driver"].startswith("virtio-net"):  # type: ignore[union-attr]
        card["vectors"] = "0"  # QEMU gives such a card no MSI-X
    id = str(props.pop("id", f"nic{number}"))
    line.parts.add(Part("netdev", {**props, "id": id}, (argument,)))
    return [Part("device", {**card, "netdev": id}, (argument,))]
