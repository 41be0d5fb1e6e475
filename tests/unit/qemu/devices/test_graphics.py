"""Displays: where they listen, which ports they want, what QEMU is told."""

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, NoNetwork, QvirtError, SystemError_, XmlError
from qvirt.model.devices.graphics import Graphics
from qvirt.qemu.context import BuildContext, HostFacts, Settings
from qvirt.qemu.devices.base import ReachedResource, handler
from qvirt.qemu.devices.graphics import password, ports_chosen, ports_needed
from tests.unit.qemu.devices.guests import emulator, guest, validate, words

AUDIO = "<audio id='1' type='none'/>"


def display(document: str, **kwargs: object) -> tuple[Graphics, BuildContext]:
    ctx = guest(document + AUDIO, **kwargs)  # type: ignore[arg-type]
    return ctx.domain.devices.graphics[0], ctx


@pytest.mark.parametrize(
    ("written", "head"),
    [
        ("type='vnc'", "<graphics type='vnc' port='-1' autoport='yes'>"),
        ("type='vnc' port='-1'", "<graphics type='vnc' port='-1' autoport='yes'>"),
        ("type='vnc' port='5901'", "<graphics type='vnc' port='5901' autoport='no'>"),
        ("type='vnc' port='5901' autoport='yes'", "<graphics type='vnc' port='-1' autoport='yes'>"),
        ("type='vnc' port='-1' autoport='no'", "<graphics type='vnc' autoport='no'>"),
        ("type='vnc' listen='1.2.3.4'", "<graphics type='vnc' port='-1' autoport='yes' listen='1.2.3.4'>"),
        ("type='vnc' socket='/tmp/s' port='5900'", "<graphics type='vnc' socket='/tmp/s'>"),
        ("type='spice'", "<graphics type='spice'>"),
        ("type='spice' autoport='yes' port='5901'", "<graphics type='spice' autoport='yes'>"),
        ("type='spice' port='-1'", "<graphics type='spice' port='-1' autoport='no'>"),
        ("type='spice' port='-1' tlsPort='-1'", "<graphics type='spice' autoport='yes'>"),
        ("type='sdl' fullscreen='no'", "<graphics type='sdl'/>"),
        ("type='dbus' p2p='yes'", "<graphics type='dbus' p2p='yes'/>"),
    ],
)
def test_ports_as_they_are_kept(written: str, head: str) -> None:
    dev, _ = display(f"<graphics {written}/>")
    assert dev.to_xml().split("\n")[0] == head


def test_spice_without_a_port_listens_nowhere() -> None:
    dev, ctx = display("<graphics type='spice'><listen type='address' address='1.2.3.4'/></graphics>")
    assert [listen.type for listen in dev.listens] == ["none"]
    assert words(dev, ctx) == ["-spice", "port=0,disable-ticketing=on,seamless-migration=on"]


def test_a_socket_made_up_for_an_earlier_start_is_forgotten() -> None:
    dev, _ = display("<graphics type='vnc' socket='/var/lib/libvirt/qemu/domain-1-guest/vnc.sock'/>")
    assert (dev.listens[0].type, dev.port, dev.autoport) == ("address", -1, True)


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        (
            "<graphics type='vnc' listen='1.1.1.1'><listen type='address' address='2.2.2.2'/></graphics>",
            ConfigUnsupported,
            "graphics 'listen' attribute '1.1.1.1' must match 'address' attribute of first listen element "
            "(found '2.2.2.2')",
        ),
        (
            "<graphics type='vnc' socket='/a'><listen type='socket' socket='/b'/></graphics>",
            ConfigUnsupported,
            "graphics 'socket' attribute '/a' must match 'socket' attribute of first listen element "
            "(found '/b')",
        ),
        ("<graphics type='vnc' passwd='123456789'/>", ConfigUnsupported, "VNC password is 9 characters long"),
        (
            "<graphics type='vnc' passwd='a' connected='fail'/>",
            ConfigUnsupported,
            "VNC supports connected='keep' only",
        ),
        (
            "<graphics type='vnc' passwd='a' passwdValidTo='soon'/>",
            InternalError,
            "cannot parse password validity time 'soon', expect YYYY-MM-DDTHH:MM:SS",
        ),
        ("<graphics type='rdp'/>", ConfigUnsupported, "rdp graphics are not supported with this QEMU"),
        (
            "<graphics type='sdl'/><graphics type='egl-headless'/>",
            ConfigUnsupported,
            "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice' graphics types",
        ),
        (
            "<graphics type='egl-headless'/><graphics type='spice'><gl enable='yes'/></graphics>",
            ConfigUnsupported,
            "multiple OpenGL displays are not supported by QEMU",
        ),
        ("<graphics type='vnc'><audio id='9'/></graphics>", XmlError, "no audio device with ID 9"),
        (
            "<graphics type='spice' tlsPort='5901'/>",
            ConfigUnsupported,
            "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
        ),
        (
            "<graphics type='dbus' p2p='yes' address='unix:path=/x'/>",
            XmlError,
            "D-Bus p2p with an address is not supported",
        ),
        (
            "<graphics type='vnc'><listen type='network'/></graphics>",
            XmlError,
            "'network' attribute is required for listen type 'network'",
        ),
    ],
)
def test_what_is_refused(document: str, error: type[QvirtError], message: str) -> None:
    with pytest.raises(error) as refused:
        validate(guest(document + AUDIO))
    assert message in refused.value.message


