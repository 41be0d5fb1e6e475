"""``qvirt net doctor NETWORK``: plug a probe into a network and say what works, what fails and what to do."""

import asyncio
import contextlib
import ipaddress
import json
import os
import secrets
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qvirt.cli.command import Command, CommandError, Context, place
from qvirt.errors import QvirtError

if TYPE_CHECKING:
    from lxml import etree

#: seconds for the whole examination
DEADLINE: Final = 60.0
#: seconds a new lease may take to show in the daemon's list
LEASE_WAIT: Final = 3.0
FORWARDED: Final = ("nat", "route", "open")


async def net(context: Context) -> None:
    """Do something to a network; so far there is only ``doctor``."""
    if context.args.action != "doctor":
        raise CommandError(f"unknown action '{context.args.action}', there is: doctor")
    if not await Doctor(context, str(context.args.network)).run():
        raise CommandError(f"network '{context.args.network}' does not work as it should")


class Doctor:
    """One examination of one network."""

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name
        self.healthy = True
        self._handle: Any = None

    def good(self, text: str) -> None:
        """Say what works."""
        self.context.output.line(f"ok    {text}")

    def bad(self, text: str, remedy: str) -> None:
        """Say what does not, and what to do."""
        self.healthy = False
        self.context.output.line(f"FAIL  {text}\n      {remedy}")

    def skip(self, text: str) -> None:
        """Say what was not tried."""
        self.context.output.line(f"-     {text}")

    async def run(self) -> bool:
        """Examine; returns whether all is well. Raises CommandError where nothing can be examined."""
        if os.geteuid() != 0:
            raise CommandError("only root can plug a probe into a network; run it with sudo")
        root = await self._document()
        if root is None:
            return False
        forward = root.find("forward")
        mode = forward.get("mode", "nat") if forward is not None else None
        bridge = root.find("bridge")
        name = bridge.get("name") if bridge is not None else None
        if name is None:
            raise CommandError(
                f"network '{self.name}' plugs its guests into devices of the host (forward mode '{mode}'); "
                "there is no bridge to put a probe into"
            )
        if not Path(f"/sys/class/net/{name}/bridge").exists():
            self.bad(
                f"bridge '{name}' is gone",
                f"something removed it; make it again: virsh net-destroy {self.name} && "
                f"virsh net-start {self.name}",
            )
            return False
        if not _is_up(name):
            self.bad(f"bridge '{name}' is down", f"bring it up: ip link set {name} up")
        self.good(f"network '{self.name}' is active on bridge '{name}'")
        await self._probe(root, name, mode)
        return self.healthy

    async def _document(self) -> "etree._Element | None":
        connection = await self.context.connection()
        try:
            if len(self.name) == 36 and self.name.count("-") == 4:
                found = await connection.call(
                    "NETWORK_LOOKUP_BY_UUID", uuid=bytes.fromhex(self.name.replace("-", ""))
                )
            else:
                found = await connection.call("NETWORK_LOOKUP_BY_NAME", name=self.name)
        except QvirtError as error:
            raise CommandError(f"failed to get network '{self.name}'", error) from error
        self._handle = found.net
        if not (await connection.call("NETWORK_IS_ACTIVE", net=self._handle)).active:
            self.bad(f"network '{self.name}' is not active", f"start it: virsh net-start {self.name}")
            return None
        text = (await connection.call("NETWORK_GET_XML_DESC", net=self._handle, flags=0)).xml
        # the command line starts without an XML library, as most commands need none
        from qvirt.xml.document import parse_element

        return parse_element(text, f"network '{self.name}'")

    # ------------------------------------------------------------------------ probe

    async def _probe(self, root: "etree._Element", bridge: str, mode: str | None) -> None:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        dns = root.find("dns")
        host, own, dhcp = _addresses(root)
        host6, own6, dhcp6 = _addresses6(root)
        way_out = _default_gateway() if mode in FORWARDED else None
        question = {
            "mac": mac,
            "dhcp": dhcp or mode == "bridge",
            "host": host,
            "address": own,
            "host6": host6,
            "address6": own6,
            "dns": dns is None or dns.get("enable") != "no",
            "beyond": way_out,
        }
        end = f"qvd{secrets.token_hex(4)}"
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "qvirt.cli.doctor.probe",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(DEADLINE):
                await self._talk(child, question, bridge, end, mode)
        except TimeoutError:
            self.bad("the probe did not come to an end", "the host is very busy; try again")
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
            # the namespace has taken its cable along, unless it was never put there
            await _run("ip", "link", "del", end)
        if dhcp6:
            self.skip("no lease by DHCPv6 was asked for; virsh net-dhcp-leases shows those of the guests")
        if host is None and host6 is None and mode != "bridge":
            self.skip("the host has no address here, so there is nothing to be asked")
        if mode in FORWARDED and way_out is None:
            self.skip("the way out was not tried: this host has no default route")

    async def _talk(
        self,
        child: asyncio.subprocess.Process,
        question: dict[str, Any],
        bridge: str,
        end: str,
        mode: str | None,
    ) -> None:
        stdin, stdout = child.stdin, child.stdout
        if stdin is None or stdout is None:
            raise CommandError("the probe has no pipes")
        ready = await _finding(stdout)
        if ready is None or not ready["ok"]:
            detail = (ready or {}).get("detail", "it ended")
            raise CommandError(f"cannot make a network namespace for the probe: {detail}")
        await self._cable(child.pid, bridge, end, question["mac"])
        stdin.write(json.dumps(question).encode() + b"\n")
        while (finding := await _finding(stdout)) is not None:
            if finding["step"] == "plugged":
                if question["dhcp"]:
                    await self._lease(question["mac"])
                stdin.write(b"\n")
            else:
                self._judge(finding, bridge, mode)

    async def _cable(self, pid: int, bridge: str, end: str, mac: str) -> None:
        """Lay a cable from the bridge into the probe's namespace."""
        for words in (
            ("link", "add", end, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", str(pid)),
            ("link", "set", end, "master", bridge),
            ("link", "set", end, "up"),
        ):
            code, said = await _run("ip", *words)
            if code:
                raise CommandError(f"cannot plug a probe into bridge '{bridge}': {said}")

    async def _lease(self, mac: str) -> None:
        """See whether the daemon knows of the lease."""
        connection = await self.context.connection()
        loop = asyncio.get_running_loop()
        until = loop.time() + LEASE_WAIT
        while True:
            try:
                answer = await connection.call(
                    "NETWORK_GET_DHCP_LEASES", net=self._handle, mac=mac, need_results=1, flags=0
                )
            except QvirtError as error:
                self.bad(f"the daemon cannot list leases: {error}", "look into its log")
                return
            if answer.leases:
                self.good("the lease shows in net-dhcp-leases")
                return
            if loop.time() > until:
                self.bad(
                    "the lease does not show in net-dhcp-leases",
                    "another DHCP server than this network's may have answered; look for one on the bridge",
                )
                return
            await asyncio.sleep(0.05)

    def _judge(self, finding: dict[str, Any], bridge: str, mode: str | None) -> None:
        step, ok = finding["step"], finding["ok"]
        match step:
            case "lease" if ok:
                self.good(f"lease of {finding['address']} from {finding['server']} ({finding['seconds']} s)")
            case "lease":
                self.bad(
                    f"no lease: {finding['detail']}",
                    f"is dnsmasq running (virsh net-info {self.name}), and does the host's firewall let UDP "
                    f"port 67 in from '{bridge}'? Look at: nft list ruleset",
                )
            case "host" if ok:
                self.good(f"the host answers at {finding['address']}")
            case "host":
                self.bad(
                    f"the host does not answer at {finding['address']}",
                    f"is the address on the bridge (ip addr show {bridge})? Does the host's firewall drop "
                    f"ICMP from '{bridge}'?",
                )
            case "name" if ok:
                self.good(f"{finding['server']} resolves {finding['name']}")
            case "name":
                got = "nothing" if finding["code"] is None else f"code {finding['code']} {finding['found']}"
                self.bad(
                    f"{finding['server']} does not resolve {finding['name']}: {got}",
                    f"does the host's firewall let UDP port 53 in from '{bridge}'? Look at: nft list ruleset",
                )
            case "way out" if ok:
                self.good(f"{finding['address']} answers through the host ({mode})")
            case "way out":
                back = (
                    "does the network beyond know the way back (mode 'route' needs a route to this network "
                    "there)? "
                    if mode in ("route", "open")
                    else ""
                )
                self.bad(
                    f"no way out: {finding['address']} does not answer",
                    f"{back}is forwarding on (sysctl net.ipv4.ip_forward), and does a chain of another "
                    f"firewall drop what comes from '{bridge}'? Look for 'hook forward' with 'policy drop' "
                    "in: nft list ruleset",
                )
            case _:
                self.bad(f"the probe failed: {finding.get('detail')}", "try again")


async def _finding(stdout: asyncio.StreamReader) -> dict[str, Any] | None:
    line = await stdout.readline()
    if not line:
        return None
    value: dict[str, Any] = json.loads(line)
    return value


async def _run(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 10.0)
    return process.returncode or 0, said.decode(errors="replace").strip()


def _is_up(name: str) -> bool:
    return bool(int(Path(f"/sys/class/net/{name}/flags").read_text(encoding="ascii"), 16) & 1)


def _addresses(root: "etree._Element") -> tuple[str | None, str | None, bool]:
    """Return the host's IPv4 address, one the probe may take where nobody gives it one, and whether one does.

    The probe takes the last of the network, which is given out last.
    """
    host: str | None = None
    own: str | None = None
    for ip in root.iterfind("ip"):
        if ip.get("family", "ipv4") != "ipv4" or not ip.get("address"):
            continue
        address = str(ip.get("address"))
        if ip.find("dhcp") is not None:
            return address, None, True
        if host is None:
            host = address
            length = ip.get("prefix") or ip.get("netmask") or "24"
            network = ipaddress.IPv4Network(f"{address}/{length}", strict=False)
            if network.num_addresses > 3:
                last = network.broadcast_address - 1
                last = last - 1 if str(last) == address else last
                own = f"{last}/{network.prefixlen}"
    return host, own, False


def _addresses6(root: "etree._Element") -> tuple[str | None, str | None, bool]:
    """Return the host's IPv6 address, one the probe may take, and whether addresses are given out.

    The probe takes one by chance, as guests do: 2001:db8::/64 has more than anybody can use.
    """
    for ip in root.iterfind("ip"):
        address = ip.get("address")
        if ip.get("family") != "ipv6" or not address:
            continue
        network = ipaddress.IPv6Network(f"{address}/{ip.get('prefix') or '64'}", strict=False)
        given = any(item.find("dhcp") is not None for item in root.iterfind("ip[@family='ipv6']"))
        if network.num_addresses < 4:
            return None, None, given
        taken = ipaddress.IPv6Address(address)
        own = taken
        while own in (taken, network.network_address):
            own = network.network_address + secrets.randbelow(network.num_addresses)
        return address, f"{own}/{network.prefixlen}", given
    return None, None, False


def _default_gateway() -> str | None:
    """Return the gateway of the host's default route."""
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        if words[1] == "00000000" and words[7] == "00000000" and int(words[2], 16):
            return socket.inet_ntoa(struct.pack("<I", int(words[2], 16)))
    return None


COMMANDS: Final = (
    Command(
        "net",
        "examine a virtual network: net doctor NETWORK",
        net,
        (place("action", "doctor"), place("network", "network name or uuid")),
    ),
)
