"""Serial and parallel ports, consoles and channels."""

import json

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, InvalidArg, QvirtError, XmlError
from qvirt.model.devices.char import Console
from qvirt.qemu.context import Launch
from qvirt.qemu.devices.base import DirectoryResource, FileResource, ListenResource, handler
from qvirt.qemu.switches import Chardev
from tests.unit.qemu.devices.guests import guest, records, validate, words

CHANNEL = (
    "<controller type='virtio-serial' index='0'><alias name='virtio-serial0'/></controller>"
    "<channel type='{type}'>{source}<target type='virtio' name='{name}'/><alias name='channel0'/>"
    "<address type='virtio-serial' controller='0' bus='0' port='1'/></channel>"
)


def serial(inside: str) -> str:
    return f"<serial {inside}<alias name='serial0'/></serial>"


# ---------------------------------------------------------------- the console that is a serial port


def test_a_lone_console_becomes_a_serial_port() -> None:
    devices = guest("<console type='pty'><target port='5'/></console>").domain.devices
    assert devices.serials[0].to_xml() == (
        "<serial type='pty'>\n"
        "  <target type='isa-serial' port='0'>\n"
        "    <model name='isa-serial'/>\n"
        "  </target>\n"
        "</serial>\n"
    )
    assert "<console type='pty'>\n    <target type='serial' port='0'/>\n  </console>" in devices.to_xml()


def test_a_serial_port_gets_a_console_that_follows_it() -> None:
    devices = guest("<serial type='file'><source path='/tmp/a'/></serial>").domain.devices
    assert [console.target.type for console in devices.consoles] == ["serial"]
    devices.serials[0].source.path = "/tmp/b"
    devices.serials[0].alias.name = "serial0"
    shown = devices.to_xml()
    assert shown.count("<source path='/tmp/b'/>") == 2
    assert shown.count("<alias name='serial0'/>") == 2


def test_a_console_that_differs_from_the_serial_port_is_overruled() -> None:
    devices = guest(
        "<serial type='pty'/><console type='file'><source path='/tmp/x'/></console>"
    ).domain.devices
    assert "/tmp/x" not in devices.to_xml()
    assert len(devices.consoles) == 1


@pytest.mark.parametrize("type", ["usb-serial", "pci-serial", "isa-debug"])
def test_some_serial_ports_are_no_console(type: str) -> None:
    devices = guest(f"<serial type='pty'><target type='{type}'/></serial>").domain.devices
    assert devices.consoles == []


def test_virtio_consoles_stand_behind_the_mirrored_one() -> None:
    devices = guest(
        "<serial type='pty'/><console type='pty'><target type='virtio'/></console>"
    ).domain.devices
    assert [(x.target.type, x.target.port) for x in devices.consoles] == [("serial", 0), ("virtio", 0)]


def test_only_the_first_console_may_be_serial() -> None:
    with pytest.raises(ConfigUnsupported, match="Only the first console can be a serial port"):
        guest("<console type='pty'/><console type='pty'/>")


def test_what_libvirt_wrote_is_read_back_as_it_was() -> None:
    once = guest("<serial type='pty'><alias name='ua-a'/></serial>").domain.devices.to_xml()
    inside = once.removeprefix("<devices>\n").removesuffix("</devices>\n")
    assert guest(inside).domain.devices.to_xml() == once


# ------------------------------------------------------------------------------ numbers and models


def test_ports_that_say_nothing_follow_the_highest() -> None:
    devices = guest(
        "<serial type='null'><target port='3'/></serial><serial type='null'/><serial type='null'>"
        "<target port='0'/></serial>"
    ).domain.devices
    assert [x.target.port for x in devices.serials] == [3, 4, 0]


def test_ports_that_say_isa_take_the_lowest_free_number() -> None:
    isa = "<serial type='null'><target type='isa-serial'{}/></serial>".format
    devices = guest(isa(" port='2'") + isa("") + isa(" port='0'")).domain.devices
    assert [x.target.port for x in devices.serials] == [2, 1, 0]
    with pytest.raises(InternalError, match="Maximum supported number of ISA serial ports is '4'"):
        guest(isa("") * 5)
    with pytest.raises(InternalError, match="target port '1' already allocated"):
        guest(isa(" port='1'") * 2)


