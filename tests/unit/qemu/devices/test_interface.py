"""Interfaces in QEMU's words as they are started; the golden documents show domxml-to-native's taps only."""

import json

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.qemu.context import BuildContext, Launch
from qvirt.qemu.devices.base import TapResource, handler
from qvirt.qemu.devices.interface import VIRTIO_NET, device_props, native
from qvirt.qemu.names import assign_aliases
from tests.support.pure import completed, context


def guest(*interfaces: str, type: str = "qemu", launch: Launch | None = None) -> BuildContext:
    domain = completed(
        f"<domain type='{type}'><name>guest</name><memory>262144</memory><vcpu>1</vcpu><os>"
        f"<type arch='x86_64' machine='pc'>hvm</type></os><devices>{''.join(interfaces)}</devices></domain>"
    )
    ctx = context(domain)
    ctx.launch = launch or Launch()
    assign_aliases(domain, ctx)
    return ctx


def lines(ctx: BuildContext, card: int = 0) -> list[str]:
    dev = ctx.domain.devices.interfaces[card]
    return [" ".join(switch.to_argv()) for switch in handler(dev).switches(dev, ctx)]


#: what libvirt 9.0 gave the running QEMU
BACKENDS = {
    "<interface type='user'/>": ['-netdev {"type":"user","id":"hostnet0"}'],
    "<interface type='user'><ip address='10.0.5.0' prefix='16'/></interface>": [
        '-netdev {"type":"user","net":"10.0.5.0/16","id":"hostnet0"}'
    ],
    "<interface type='user'><ip address='10.0.5.0'/></interface>": [
        '-netdev {"type":"user","net":"10.0.5.0","id":"hostnet0"}'
    ],
    "<interface type='internal'><source name='a'/></interface>": ['-netdev {"type":"user","id":"hostnet0"}'],
    "<interface type='ethernet'><tune><sndbuf>0</sndbuf></tune></interface>": [
        '-netdev {"type":"tap","fd":"3","sndbuf":0,"id":"hostnet0"}'
    ],
    "<interface type='ethernet'><model type='virtio'/><driver queues='3'/></interface>": [
        '-netdev {"type":"tap","fds":"3:4:5","id":"hostnet0"}'
    ],
    "<interface type='ethernet'><model type='e1000'/><driver queues='3'/></interface>": [
        '-netdev {"type":"tap","fd":"3","id":"hostnet0"}'
    ],
    "<interface type='server'><source port='5'/></interface>": [
        '-netdev {"type":"socket","listen":":5","id":"hostnet0"}'
    ],
    "<interface type='client'><source address='1.2.3.4' port='5'/></interface>": [
        '-netdev {"type":"socket","connect":"1.2.3.4:5","id":"hostnet0"}'
    ],
    "<interface type='mcast'><source address='230.0.0.1' port='5'/></interface>": [
        '-netdev {"type":"socket","mcast":"230.0.0.1:5","id":"hostnet0"}'
    ],
    "<interface type='udp'><source address='a' port='5'><local address='b' port='6'/></source></interface>": [
        '-netdev {"type":"socket","udp":"a:5","localaddr":"b:6","id":"hostnet0"}'
    ],
    (
        "<interface type='vhostuser'><source type='unix' path='/s' mode='client'>"
        "<reconnect enabled='yes' timeout='3'/></source><model type='virtio'/><driver queues='2'/>"
        "</interface>"
    ): [
        "-chardev socket,id=charnet0,path=/s,reconnect=3",
        '-netdev {"type":"vhost-user","chardev":"charnet0","queues":2,"id":"hostnet0"}',
    ],
    "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>": [
        "-add-fd set=0,fd=3,opaque=/dev/vhost-vdpa-0",
        '-netdev {"type":"vhost-vdpa","vhostdev":"/dev/fdset/0","id":"hostnet0"}',
    ],
}


@pytest.mark.parametrize("text", list(BACKENDS))
def test_backends(text: str) -> None:
    assert lines(guest(text))[:-1] == BACKENDS[text]


def props(text: str) -> dict[str, object]:
    ctx = guest(text)
    found: dict[str, object] = json.loads(lines(ctx)[-1].removeprefix("-device "))
    return found


def test_queues_of_a_virtio_card() -> None:
    text = "<interface type='ethernet'><model type='virtio'/><driver queues='{}'/></interface>"
    assert {"mq": True, "vectors": 8}.items() <= props(text.format(3)).items()
    assert not {"mq", "vectors"} & set(props(text.format(1)))


def test_queues_need_a_backend_that_has_them() -> None:
    ctx = guest("<interface type='user'><model type='virtio'/><driver queues='3'/></interface>")
    with pytest.raises(
        ConfigUnsupported, match="multiqueue is not supported for network interfaces of type user"
    ):
        lines(ctx)


