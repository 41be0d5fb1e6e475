"""What the guest's agent is asked. The guest is not trusted: each answer is checked for its shape."""

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvirt.constants.common import TypedParameterType
from qvirt.constants.domain import DomainGuestInfoTypes, DomainState
from qvirt.constants.network import IPAddrType
from qvirt.errors import (
    AgentUnresponsive,
    ArgumentUnsupported,
    InternalError,
    InvalidArg,
    OperationInvalid,
)
from qvirt.host.unix import connect
from qvirt.qmp.agent import COMMAND_DEADLINE, SYNC_DEADLINE, GuestAgent
from qvirt.qmp.errors import AgentError
from qvirt.qmp.wire import Json, JsonObject, JsonValue, unsigned
from qvirt.runtime.records import FsInfo, GuestInterface, IpAddress, Param
from qvirt.runtime.running import Running
from qvirt.xml.codecs import format_cpuset

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: REMOTE_DOMAIN_AUTHORIZED_SSH_KEYS_MAX
MOST_KEYS = 2048

UINT = TypedParameterType.UINT
ULLONG = TypedParameterType.ULLONG
STRING = TypedParameterType.STRING
BOOLEAN = TypedParameterType.BOOLEAN
INT = TypedParameterType.INT

#: more CPUs no machine has
_MOST_VCPUS = 1 << 16
#: seconds; no place on Earth is farther from UTC
_DAY = 86400

#: seconds for what waits for the guest's disks
SLOW = 300.0


async def agent_of(domain: "Domain", *, ignore_state: bool = False) -> GuestAgent:
    """Return the connected agent.

    Raises OperationInvalid, ArgumentUnsupported 'QEMU guest agent is not configured', AgentUnresponsive.
    """
    running = domain.need_running()
    if not ignore_state and domain.state != DomainState.RUNNING:
        raise OperationInvalid("domain is not running")
    path = _agent_path(running)
    if path is None:
        raise ArgumentUnsupported("QEMU guest agent is not configured")
    if not running.agent_connected:
        raise AgentUnresponsive("QEMU guest agent is not connected")
    if running.agent is None or running.agent.is_closed:
        async with running.agent_lock:
            if running.agent is None or running.agent.is_closed:
                running.agent = await GuestAgent.connect(
                    path, name=domain.name, making=running.guard.making(ours=True), by=connect
                )
    running.agent.sync_deadline = _sync_deadline(domain)
    return running.agent


def _sync_deadline(domain: "Domain") -> float:
    """A response timeout shorter than ours counts for the synchronisation, too."""
    seconds = domain.agent_timeout
    return max(float(seconds), 0.1) if 0 <= seconds < SYNC_DEADLINE else SYNC_DEADLINE


def _agent_path(running: Running) -> str | None:
    for channel in running.definition.devices.channels:
        if channel.is_agent:
            return channel.path if channel.type == "unix" else None
    return None


async def ask(
    domain: "Domain",
    command: str,
    arguments: dict[str, JsonValue] | None = None,
    *,
    deadline: float = COMMAND_DEADLINE,
) -> Json:
    """Ask the agent and return its answer, whose shape is still to be checked."""
    agent = await agent_of(domain)
    chosen = domain.agent_timeout
    return await agent.execute(command, arguments, deadline=float(chosen) if chosen > 0 else deadline)


async def _ask_object(domain: "Domain", command: str) -> JsonObject:
    return _object(await ask(domain, command), command)


async def _ask_list(domain: "Domain", command: str) -> list[JsonObject]:
    value = await ask(domain, command)
    if not isinstance(value, list):
        raise InternalError(f"Malformed {command} data array")
    return [_object(item, command) for item in value]


def _object(value: Json, command: str) -> JsonObject:
    if isinstance(value, dict):
        return value
    raise InternalError(f"{command} reply was missing return data")


def _int(value: Json, default: int = 0) -> int:
    return value if isinstance(value, int) else default


async def shutdown(domain: "Domain", mode: str) -> None:
    """Ask the agent to power off ("powerdown"), reboot or halt the guest."""
    agent = await agent_of(domain)
    # the agent reboots by itself; only a power-off by the button is turned into a reset
    domain.need_running().fake_reboot = False
    await agent.send("guest-shutdown", {"mode": mode})


async def time(domain: "Domain") -> tuple[int, int]:
    """Return the guest's clock: seconds, nanoseconds."""
    value = await ask(domain, "guest-get-time")
    if not isinstance(value, int) or value < 0:
        raise InternalError("malformed return value of guest-get-time")
    return divmod(value, 10**9)