@pytest.mark.parametrize(
    ("arch", "machine", "type", "model"),
    [
        ("x86_64", "pc-q35-7.2", "isa-serial", "isa-serial"),
        ("ppc64", "pseries-7.2", "spapr-vio-serial", "spapr-vty"),
        ("aarch64", "virt-7.2", "system-serial", "pl011"),
        ("riscv64", "virt", "system-serial", "16550a"),
        ("s390x", "s390-ccw-virtio-7.2", "sclp-serial", "sclpconsole"),
        ("aarch64", "versatilepb", None, None),
    ],
)
def test_default_serial_port_of_each_machine(
    arch: str, machine: str, type: str | None, model: str | None
) -> None:
    target = guest("<serial type='pty'/>", arch=arch, machine=machine).domain.devices.serials[0].target
    assert (target.type, target.model.name) == (type, model)


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        (
            "<serial type='foo'/>",
            ConfigUnsupported,
            "unknown type presented to host for character device: foo",
        ),
        ("<serial type='file'/>", InternalError, "Missing source path attribute for char device"),
        ("<serial type='tcp'/>", InternalError, "Missing source host attribute for char device"),
        (
            "<serial type='tcp'><source host='a'/></serial>",
            InternalError,
            "Missing source service attribute for char device",
        ),
        (
            "<serial type='unix'><source mode='bind' path='/a'>"
            "<reconnect enabled='yes' timeout='1'/></source></serial>",
            InternalError,
            "chardev reconnect is possible only for connect mode",
        ),
        (
            "<serial type='tcp'><source host='a' service='1'/><protocol type='x'/></serial>",
            ConfigUnsupported,
            "Unknown protocol 'x'",
        ),
        (
            "<serial type='file'><source path='/a'/><source path='/b'/></serial>",
            XmlError,
            "only one source element is allowed for character device",
        ),
        ("<serial type='spicevmc'/>", ConfigUnsupported, "spicevmc device type only supports virtio"),
        (
            "<graphics type='spice'/><serial type='spiceport'><source channel='a b'/></serial>",
            InvalidArg,
            "Invalid character in source channel for char device",
        ),
        (
            "<serial type='spiceport'><source channel='a'/></serial>",
            ConfigUnsupported,
            "chardev 'spiceport' not supported without spice graphics",
        ),
        (
            "<serial type='pty'><target><model name='pci-serial'/></target></serial>",
            ConfigUnsupported,
            "Target model 'pci-serial' requires target type 'pci-serial'",
        ),
        (
            "<serial type='pty'><target type='sclp-serial'/></serial>",
            ConfigUnsupported,
            "not compatible with guest architecture or machine type",
        ),
        (
            "<serial type='pty'><address type='pci'/></serial>",
            ConfigUnsupported,
            "Target type 'isa-serial' requires address type 'isa'",
        ),
        ("<channel type='pty'/>", XmlError, "target type must be specified for channel device"),
        (
            "<channel type='pty'><target type='guestfwd'/></channel>",
            XmlError,
            "guestfwd channel does not define a target address",
        ),
        (
            "<channel type='pty'><target type='guestfwd' address='::1' port='1'/></channel>",
            ConfigUnsupported,
            "guestfwd channel only supports IPv4 addresses",
        ),
        (
            "<console type='pty'><target type='xen'/></console>",
            ConfigUnsupported,
            "unsupported console target type xen",
        ),
    ],
)
def test_what_is_refused_is_refused_in_libvirts_words(
    document: str, error: type[QvirtError], message: str
) -> None:
    with pytest.raises(error) as refused:
        validate(guest(document))
    assert message in refused.value.message