def test_each_vdpa_device_has_a_set_of_its_own() -> None:
    text = "<interface type='vdpa'><source dev='/dev/vhost-vdpa-{}'/></interface>"
    ctx = guest(text.format(0) + text.format(1))
    found = lines(ctx) + lines(ctx, 1)
    assert "-add-fd set=1,fd=4,opaque=/dev/vhost-vdpa-1" in found
    assert '-netdev {"type":"vhost-vdpa","vhostdev":"/dev/fdset/1","id":"hostnet1"}' in found


def test_types_without_a_backend_are_refused() -> None:
    with pytest.raises(ConfigUnsupported, match="'null' is not supported"):
        lines(guest("<interface type='null'/>"))


class Vhost(Launch):
    """A launch that opened the kernel's backend."""

    def has(self, name: str) -> bool:
        return name == "vhostfd-net0"


def test_vhost_is_used_when_it_was_opened() -> None:
    text = "<interface type='bridge'><source bridge='b'/><model type='virtio'/></interface>"
    assert lines(guest(text, launch=Vhost()))[0] == (
        '-netdev {"type":"tap","fd":"3","vhost":true,"vhostfd":"4","id":"hostnet0"}'
    )


@pytest.mark.parametrize(
    ("type", "model", "driver", "wanted", "required"),
    [
        ("kvm", "virtio", "", True, False),
        ("kvm", "virtio", "<driver name='vhost'/>", True, True),
        ("kvm", "virtio", "<driver name='qemu'/>", False, False),
        ("kvm", "e1000", "", False, False),
        ("qemu", "virtio", "<driver name='vhost'/>", False, False),
    ],
)
def test_vhost_is_wanted_for_virtio_under_kvm(
    type: str, model: str, driver: str, wanted: bool, required: bool
) -> None:
    ctx = guest(f"<interface type='ethernet'><model type='{model}'/>{driver}</interface>", type=type)
    (dev,) = ctx.domain.devices.interfaces
    (tap,) = handler(dev).resources(dev, ctx)
    assert isinstance(tap, TapResource)
    assert (tap.name, tap.queues, tap.vhost, tap.vhost_required) == ("net0", 1, wanted, required)


def test_plain_properties_are_read_back() -> None:
    ctx = guest(
        "<interface type='ethernet'><model type='virtio'/><driver txmode='timer' rx_queue_size='512'>"
        "<host csum='off'/><guest ecn='on'/></driver><mtu size='1400'/></interface>"
    )
    (dev,) = ctx.domain.devices.interfaces
    made = device_props(dev, ctx)
    read = type(dev)()
    VIRTIO_NET.read(read, made)
    assert VIRTIO_NET.render(read, ctx) == VIRTIO_NET.render(dev, ctx)
    assert not {"tx", "csum", "guest_ecn", "host_mtu"} & set(made)


def test_native_keeps_model_mac_and_script() -> None:
    ctx = guest(
        "<interface type='network'><mac address='52:54:00:00:00:09'/><source network='n'/><script path='/s'/>"
        "<model type='virtio'/><driver queues='3'/><mtu size='1400'/><boot order='1'/></interface>"
    )
    plain = native(ctx.domain.devices.interfaces[0]).to_xml().replace("\n", "").replace("  ", "")
    assert plain == (
        "<interface type='ethernet'><mac address='52:54:00:00:00:09'/><script path='/s'/>"
        "<model type='virtio'/></interface>"
    )


def test_made_up_names_are_not_kept() -> None:
    ctx = guest(
        "<interface type='ethernet'><target dev='vnet3'/></interface>",
        "<interface type='ethernet'><target dev='vnet3' managed='no'/></interface>",
        "<interface type='ethernet'><target dev='mine'/></interface>",
    )
    assert [dev.target.dev for dev in ctx.domain.devices.interfaces] == [None, "vnet3", "mine"]


def test_a_port_gets_the_identities_nobody_chose() -> None:
    ctx = guest("<interface type='bridge'><source bridge='b'/><virtualport type='openvswitch'/></interface>")
    port = ctx.domain.devices.interfaces[0].virtualport
    assert port is not None
    assert port.parameters is not None
    assert port.parameters.interfaceid is not None
    assert port.parameters.instanceid is None


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("<filterref filter='clean-traffic'/>", "network filter 'clean-traffic'"),
    ],
)
def test_what_the_host_would_have_to_do_is_not_passed_over_in_silence(inside: str, message: str) -> None:
    ctx = guest(f"<interface type='bridge'><source bridge='b'/>{inside}</interface>")
    (dev,) = ctx.domain.devices.interfaces
    with pytest.raises(ConfigUnsupported, match=message):
        handler(dev).prepare(dev, ctx)