async def set_time(domain: "Domain", seconds: int, nseconds: int, *, sync: bool) -> None:
    """Set the guest's clock; sync: from its hardware clock."""
    arguments: dict[str, JsonValue] | None = None if sync else {"time": seconds * 10**9 + nseconds}
    await ask(domain, "guest-set-time", arguments)
    running = domain.need_running()
    if running.caps is not None and running.caps.has_command("rtc-reset-reinjection"):
        await running.execute("rtc-reset-reinjection")


async def fs_freeze(domain: "Domain", mountpoints: Sequence[str]) -> int:
    """Freeze file systems; returns how many."""
    if mountpoints:
        value = await ask(
            domain, "guest-fsfreeze-freeze-list", {"mountpoints": list(mountpoints)}, deadline=SLOW
        )
    else:
        value = await ask(domain, "guest-fsfreeze-freeze", deadline=SLOW)
    return unsigned(value, 31)


async def fs_thaw(domain: "Domain") -> int:
    """Thaw all frozen file systems; returns how many."""
    return unsigned(await ask(domain, "guest-fsfreeze-thaw", deadline=SLOW), 31)


async def fs_trim(domain: "Domain", mountpoint: str | None, minimum: int) -> None:
    """Give unused blocks back to the host."""
    if mountpoint:
        raise InvalidArg("Specifying mount point is not supported for now")
    await ask(domain, "guest-fstrim", {"minimum": minimum}, deadline=SLOW)


async def fs_info(domain: "Domain") -> list[FsInfo]:
    """List the mounted file systems with the aliases of their disks."""
    found: list[FsInfo] = []
    places = _places(domain)
    for entry in await _ask_list(domain, "guest-get-fsinfo"):
        disks = entry.get("disk")
        found.append(
            FsInfo(
                str(entry.get("mountpoint", "")),
                str(entry.get("name", "")),
                str(entry.get("type", "")),
                tuple(name for disk in _objects(disks) for name in _targets(places, disk)),
            )
        )
    # libvirt turns the agent's order round
    return sorted(found, key=lambda fs: fs.mountpoint)


#: what tells a disk's place apart, by the kind of its address
_PLACES = {"pci": ("domain", "bus", "slot", "function"), "drive": ("bus", "target", "unit")}

_Places = dict[tuple[str | int, ...], list[str]]


def _places(domain: "Domain") -> _Places:
    """Return the target names of the guest's disks by their places."""
    places: _Places = {}
    for disk in domain.need_running().definition.devices.disks:
        kind = str(getattr(disk.address, "type", ""))
        if kind in _PLACES:
            place = (getattr(disk.address, key, None) or 0 for key in _PLACES[kind])
            places.setdefault((kind, *place), []).append(disk.name)
    return places


def _targets(places: _Places, disk: JsonObject) -> list[str]:
    """Return the target names of the disks that are where the agent says one is."""
    pci = disk.get("pci-controller")
    said = {"pci": pci if isinstance(pci, dict) else {}, "drive": disk}
    return [
        name
        for kind, keys in _PLACES.items()
        for name in places.get((kind, *(_int(said[kind].get(key), -1) for key in keys)), ())
    ]


def _objects(value: Json) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


async def hostname(domain: "Domain") -> str:
    """Return the guest's host name."""
    value = await _ask_object(domain, "guest-get-host-name")
    name = value.get("host-name")
    if not isinstance(name, str):
        raise InternalError("'host-name' missing in guest-get-host-name reply")
    return name


async def interfaces(domain: "Domain") -> list[GuestInterface]:
    """List the guest's network interfaces; aliases (eth0:1) are counted to their interface."""
    found: dict[str, tuple[str | None, list[IpAddress]]] = {}
    for entry in await _ask_list(domain, "guest-network-get-interfaces"):
        name = str(entry.get("name", "")).partition(":")[0]
        mac = entry.get("hardware-address")
        _, addresses = found.setdefault(name, (mac if isinstance(mac, str) else None, []))
        listed = entry.get("ip-addresses")
        for address in listed if isinstance(listed, list) else []:
            if not isinstance(address, dict) or not isinstance(address.get("ip-address"), str):
                raise InternalError(f"qemu agent didn't provide 'ip-address' field for interface '{name}'")
            kind = IPAddrType.IPV6 if address.get("ip-address-type") == "ipv6" else IPAddrType.IPV4
            addresses.append(IpAddress(kind, str(address["ip-address"]), unsigned(address.get("prefix"), 8)))
    return [GuestInterface(name, mac, tuple(addresses)) for name, (mac, addresses) in found.items()]