def test_an_emulator_without_spice_is_refused() -> None:
    _, ctx = display("<graphics type='spice'/>", caps=emulator(commands=()))
    with pytest.raises(ConfigUnsupported, match="spice graphics are not supported with this QEMU"):
        validate(ctx)


# ----------------------------------------------------------------------------------------------- VNC


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("<graphics type='vnc'/>", "127.0.0.1:0,audiodev=audio1"),
        ("<graphics type='vnc' port='5903' listen='::'/>", "[::]:3,audiodev=audio1"),
        ("<graphics type='vnc' socket='/a,b'/>", "vnc=unix:/a,,b,audiodev=audio1"),
        ("<graphics type='vnc'><listen type='none'/></graphics>", "none,audiodev=audio1"),
        (
            "<graphics type='vnc' websocket='5700' sharePolicy='ignore' passwd='' powerControl='no'/>",
            "127.0.0.1:0,websocket=5700,share=ignore,password=on,power-control=off,audiodev=audio1",
        ),
    ],
)
def test_vnc(document: str, expected: str) -> None:
    dev, ctx = display(document)
    assert words(dev, ctx) == ["-vnc", expected]


def test_keymap_is_a_switch_of_its_own() -> None:
    dev, ctx = display("<graphics type='vnc' keymap='de'/>")
    assert words(dev, ctx)[2:] == ["-k", "de"]


def test_vnc_takes_its_rules_from_the_settings() -> None:
    settings = Settings(vnc_listen="0.0.0.0", vnc_tls=True, vnc_sasl=True, vnc_password="x")  # noqa: S104, S106
    dev, ctx = display("<graphics type='vnc'/>", settings=settings)
    made = words(dev, ctx)
    assert made[0] == "-object"
    assert made[3] == "0.0.0.0:0,password=on,tls-creds=vnc-tls-creds0,sasl=on,audiodev=audio1"
    assert password(dev, settings) == "x"


def test_a_vnc_port_out_of_range_is_refused_at_start() -> None:
    dev, ctx = display("<graphics type='vnc' port='5899'/>")
    with pytest.raises(ConfigUnsupported, match=r"vnc port must be in range \[5900,65535\]"):
        words(dev, ctx)


def test_two_of_a_kind_are_refused_at_start() -> None:
    dev, ctx = display("<graphics type='vnc'/><graphics type='vnc'/>")
    with pytest.raises(ConfigUnsupported, match="only 1 graphics device of each type"):
        words(dev, ctx)


# --------------------------------------------------------------------------------------------- SPICE


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            "<graphics type='spice' autoport='yes'/>",
            "port=5901,addr=127.0.0.1,disable-ticketing=on,seamless-migration=on",
        ),
        (
            "<graphics type='spice' port='5930' passwd='a' defaultMode='insecure'>"
            "<channel name='record' mode='any'/><channel name='display' mode='insecure'/>"
            "<channel name='main' mode='insecure'/></graphics>",
            "port=5930,addr=127.0.0.1,plaintext-channel=default,plaintext-channel=main,"
            "plaintext-channel=display,seamless-migration=on",
        ),
        (
            "<graphics type='spice' port='5930'><image compression='off'/><streaming mode='all'/>"
            "<mouse mode='server'/><clipboard copypaste='no'/><filetransfer enable='no'/></graphics>",
            "port=5930,addr=127.0.0.1,agent-mouse=off,disable-ticketing=on,image-compression=off,"
            "streaming-video=all,disable-copy-paste=on,disable-agent-file-xfer=on,seamless-migration=on",
        ),
        (
            "<graphics type='spice'><listen type='socket' socket='/s'/></graphics>",
            "unix,addr=/s,disable-ticketing=on,seamless-migration=on",
        ),
    ],
)
def test_spice(document: str, expected: str) -> None:
    dev, ctx = display(document)
    made = words(dev, ctx)
    assert made == ["-spice", expected.replace("unix,", "unix=on,")]


def test_a_secure_channel_needs_a_port_that_is() -> None:
    dev, ctx = display("<graphics type='spice' port='5930'><channel name='main' mode='secure'/></graphics>")
    with pytest.raises(ConfigUnsupported, match="spice secure channels set in XML configuration"):
        words(dev, ctx)


# --------------------------------------------------------------------------------------------- ports


