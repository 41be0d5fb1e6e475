"""What libvirt 9.0 answered to some hundred network documents and updates, and what we answer."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.constants.error import ErrorDomain
from qvirt.constants.network import NetworkUpdateCommand as Command
from qvirt.drivers.network import update, validate
from qvirt.errors import QvirtError
from qvirt.model.network import Network, parse_network

DATA = Path(__file__).parents[3] / "data" / "refusals"
MAC = "<mac address='52:54:00:00:00:01'/>"
#: the networks that were updated
DOCUMENTS = (
    f"<bridge name='qbr1'/>{MAC}<dns><txt name='e' value='v'/><srv service='s' protocol='tcp' target='t' "
    "port='4'/><host ip='10.9.1.7'><hostname>h1</hostname><hostname>h2</hostname></host></dns>"
    "<ip address='10.9.1.1' netmask='255.255.255.0'><dhcp><range start='10.9.1.50' end='10.9.1.60'/>"
    "<host mac='52:54:00:00:00:0a' name='one' ip='10.9.1.10'/></dhcp></ip>"
    "<ip family='ipv6' address='fc00:9::1' prefix='64'><dhcp><range start='fc00:9::50' end='fc00:9::60'/>"
    "</dhcp></ip><ip address='10.9.2.1' prefix='24'/><portgroup name='a' default='yes'/>",
    "<forward mode='bridge'><interface dev='ee0'/><interface dev='ee1'/></forward>",
    f"<bridge name='qbr2'/>{MAC}",
    "<forward mode='bridge'/><bridge name='br0'/>",
    f"<bridge name='qbr9'/>{MAC}<ip family='ipv6' address='fc00:9::1' prefix='64'><dhcp>"
    "<range start='fc00:9::50' end='fc00:9::60'/></dhcp></ip><ip address='10.9.1.1' netmask='255.255.255.0'>"
    "<dhcp><range start='10.9.1.50' end='10.9.1.60'/></dhcp></ip>",
)
COMMANDS = {"modify": Command.MODIFY, "delete": Command.DELETE, "add-last": Command.ADD_LAST, "bogus": 5}


def recorded(name: str) -> Iterator[tuple[str, str]]:
    """Yield what was asked and what was answered."""
    lines = [line for line in (DATA / name).read_text().splitlines() if not line.startswith("#")]
    yield from zip(lines[::2], (line.strip() for line in lines[1::2]), strict=True)


def read(body: str) -> Network:
    network = parse_network(f"<network><name>t1</name>{body}</network>")
    validate.fill_in(network, lambda: "11111111-2222-3333-4444-555555555555", lambda: "@MAC@")
    made = network.mac.address == "@MAC@"
    if made:
        network.mac.address = None
    validate.check(network)
    validate.name_bridge(network, ())
    if made:
        network.mac.address = "@MAC@"
    return network


def said(error: QvirtError) -> str:
    """Return an error as it was recorded; the network driver's own domain is set by the API."""
    domain = error.domain
    if domain in (ErrorDomain.QEMU, ErrorDomain.DOMAIN):
        domain = ErrorDomain.NETWORK
    return f"{error.code},{domain} " + re.sub(r" \((line \d+|expected ).*\)$", "", error.message).strip()


def shown(network: Network) -> str:
    """Return a document as it was recorded."""
    lines = network.to_xml().splitlines()[3:-1]
    return re.sub(
        r"<bridge name='virbr\d+'", "<bridge name='virbr0'", " ".join(["OK", *map(str.strip, lines)])
    )


def test_documents() -> None:
    wrong = []
    for body, answer in recorded("network.txt"):
        try:
            ours = shown(read(body))
        except QvirtError as error:
            ours = said(error)
        if ours != answer:
            wrong.append((body, answer, ours))
    assert not wrong


@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_updates(number: int) -> None:
    wrong = []
    for line, answer in recorded("network-update.txt"):
        which, command, section, index, element = line.split(" ", 4)
        if int(which) != number:
            continue
        network = read(DOCUMENTS[number])
        try:
            update.apply(network, COMMANDS[command], int(section), int(index), element)
            validate.check(network)
            ours = "OK"
        except QvirtError as error:
            ours = said(error)
        if ours != answer:
            wrong.append((line, answer, ours))
    assert not wrong