async def vcpu_count(domain: "Domain") -> int:
    """Count the guest's online CPUs."""
    return sum(1 for entry in await _ask_list(domain, "guest-get-vcpus") if entry.get("online"))


async def vcpus(domain: "Domain") -> list[Param]:
    """Describe the guest's CPUs as virDomainGetGuestVcpus does."""
    command = "guest-get-vcpus"
    present: set[int] = set()
    online: set[int] = set()
    offlinable: set[int] = set()
    for entry in await _ask_list(domain, command):
        number = _int(entry.get("logical-id"), -1)
        if not 0 <= number < _MOST_VCPUS:
            raise InternalError(f"{command} reply names a CPU {number}")
        present.add(number)
        if entry.get("online"):
            online.add(number)
        if entry.get("can-offline"):
            offlinable.add(number)
    return [
        Param("vcpus", STRING, ranges(present)),
        Param("online", STRING, ranges(online)),
        Param("offlinable", STRING, ranges(offlinable)),
    ]


def ranges(numbers: set[int]) -> str:
    """Write a set of CPUs as the shortest list of ranges."""
    return format_cpuset(frozenset(numbers))


async def set_user_password(domain: "Domain", user: str, password: str, *, encrypted: bool) -> None:
    """Set a user's password in the guest."""
    arguments: dict[str, JsonValue] = {
        "username": user,
        "password": base64.b64encode(password.encode()).decode("ascii"),
        "crypted": encrypted,
    }
    await ask(domain, "guest-set-user-password", arguments)


async def ssh_keys(domain: "Domain", user: str) -> list[str]:
    """Return the public keys that let somebody in by SSH as a user of the guest."""
    command = "guest-ssh-get-authorized-keys"
    keys = _object(await ask(domain, command, {"username": user}), command).get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InternalError(f"Malformed {command} data array")
    return [key for key in keys if isinstance(key, str)][:MOST_KEYS]


async def set_ssh_keys(
    domain: "Domain", user: str, keys: Sequence[str], *, append: bool, remove: bool
) -> None:
    """Set a user's public keys, add some, or take some away."""
    arguments: dict[str, JsonValue] = {"username": user, "keys": [*keys]}
    if remove:
        await ask(domain, "guest-ssh-remove-authorized-keys", arguments)
    else:
        await ask(domain, "guest-ssh-add-authorized-keys", {**arguments, "reset": not append})