# ------------------------------------------------------------------------------------- the backends


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (serial("type='pty'>"), "pty,id=charserial0"),
        (
            serial("type='null'><log file='/l,1' append='on'/>"),
            "null,id=charserial0,logfile=/l,,1,logappend=on",
        ),
        (serial("type='file'><source path='/a' append='off'/>"), "file,id=charserial0,path=/a,append=off"),
        (serial("type='dev'><source path='/dev/ttyS0'/>"), "serial,id=charserial0,path=/dev/ttyS0"),
        (
            serial("type='unix'><source mode='bind' path='/s'/>"),
            "socket,id=charserial0,path=/s,server=on,wait=off",
        ),
        (
            serial("type='unix'><source path='/s'><reconnect enabled='no'/></source>"),
            "socket,id=charserial0,path=/s,reconnect=0",
        ),
        (
            serial("type='tcp'><source mode='bind' host='::1' service='1'/><protocol type='telnet'/>"),
            "socket,id=charserial0,host=::1,port=1,telnet=on,server=on,wait=off",
        ),
        (
            serial(
                "type='udp'><source mode='connect' host='a' service='1'/><source mode='bind' service='2'/>"
            ),
            "udp,id=charserial0,host=a,port=1,localaddr=,localport=2",
        ),
        (
            serial("type='qemu-vdagent'><source><clipboard copypaste='no'/><mouse mode='client'/></source>"),
            "qemu-vdagent,id=charserial0,name=vdagent,clipboard=off,mouse=on",
        ),
    ],
)
def test_backends(document: str, expected: str) -> None:
    ctx = guest(document)
    assert words(ctx.domain.devices.serials[0], ctx)[:2] == ["-chardev", expected]


def test_the_port_itself_comes_after_its_backend() -> None:
    ctx = guest(serial("type='pty'><address type='isa' iobase='0x3f8' irq='4'/>"))
    assert json.loads(words(ctx.domain.devices.serials[0], ctx)[3]) == {
        "driver": "isa-serial", "chardev": "charserial0", "id": "serial0", "index": 0,
        "iobase": 0x3F8, "irq": 4,
    }  # fmt: skip


def test_tls_makes_credentials_first() -> None:
    ctx = guest(serial("type='tcp'><source host='a' service='1' tls='yes'/>"))
    made = words(ctx.domain.devices.serials[0], ctx)
    assert json.loads(made[1])["endpoint"] == "client"
    assert made[3] == "socket,id=charserial0,host=a,port=1,tls-creds=objcharserial0_tls0"


class Handed(Launch):
    """A start that hands over a bound socket."""

    def has(self, name: str) -> bool:
        return name == "charserial0"


def test_a_socket_bound_by_the_daemon_is_handed_over() -> None:
    ctx = guest(serial("type='unix'><source mode='bind' path='/s'/>"))
    ctx.launch = Handed()
    assert words(ctx.domain.devices.serials[0], ctx)[1] == "socket,id=charserial0,fd=3,server=on,wait=off"


def test_a_backend_qemu_does_not_have_is_refused_by_name() -> None:
    ctx = guest(serial("type='nmdm'><source master='/a' slave='/b'/>"))
    with pytest.raises(ConfigUnsupported, match="unsupported chardev 'nmdm'"):
        words(ctx.domain.devices.serials[0], ctx)


@pytest.mark.parametrize(
    ("document", "backend"),
    [
        (serial("type='pty'>"), {"type": "pty", "data": {}}),
        (serial("type='file'><source path='/a'/>"), {"type": "file", "data": {"out": "/a"}}),
        (
            serial("type='unix'><source mode='bind' path='/s'/>"),
            {
                "type": "socket",
                "data": {"addr": {"type": "unix", "data": {"path": "/s"}}, "server": True, "wait": False},
            },
        ),
        (
            serial("type='udp'><source host='a' service='1'/>"),
            {"type": "udp", "data": {"remote": {"type": "inet", "data": {"host": "a", "port": "1"}}}},
        ),
    ],
)
def test_backends_of_running_guests(document: str, backend: dict[str, object]) -> None:
    ctx = guest(document)
    chardev = next(x for x in records(ctx.domain.devices.serials[0], ctx) if isinstance(x, Chardev))
    assert chardev.to_qmp() == ("chardev-add", {"id": "charserial0", "backend": backend})


# ----------------------------------------------------------------------------------------- channels


