"""firewalld's zones: the zone a network asks for, or the one made for virtual networks. Blocking."""

import logging
import shutil
import subprocess
from pathlib import Path

from qvirt.errors import InternalError
from qvirt.model.network import ForwardMode, Network

log = logging.getLogger(__name__)

#: the zone that packages of libvirt bring for its networks
LIBVIRT_ZONE = "libvirt"
_PID_FILE = Path("/run/firewalld.pid")
_DEADLINE = 10.0


def is_running() -> bool:
    """Tell whether firewalld manages this host's firewall."""
    try:
        return Path(f"/proc/{int(_PID_FILE.read_text(encoding='ascii'))}").exists()
    except (OSError, ValueError):
        return False


def answers() -> bool:
    """Tell whether firewalld takes orders."""
    try:
        _firewall_cmd("--state")
    except InternalError:
        return False
    return True


def enter(network: Network) -> None:
    """Put a network's bridge into its zone. Raises InternalError where it asks for one.

    A network that asks for none gets the zone made for such, where firewalld runs; without that zone
    firewalld may keep the guests from DHCP and DNS, which is logged.
    """
    bridge, zone = network.bridge_name or "", network.bridge.zone if network.bridge is not None else None
    if zone is not None:
        if not is_running():
            raise InternalError(
                f"zone {zone} requested for network {network.name} but firewalld is not active"
            )
        _firewall_cmd(f"--zone={zone}", f"--change-interface={bridge}")
    elif network.mode != ForwardMode.OPEN and is_running():
        try:
            _firewall_cmd(f"--zone={LIBVIRT_ZONE}", f"--change-interface={bridge}")
        except InternalError as error:
            log.warning(
                "network '%s': firewalld may keep guests from DHCP and DNS, as bridge '%s' is in no zone of "
                "its own (%s); give the network one: <bridge zone='trusted'/>",
                *(network.name, bridge, error),
            )


def _firewall_cmd(*words: str) -> None:
    program = shutil.which("firewall-cmd")
    if program is None:
        raise InternalError("firewalld runs, but its command 'firewall-cmd' is not there")
    try:
        done = subprocess.run(
            [program, "-q", *words],
            check=False,
            capture_output=True,
            timeout=_DEADLINE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InternalError(f"cannot run 'firewall-cmd {' '.join(words)}': {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise InternalError(f"firewalld refuses 'firewall-cmd {' '.join(words)}': {said}")
