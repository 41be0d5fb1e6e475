"""Virtual ports and VLANs: what plain bridges cannot do, and Open vSwitch by its own command."""

import shutil
import subprocess

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.netdev import Vlan

_DEADLINE = 10.0
#: seconds ovs-vsctl may wait for the switch
_OVS_TIMEOUT = "5"


def check(plugged: Interface) -> None:
    """Refuse VLANs and virtual ports that the kind of connection, or the host, has not.

    Raises ConfigUnsupported.
    """
    port = plugged.virtualport.type if plugged.virtualport is not None else None
    if plugged.vlan is not None and not (plugged.type == InterfaceType.BRIDGE and port == "openvswitch"):
        raise ConfigUnsupported(
            f"interface {plugged.mac.address} - vlan tag not supported for this connection type",
            domain=ErrorDomain.DOMAIN,
        )
    if port is None:
        return
    if port == "openvswitch":
        if plugged.type == InterfaceType.DIRECT:
            raise ConfigUnsupported(
                "<virtualport type='openvswitch'> not supported for network type 'direct'; "
                "plug the interface into the switch's bridge"
            )
        if shutil.which("ovs-vsctl") is None:
            raise ConfigUnsupported(
                f"interface {plugged.mac.address} asks for <virtualport type='openvswitch'>, and this host "
                "has no Open vSwitch (ovs-vsctl is not installed)"
            )
        return
    raise ConfigUnsupported(
        f"interface {plugged.mac.address} asks for <virtualport type='{port}'>, which needs a "
        f"{'Midonet agent' if port == 'midonet' else 'switch and a card that speak it'}; that is not "
        "supported on this host"
    )


def add(bridge: str, name: str, plugged: Interface) -> None:
    """Make a tap a port of an Open vSwitch bridge. Blocking. Raises InternalError."""
    port = plugged.virtualport
    parameters = port.parameters if port is not None else None
    ids = {"attached-mac": plugged.mac.address, "iface-status": "active"}
    if parameters is not None:
        ids["iface-id"] = parameters.interfaceid
    words = ["--", "--if-exists", "del-port", name, "--", "add-port", bridge, name, *_tags(plugged.vlan)]
    for key, value in ids.items():
        if value:
            words += ["--", "set", "Interface", name, f'external-ids:{key}="{value}"']
    if parameters is not None and parameters.profileid:
        words += ["--", "set", "Interface", name, f'external-ids:port-profile="{parameters.profileid}"']
    _vsctl(words, f"Unable to add port {name} to OVS bridge {bridge}")


def remove(name: str) -> None:
    """Take a port out of its Open vSwitch bridge. Blocking. Raises InternalError."""
    if shutil.which("ovs-vsctl") is not None:
        _vsctl(["--", "--if-exists", "del-port", name], f"Unable to delete port {name} from OVS")


def _tags(vlan: Vlan | None) -> list[str]:
    if vlan is None:
        return []
    native = next((tag for tag in vlan.tags if tag.native_mode is not None), None)
    words: list[str] = []
    if native is not None:
        words += [f"vlan_mode=native-{native.native_mode}", f"tag={native.id}"]
    if vlan.trunk:
        words.append("trunk=" + ",".join(str(tag.id) for tag in vlan.tags))
    elif native is None and vlan.tags:
        words.append(f"tag={vlan.tags[0].id}")
    return words


def _vsctl(words: list[str], failure: str) -> None:
    command = ["ovs-vsctl", f"--timeout={_OVS_TIMEOUT}", *words]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=_DEADLINE, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InternalError(f"{failure}: {error}") from error
    if done.returncode:
        raise InternalError(f"{failure}: {done.stderr.decode(errors='replace').strip()}")