async def command(domain: "Domain", text: str, deadline: int) -> str:
    """Run any JSON command; deadline: seconds, 0 not at all, or DomainQemuAgentCommandTimeout."""
    agent = await agent_of(domain)
    try:
        request = json.loads(text)
    except ValueError as error:
        raise InternalError(f"cannot parse json {text}: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("execute"), str):
        raise InternalError("missing 'execute' in the agent command")
    arguments = request.get("arguments")
    seconds: float | None = float(deadline)
    if deadline == -2:
        seconds = None
    elif deadline == -1:
        seconds = SYNC_DEADLINE
    if deadline == 0:
        await agent.send(request["execute"], arguments)
        return ""
    value = await agent.execute(request["execute"], arguments, deadline=seconds)
    return json.dumps({"return": value}, separators=(",", ":"))


# --------------------------------------------------------------------- guest info


async def guest_info(domain: "Domain", types: int) -> list[Param]:
    """Gather what virDomainGetGuestInfo reports; types: DomainGuestInfoTypes, 0 for all the agent knows."""
    names = DomainGuestInfoTypes
    groups = (
        (names.USERS, _users),
        (names.OS, _os),
        (names.TIMEZONE, _timezone),
        (names.HOSTNAME, _hostname),
        (names.FILESYSTEM, _filesystems),
        (names.DISKS, _disks),
        (names.INTERFACES, _interfaces),
    )
    known = 0
    for bit, _ in groups:
        known |= bit
    if types & ~known:
        raise InvalidArg(f"unsupported guest information types '{types:#x}'")
    await agent_of(domain)
    params: list[Param] = []
    for bit, gather in groups:
        if types and not types & bit:
            continue
        try:
            params += await gather(domain)
        except AgentError:
            if types:  # asked for by name, so its absence is an error
                raise
    return params


async def _users(domain: "Domain") -> list[Param]:
    users = await _ask_list(domain, "guest-get-users")
    params = [Param("user.count", UINT, len(users))]
    for i, entry in enumerate(users):
        params.append(Param(f"user.{i}.name", STRING, str(entry.get("user", ""))))
        if entry.get("domain") is not None:
            params.append(Param(f"user.{i}.domain", STRING, str(entry["domain"])))
        login = entry.get("login-time")
        milliseconds = unsigned(int(login * 1000)) if isinstance(login, (int, float)) else 0
        params.append(Param(f"user.{i}.login-time", ULLONG, milliseconds))
    return params


async def _os(domain: "Domain") -> list[Param]:
    info = await _ask_object(domain, "guest-get-osinfo")
    keys = ("id", "name", "pretty-name", "version", "version-id", "machine", "variant", "variant-id",
            "kernel-release", "kernel-version")  # fmt: skip
    return [Param(f"os.{key}", STRING, str(info[key])) for key in keys if key in info]


async def _timezone(domain: "Domain") -> list[Param]:
    info = await _ask_object(domain, "guest-get-timezone")
    params = []
    if isinstance(info.get("zone"), str):
        params.append(Param("timezone.name", STRING, str(info["zone"])))
    params.append(Param("timezone.offset", INT, max(-_DAY, min(_int(info.get("offset")), _DAY))))
    return params


async def _hostname(domain: "Domain") -> list[Param]:
    return [Param("hostname", STRING, await hostname(domain))]


async def _filesystems(domain: "Domain") -> list[Param]:
    items = await _ask_list(domain, "guest-get-fsinfo")
    params = [Param("fs.count", UINT, len(items))] if items else []
    places = _places(domain)
    for i, entry in enumerate(items):
        params.append(Param(f"fs.{i}.name", STRING, str(entry.get("name", ""))))
        params.append(Param(f"fs.{i}.mountpoint", STRING, str(entry.get("mountpoint", ""))))
        params.append(Param(f"fs.{i}.fstype", STRING, str(entry.get("type", ""))))
        for key in ("total-bytes", "used-bytes"):
            if isinstance(entry.get(key), int):
                params.append(Param(f"fs.{i}.{key}", ULLONG, unsigned(entry[key])))
        listed = _objects(entry.get("disk"))
        params.append(Param(f"fs.{i}.disk.count", UINT, len(listed)))
        for j, disk in enumerate(listed):
            names = _targets(places, disk)
            if names:
                params.append(Param(f"fs.{i}.disk.{j}.alias", STRING, names[0]))
            for key, name in (("serial", "serial"), ("dev", "device")):
                if isinstance(disk.get(key), str):
                    params.append(Param(f"fs.{i}.disk.{j}.{name}", STRING, str(disk[key])))
    return params


async def _disks(domain: "Domain") -> list[Param]:
    items = await _ask_list(domain, "guest-get-disks")
    params = [Param("disk.count", UINT, len(items))] if items else []
    places = _places(domain)
    for i, entry in enumerate(items):
        params.append(Param(f"disk.{i}.name", STRING, str(entry.get("name", ""))))
        params.append(Param(f"disk.{i}.partition", BOOLEAN, entry.get("partition") is True))
        below = entry.get("dependencies")
        listed = below if isinstance(below, list) else []
        if listed:
            params.append(Param(f"disk.{i}.dependency.count", UINT, len(listed)))
            params += [
                Param(f"disk.{i}.dependency.{j}.name", STRING, str(dep)) for j, dep in enumerate(listed)
            ]
        address = entry.get("address")
        if isinstance(address, dict):
            if isinstance(address.get("serial"), str):
                params.append(Param(f"disk.{i}.serial", STRING, str(address["serial"])))
            names = _targets(places, address)
            if names:
                params.append(Param(f"disk.{i}.alias", STRING, names[0]))
        if isinstance(entry.get("alias"), str):
            params.append(Param(f"disk.{i}.guest_alias", STRING, str(entry["alias"])))
    return params


async def _interfaces(domain: "Domain") -> list[Param]:
    found = await interfaces(domain)
    params = [Param("if.count", UINT, len(found))] if found else []
    for i, interface in enumerate(found):
        params.append(Param(f"if.{i}.name", STRING, interface.name))
        if interface.hwaddr is not None:
            params.append(Param(f"if.{i}.hwaddr", STRING, interface.hwaddr))
        params.append(Param(f"if.{i}.addr.count", UINT, len(interface.addrs)))
        for j, address in enumerate(interface.addrs):
            kind = "ipv6" if address.type == IPAddrType.IPV6 else "ipv4"
            params.append(Param(f"if.{i}.addr.{j}.type", STRING, kind))
            params.append(Param(f"if.{i}.addr.{j}.addr", STRING, address.addr))
            params.append(Param(f"if.{i}.addr.{j}.prefix", UINT, address.prefix))
    return params
