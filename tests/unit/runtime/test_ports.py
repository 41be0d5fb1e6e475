"""Ports of displays: what a document leaves open is given out, each number once."""

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.host.ports import PortAllocator
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.context import Settings
from qvirt.runtime.life import launch


def guest(*graphics: str) -> Domain:
    return parse_domain(
        "<domain type='qemu'><name>a</name><memory>1024</memory><os><type>hvm</type></os>"
        f"<devices>{''.join(graphics)}</devices></domain>"
    )


def test_each_port_is_given_out_once() -> None:
    display, websocket = PortAllocator("display", 15900, 15909), PortAllocator("websocket", 15700, 15709)
    settings = Settings(spice_tls=True)
    spice = "<graphics type='spice' autoport='yes'/>"
    vnc = "<graphics type='vnc' port='15901' websocket='-1'/>"
    guests = [guest(vnc), guest(spice), guest(spice)]
    plans = [launch.take_ports(one, settings, display, websocket) for one in guests]
    shown = [(g.port, g.tls_port, g.websocket) for one in guests for g in one.devices.graphics]
    given = [port for ports in shown for port in ports if port is not None]
    assert [tuple(port is not None for port in ports) for ports in shown] == [
        (True, False, True),
        (True, True, False),
        (True, True, False),
    ]
    assert len(set(given)) == len(given) == 6
    assert {15901, shown[0][2]} <= set(given)
    assert sorted(port for plan in plans for _, port in plan.taken) == sorted(given)


def test_what_cannot_be_given_leaves_nothing_taken() -> None:
    display, websocket = PortAllocator("display", 15920, 15920), PortAllocator("websocket", 15720, 15720)
    secure = "<graphics type='spice' autoport='yes' defaultMode='secure'/>"
    one = guest("<graphics type='vnc' autoport='yes'/>", secure)
    with pytest.raises(ConfigUnsupported, match="spice TLS is disabled"):
        launch.take_ports(one, Settings(), display, websocket)
    assert display.acquire() == 15920