@pytest.mark.parametrize(
    ("document", "settings", "needed"),
    [
        ("<graphics type='vnc'/>", Settings(), ["port"]),
        ("<graphics type='vnc' port='5901'/>", Settings(), []),
        ("<graphics type='vnc' websocket='-1'/>", Settings(), ["port", "websocket"]),
        ("<graphics type='vnc' socket='/s'/>", Settings(), []),
        ("<graphics type='spice'/>", Settings(), []),
        ("<graphics type='spice' autoport='yes'/>", Settings(), ["port"]),
        (
            "<graphics type='spice' autoport='yes'/>",
            Settings(spice_tls=True),
            ["port", "tls_port"],
        ),
        (
            "<graphics type='spice' autoport='yes' defaultMode='secure'/>",
            Settings(spice_tls=True),
            ["tls_port"],
        ),
        ("<graphics type='spice' port='-1'/>", Settings(), ["port"]),
        ("<graphics type='sdl'/>", Settings(), []),
    ],
)
def test_which_ports_are_to_be_given_out(document: str, settings: Settings, needed: list[str]) -> None:
    dev, _ = display(document)
    assert ports_needed(dev, settings) == needed


def test_a_tls_port_needs_tls() -> None:
    dev, _ = display("<graphics type='spice' autoport='yes' defaultMode='secure'/>")
    with pytest.raises(ConfigUnsupported, match=r"spice TLS is disabled in qemu\.conf"):
        ports_needed(dev, Settings())


def test_ports_given_out_are_what_qemu_listens_on() -> None:
    dev, ctx = display("<graphics type='vnc' websocket='-1'/>")
    dev.port, dev.websocket = 5910, 5701
    assert words(dev, ctx)[1] == "127.0.0.1:10,websocket=5701,audiodev=audio1"
    assert dev.to_xml().startswith("<graphics type='vnc' port='5910' autoport='yes' websocket='5701'>")


def test_ports_a_document_names() -> None:
    assert ports_chosen(display("<graphics type='spice' port='5930' tlsPort='-1'/>")[0]) == {"port": 5930}
    assert ports_chosen(display("<graphics type='vnc' websocket='5700'/>")[0]) == {"websocket": 5700}
    assert ports_chosen(display("<graphics type='vnc' socket='/s'/>")[0]) == {}


# -------------------------------------------------------------------------------------------- starts


def test_a_start_says_where_it_listens() -> None:
    dev, ctx = display("<graphics type='vnc'/>", id=3)
    handler(dev).prepare(dev, ctx)
    assert dev.to_xml() == (
        "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'>\n"
        "  <listen type='address' address='127.0.0.1'/>\n"
        "</graphics>\n"
    )


def test_a_start_makes_up_the_socket() -> None:
    dev, ctx = display("<graphics type='vnc'><listen type='socket'/></graphics>", id=3)
    handler(dev).prepare(dev, ctx)
    assert dev.listens[0].socket == dev.socket == "/var/lib/libvirt/qemu/domain-3-guest/vnc.sock"


def test_a_sockets_folder_is_not_the_guests() -> None:
    for socket in ("", "socket='/run/mine/vnc.sock'"):
        dev, ctx = display(f"<graphics type='vnc'><listen type='socket' {socket}/></graphics>", id=3)
        handler(dev).prepare(dev, ctx)
        assert list(handler(dev).resources(dev, ctx)) == [ReachedResource(dev, dev.listens[0].socket or "")]


def test_a_network_that_is_not_there_is_named() -> None:
    dev, ctx = display("<graphics type='vnc'><listen type='network' network='red'/></graphics>")
    with pytest.raises(NoNetwork, match="no network with matching name 'red'"):
        words(dev, ctx)


def test_gpu_node_is_the_hosts_first() -> None:
    document = "<graphics type='egl-headless'/>"
    dev, ctx = display(document, host=HostFacts(render_nodes=("/dev/dri/renderD128",)))
    assert words(dev, ctx) == ["-display", "egl-headless,rendernode=/dev/dri/renderD128"]
    dev, ctx = display(document)
    with pytest.raises(SystemError_, match="/dev/dri"):
        words(dev, ctx)


def test_windows_on_the_host() -> None:
    dev, ctx = display(
        "<graphics type='sdl' display=':1' xauth='/x' fullscreen='yes'><gl enable='yes'/></graphics>"
    )
    assert words(dev, ctx) == ["-full-screen", "-display", "sdl,gl=on"]
    assert handler(dev).environment(dev, ctx) == {"DISPLAY": ":1", "XAUTHORITY": "/x"}


def test_dbus() -> None:
    dev, ctx = display("<graphics type='dbus' p2p='yes'><audio id='1'/></graphics>")
    assert words(dev, ctx) == ["-display", "dbus,p2p=on,audiodev=audio1"]
    dev, ctx = display("<graphics type='dbus'/>", id=2)
    with pytest.raises(ConfigUnsupported, match="<graphics type='dbus'>"):
        handler(dev).prepare(dev, ctx)


def test_secrets_can_be_hidden() -> None:
    dev, _ = display("<graphics type='vnc' passwd='s3cret' connected='keep'/>")
    assert "passwd='s3cret' connected='keep'" in dev.to_xml()
    dev.hide_secrets()
    assert "s3cret" not in dev.to_xml()
    assert "connected" not in dev.to_xml()
