"""The QMP commands the driver uses, as typed functions over a monitor.

Thin on purpose: names and arguments are QEMU's (dashes as underscores), an answer whose shape the driver
reads often is a record, any other is JSON narrowed to its outer type. Deadlines are seconds.
"""

from collections.abc import Mapping, Sequence

from qvirt.qmp.client import COMMAND_DEADLINE, Executor
from qvirt.qmp.errors import WireError
from qvirt.qmp.wire import Json, JsonObject, JsonValue
from qvirt.record import Record

Arguments = Mapping[str, JsonValue]


# ------------------------------------------------------------------ narrowing


def as_object(value: Json, command: str) -> JsonObject:
    """Narrow an answer to an object; raises WireError."""
    if isinstance(value, dict):
        return value
    raise WireError(f"'{command}' answered {type(value).__name__} instead of an object")


def as_objects(value: Json, command: str) -> list[JsonObject]:
    """Narrow an answer to a list of objects; raises WireError."""
    if isinstance(value, list):
        return [as_object(item, command) for item in value]
    raise WireError(f"'{command}' answered {type(value).__name__} instead of a list")


def as_text(value: Json, command: str) -> str:
    """Narrow an answer to a string; raises WireError."""
    if isinstance(value, str):
        return value
    raise WireError(f"'{command}' answered {type(value).__name__} instead of a string")


def text_of(item: Mapping[str, Json], key: str, command: str) -> str:
    """Take a string that must be there; raises WireError."""
    value = item.get(key)
    if isinstance(value, str):
        return value
    raise WireError(f"'{command}' answered without '{key}'")


def int_of(item: Mapping[str, Json], key: str, command: str) -> int:
    """Take a number that must be there; raises WireError."""
    value = item.get(key)
    if isinstance(value, int):
        return value
    raise WireError(f"'{command}' answered without the number '{key}'")


async def _run(mon: Executor, command: str, arguments: Arguments | None = None) -> None:
    await mon.execute(command, arguments)


async def _objects(mon: Executor, command: str, arguments: Arguments | None = None) -> list[JsonObject]:
    return as_objects(await mon.execute(command, arguments), command)


def _said(**arguments: JsonValue) -> dict[str, JsonValue]:
    """Arguments that were given, spelled with dashes."""
    return {
        name.rstrip("_").replace("_", "-"): value for name, value in arguments.items() if value is not None
    }


# ------------------------------------------------------------- run and power


async def cont(mon: Executor) -> None:
    """Let the CPUs run."""
    await _run(mon, "cont")


async def system_powerdown(mon: Executor) -> None:
    """Press the power button."""
    await _run(mon, "system_powerdown")


async def system_reset(mon: Executor) -> None:
    """Press the reset button."""
    await _run(mon, "system_reset")


async def system_wakeup(mon: Executor) -> None:
    """Wake the guest from S3."""
    await _run(mon, "system_wakeup")


async def set_action(mon: Executor, **actions: str) -> None:
    """Set what happens on an event: reboot, shutdown, panic, watchdog."""
    await _run(mon, "set-action", _said(**actions))


async def inject_nmi(mon: Executor) -> None:
    """Send every CPU an NMI."""
    await _run(mon, "inject-nmi")


async def send_key(mon: Executor, qcodes: Sequence[int], hold_time: int | None = None) -> None:
    """Press keys (QEMU key numbers) together, for hold_time milliseconds."""
    keys: list[JsonValue] = [{"type": "number", "data": code} for code in qcodes]
    await _run(mon, "send-key", _said(keys=keys, hold_time=hold_time))


async def screendump(
    mon: Executor,
    filename: str,
    *,
    device: str | None = None,
    head: int | None = None,
    format: str | None = None,
) -> None:
    """Write a picture of a display to a file QEMU can open; PPM unless `format` ("png") is given."""
    await _run(mon, "screendump", _said(filename=filename, device=device, head=head, format=format))


async def human_monitor_command(
    mon: Executor, command_line: str, *, cpu_index: int | None = None, deadline: float = COMMAND_DEADLINE
) -> str:
    """Run a command of the human monitor and return what it prints."""
    arguments = _said(command_line=command_line, cpu_index=cpu_index)
    value = await mon.execute("human-monitor-command", arguments, deadline=deadline)
    return as_text(value, "human-monitor-command")


# ------------------------------------------------------------------ processors


async def query_hotpluggable_cpus(mon: Executor) -> list[JsonObject]:
    """List every vCPU slot of the machine: type, vcpus-count, props, qom-path when plugged."""
    return await _objects(mon, "query-hotpluggable-cpus")


class IoThread(Record):
    """One iothread: the id of its object and its kernel thread; poll times in ns."""

    id: str
    thread_id: int
    poll_max_ns: int = 0
    poll_grow: int = 0
    poll_shrink: int = 0


async def query_iothreads(mon: Executor) -> list[IoThread]:
    """List the iothreads."""
    name = "query-iothreads"
    return [
        IoThread(
            text_of(item, "id", name),
            int_of(item, "thread-id", name),
            *(
                int_of(item, key, name) if key in item else 0
                for key in ("poll-max-ns", "poll-grow", "poll-shrink")
            ),
        )
        for item in await _objects(mon, name)
    ]


# --------------------------------------------------------------------- memory


async def balloon(mon: Executor, value: int) -> None:
    """Ask the guest to make do with `value` bytes."""
    await _run(mon, "balloon", {"value": value})


# --------------------------------------------------------------- object model


async def qom_set(mon: Executor, path: str, property: str, value: JsonValue) -> None:
    """Write a property of an object."""
    await _run(mon, "qom-set", {"path": path, "property": property, "value": value})


async def object_del(mon: Executor, id: str) -> None:
    """Remove an object."""
    await _run(mon, "object-del", {"id": id})


async def device_del(mon: Executor, id: str) -> None:
    """Ask the guest to let go of a device; DEVICE_DELETED tells when it has."""
    await _run(mon, "device_del", {"id": id})


# -------------------------------------------------------------- block devices


async def query_block(mon: Executor) -> list[JsonObject]:
    """List the block devices a guest sees, with what is inserted."""
    return await _objects(mon, "query-block")


async def query_blockstats(
    mon: Executor, *, query_nodes: bool | None = None, deadline: float = COMMAND_DEADLINE
) -> list[JsonObject]:
    """Read the counters of block devices, or of all nodes."""
    value = await mon.execute("query-blockstats", _said(query_nodes=query_nodes), deadline=deadline)
    return as_objects(value, "query-blockstats")


# ------------------------------------------------------------------- displays


async def add_client(
    mon: Executor, protocol: str, fd: int, *, skipauth: bool, tls: bool | None = None
) -> None:
    """Give a connected socket to a display server."""
    name = "qvirt-add-client"
    await getfd(mon, name, fd)
    await _run(mon, "add_client", _said(protocol=protocol, fdname=name, skipauth=skipauth, tls=tls))


# ---------------------------------------------------------------- descriptors


async def getfd(mon: Executor, fdname: str, fd: int) -> None:
    """Hand over a descriptor under a name, for the next command that uses it."""
    await mon.execute("getfd", {"fdname": fdname}, fds=(fd,))
