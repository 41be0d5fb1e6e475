"""The network called default: defined once, in an address range nobody uses; and the marks on disk.

Blocking. The range is 192.168.122.0/24, or the next free one: neither an address or route of the host nor
another network may touch it.
"""

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from qvirt.drivers.network.network import Network, NetworkFolders
from qvirt.host.persist import write_atomic

_MARK = "default-defined"
_AUTOSTARTED = "autostarted"
_DEADLINE = 5.0

_TEXT = """<network>
  <name>default</name>
  <forward mode='nat'/>
  <ip address='192.168.{n}.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.{n}.2' end='192.168.{n}.254'/>
    </dhcp>
  </ip>
</network>
"""


def choose(folders: NetworkFolders, networks: Sequence[Network]) -> str | None:
    """Return the document of the default network; None where it was defined before, or no range is free."""
    if (folders.lib / _MARK).exists():
        return None
    if any(network.name == "default" for network in networks):
        note(folders)
        return None
    used = used_by_host()
    for network in networks:
        for document in (network.definition, network.live):
            used += [ip.subnet for ip in document.ips if ip.version == 4] if document is not None else []
    for n in (*range(122, 255), *range(122)):
        wanted = ipaddress.ip_network(f"192.168.{n}.0/24")
        if not any(wanted.overlaps(other) for other in used if other.version == 4):
            return _TEXT.format(n=n)
    return None


def used_by_host() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the ranges that addresses and routes of the host are in; default routes are nobody's."""
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for words in (("addr",), ("route", "show", "table", "all")):
        try:
            done = subprocess.run(
                ["ip", "-j", "-4", *words], check=True, capture_output=True, timeout=_DEADLINE
            )
            rows = json.loads(done.stdout or b"[]")
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
        for row in rows:
            texts = [
                f"{item['local']}/{item['prefixlen']}" for item in row.get("addr_info", ()) if "local" in item
            ]
            if "dst" in row:
                texts.append(row["dst"])
            for text in texts:
                try:
                    subnet = ipaddress.ip_network(text, strict=False)
                except ValueError:
                    continue  # default
                if subnet.prefixlen:
                    found.append(subnet)
    return found


def note(folders: NetworkFolders) -> None:
    """Note that the default network was defined: a user who undefines it does not get it again."""
    write_atomic(folders.lib / _MARK, b"", 0o644)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def autostarted(folders: NetworkFolders) -> bool:
    """Tell whether this boot's autostarts are done; libvirt's mark is empty, ours names the boot."""
    try:
        return (folders.run / _AUTOSTARTED).read_text(encoding="ascii").strip() in ("", _boot_id())
    except FileNotFoundError:
        return False


def note_autostart(folders: NetworkFolders) -> None:
    """Note that this boot's autostarts are done."""
    write_atomic(folders.run / _AUTOSTARTED, f"{_boot_id()}\n".encode(), 0o644)