def test_a_channel_without_a_path_gets_one_for_each_start() -> None:
    ctx = guest(CHANNEL.format(type="unix", source="", name="org.qemu.guest_agent.0"), id=7)
    channel = ctx.domain.devices.channels[0]
    path = "/var/lib/libvirt/qemu/channel/target/domain-7-guest/org.qemu.guest_agent.0"
    assert words(channel, ctx)[1] == f"socket,id=charchannel0,path={path},server=on,wait=off"
    assert channel.path is None
    handler(channel).prepare(channel, ctx)
    assert channel.to_xml().startswith(
        f"<channel type='unix'>\n  <source mode='bind' path='{path}'/>\n"
        "  <target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/>\n"
    )
    assert list(handler(channel).resources(channel, ctx)) == [
        DirectoryResource(channel, path.rpartition("/")[0]),
        ListenResource(channel, path, "charchannel0", private=True),
    ]
    elsewhere = "/var/lib/libvirt/qemu/channel/target/mine.sock"
    channel.sources[0].path = elsewhere
    assert list(handler(channel).resources(channel, ctx)) == [
        ListenResource(channel, elsewhere, "charchannel0")
    ]
    assert json.loads(words(channel, ctx)[3]) == {
        "driver": "virtserialport", "bus": "virtio-serial0.0", "nr": 1, "chardev": "charchannel0",
        "id": "channel0", "name": "org.qemu.guest_agent.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/var/lib/libvirt/qemu/channel/target/domain-1-guest/foo", False),
        ("/var/lib/libvirt/qemu/channel/target/guest.foo", False),
        ("/run/libvirt/qemu/channel/domain-1-guest/foo", False),
        ("/var/lib/libvirt/qemu/channel/target/domain-1-guest/bar", True),
        ("/tmp/foo", True),
    ],
)
def test_paths_of_earlier_starts_are_forgotten(path: str, kept: bool) -> None:
    ctx = guest(CHANNEL.format(type="unix", source=f"<source mode='bind' path='{path}'/>", name="foo"))
    assert ctx.domain.devices.channels[0].path == (path if kept else None)


def test_a_spice_channel_is_named_for_the_agent() -> None:
    ctx = guest(
        CHANNEL.format(type="spicevmc", source="", name="x").replace(" name='x'", "")
        + "<graphics type='spice'/>"
    )
    channel = ctx.domain.devices.channels[0]
    made = words(channel, ctx)
    assert made[1] == "spicevmc,id=charchannel0,name=vdagent"
    assert json.loads(made[3])["name"] == "com.redhat.spice.0"
    assert channel.target.name is None


def test_a_forwarded_address_is_a_network_of_its_own() -> None:
    ctx = guest(
        "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='4600'/>"
        "<alias name='channel0'/></channel>"
    )
    made = words(ctx.domain.devices.channels[0], ctx)
    assert json.loads(made[3]) == {
        "type": "user",
        "guestfwd": [{"str": "tcp:10.0.2.1:4600-chardev:charchannel0"}],
        "id": "channel0",
    }


def test_files_and_logs_are_resources() -> None:
    ctx = guest(serial("type='file'><source path='/a'/><log file='/l'/>"))
    dev = ctx.domain.devices.serials[0]
    assert [x.path for x in handler(dev).resources(dev, ctx) if isinstance(x, FileResource)] == ["/a", "/l"]
    console = ctx.domain.devices.consoles[0]
    assert list(handler(console).resources(console, ctx)) == []


def test_the_mirrored_console_has_no_backend_of_its_own() -> None:
    ctx = guest(serial("type='pty'>"))
    console = ctx.domain.devices.consoles[0]
    assert isinstance(console, Console)
    assert words(console, ctx) == []


def test_what_only_running_guests_have_is_not_kept() -> None:
    ctx = guest(
        "<serial type='pty'><source path='/dev/pts/9'/></serial><console type='pty' tty='/dev/pts/9'/>"
        + CHANNEL.format(type="pty", source="<source path='/dev/pts/8'/>", name="a").replace(
            "name='a'", "name='a' state='connected'"
        )
    )
    shown = ctx.domain.devices.to_xml()
    assert "/dev/pts" not in shown
    assert "state=" not in shown
