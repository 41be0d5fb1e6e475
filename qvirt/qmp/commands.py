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


async def _object(mon: Executor, command: str, arguments: Arguments | None = None) -> JsonObject:
    return as_object(await mon.execute(command, arguments), command)


async def _objects(mon: Executor, command: str, arguments: Arguments | None = None) -> list[JsonObject]:
    return as_objects(await mon.execute(command, arguments), command)


def _said(**arguments: JsonValue) -> dict[str, JsonValue]:
    """Arguments that were given, spelled with dashes."""
    return {
        name.rstrip("_").replace("_", "-"): value for name, value in arguments.items() if value is not None
    }


# ------------------------------------------------------------- run and power


class Status(Record):
    """Whether the CPUs run, and QEMU's RunState ("running", "paused", "prelaunch", "io-error", ...)."""

    running: bool
    status: str


async def query_status(mon: Executor, *, deadline: float = COMMAND_DEADLINE) -> Status:
    """Ask whether the guest's CPUs run."""
    value = as_object(await mon.execute("query-status", deadline=deadline), "query-status")
    return Status(value.get("running") is True, text_of(value, "status", "query-status"))


async def cont(mon: Executor) -> None:
    """Let the CPUs run."""
    await _run(mon, "cont")


async def stop(mon: Executor) -> None:
    """Stop the CPUs; returns after block devices are drained."""
    await _run(mon, "stop")


async def system_powerdown(mon: Executor) -> None:
    """Press the power button."""
    await _run(mon, "system_powerdown")


async def system_reset(mon: Executor) -> None:
    """Press the reset button."""
    await _run(mon, "system_reset")


async def system_wakeup(mon: Executor) -> None:
    """Wake the guest from S3."""
    await _run(mon, "system_wakeup")


async def quit(mon: Executor, *, deadline: float = COMMAND_DEADLINE) -> None:
    """End QEMU; the monitor closes soon after."""
    await mon.execute("quit", deadline=deadline)


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


class Cpu(Record):
    """One vCPU. properties: its place (socket-id, core-id, thread-id, node-id). cpu_state: s390x only."""

    index: int
    qom_path: str
    thread_id: int
    target: str
    properties: JsonObject
    cpu_state: str | None = None


async def query_cpus_fast(mon: Executor) -> list[Cpu]:
    """List the vCPUs that are there, with their threads, by index."""
    name = "query-cpus-fast"
    cpus: list[Cpu] = []
    for item in await _objects(mon, name):
        properties, state = item.get("props"), item.get("cpu-state")
        cpus.append(
            Cpu(
                int_of(item, "cpu-index", name),
                text_of(item, "qom-path", name),
                int_of(item, "thread-id", name),
                text_of(item, "target", name),
                properties if isinstance(properties, dict) else {},
                state if isinstance(state, str) else None,
            )
        )
    return sorted(cpus, key=lambda cpu: cpu.index)


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


async def query_balloon(mon: Executor) -> int:
    """Ask how much memory the guest has now, in bytes. Raises QmpError DeviceNotActive without a balloon."""
    return int_of(await _object(mon, "query-balloon"), "actual", "query-balloon")


async def balloon(mon: Executor, value: int) -> None:
    """Ask the guest to make do with `value` bytes."""
    await _run(mon, "balloon", {"value": value})


async def query_memory_devices(mon: Executor) -> list[JsonObject]:
    """List the memory devices (dimm, nvdimm, virtio-mem, virtio-pmem, sgx-epc)."""
    return await _objects(mon, "query-memory-devices")


async def query_memory_size_summary(mon: Executor) -> tuple[int, int]:
    """Ask for the bytes of base memory and of plugged memory."""
    name = "query-memory-size-summary"
    value = await _object(mon, name)
    plugged = value.get("plugged-memory")
    return int_of(value, "base-memory", name), plugged if isinstance(plugged, int) else 0


# --------------------------------------------------------------- object model


async def qom_get(mon: Executor, path: str, property: str) -> Json:
    """Read a property of an object."""
    return await mon.execute("qom-get", {"path": path, "property": property})


async def qom_set(mon: Executor, path: str, property: str, value: JsonValue) -> None:
    """Write a property of an object."""
    await _run(mon, "qom-set", {"path": path, "property": property, "value": value})


class Property(Record):
    """A property of an object or device; default only where QEMU tells it."""

    name: str
    type: str
    description: str | None = None
    default: Json = None


def _properties(items: list[JsonObject], command: str) -> list[Property]:
    return [
        Property(
            text_of(item, "name", command),
            text_of(item, "type", command),
            d if isinstance(d := item.get("description"), str) else None,
            item.get("default-value"),
        )
        for item in items
    ]


async def qom_list(mon: Executor, path: str) -> list[Property]:
    """List the properties (children are "child<TYPE>") of an object."""
    return _properties(await _objects(mon, "qom-list", {"path": path}), "qom-list")


async def qom_list_types(
    mon: Executor, *, implements: str | None = None, abstract: bool | None = None
) -> list[JsonObject]:
    """List object types: name, parent, abstract."""
    return await _objects(mon, "qom-list-types", _said(implements=implements, abstract=abstract))


async def qom_list_properties(mon: Executor, typename: str) -> list[Property]:
    """List the properties of an object type."""
    command = "qom-list-properties"
    return _properties(await _objects(mon, command, {"typename": typename}), command)


async def device_list_properties(mon: Executor, typename: str) -> list[Property]:
    """List the properties of a device type. Raises QmpError DeviceNotFound."""
    command = "device-list-properties"
    return _properties(await _objects(mon, command, {"typename": typename}), command)


async def object_add(mon: Executor, arguments: Arguments) -> None:
    """Make an object: qom-type, id and its properties, flat."""
    await _run(mon, "object-add", arguments)


async def object_del(mon: Executor, id: str) -> None:
    """Remove an object."""
    await _run(mon, "object-del", {"id": id})


async def device_add(mon: Executor, arguments: Arguments) -> None:
    """Plug a device: driver, id and its properties, flat."""
    await _run(mon, "device_add", arguments)


async def device_del(mon: Executor, id: str) -> None:
    """Ask the guest to let go of a device; DEVICE_DELETED tells when it has."""
    await _run(mon, "device_del", {"id": id})


# -------------------------------------------------------------- block devices


async def query_block(mon: Executor) -> list[JsonObject]:
    """List the block devices a guest sees, with what is inserted."""
    return await _objects(mon, "query-block")


async def query_named_block_nodes(mon: Executor, *, flat: bool | None = None) -> list[JsonObject]:
    """List the block nodes; flat leaves out their backing images."""
    return await _objects(mon, "query-named-block-nodes", _said(flat=flat))


async def query_blockstats(
    mon: Executor, *, query_nodes: bool | None = None, deadline: float = COMMAND_DEADLINE
) -> list[JsonObject]:
    """Read the counters of block devices, or of all nodes."""
    value = await mon.execute("query-blockstats", _said(query_nodes=query_nodes), deadline=deadline)
    return as_objects(value, "query-blockstats")


async def blockdev_add(mon: Executor, arguments: Arguments) -> None:
    """Open a block node: driver, node-name and the driver's options."""
    await _run(mon, "blockdev-add", arguments)


async def blockdev_del(mon: Executor, node_name: str) -> None:
    """Close a block node."""
    await _run(mon, "blockdev-del", {"node-name": node_name})


async def block_resize(mon: Executor, node_name: str, size: int) -> None:
    """Grow or shrink an image to `size` bytes."""
    await _run(mon, "block_resize", {"node-name": node_name, "size": size})


async def block_set_io_throttle(mon: Executor, arguments: Arguments) -> None:
    """Set the throttling of a device: id, bps, iops, group and the others."""
    await _run(mon, "block_set_io_throttle", arguments)


async def blockdev_open_tray(mon: Executor, id: str, *, force: bool | None = None) -> None:
    """Open the tray of a removable device."""
    await _run(mon, "blockdev-open-tray", _said(id=id, force=force))


async def blockdev_close_tray(mon: Executor, id: str) -> None:
    """Close the tray of a removable device."""
    await _run(mon, "blockdev-close-tray", {"id": id})


async def blockdev_remove_medium(mon: Executor, id: str) -> None:
    """Take the medium out of an open tray."""
    await _run(mon, "blockdev-remove-medium", {"id": id})


async def blockdev_insert_medium(mon: Executor, id: str, node_name: str) -> None:
    """Put a block node into an open tray."""
    await _run(mon, "blockdev-insert-medium", {"id": id, "node-name": node_name})


async def transaction(mon: Executor, actions: Sequence[Arguments]) -> None:
    """Do several block operations, or none of them."""
    await _run(mon, "transaction", {"actions": list(actions)})


async def query_jobs(mon: Executor) -> list[JsonObject]:
    """List the jobs (block jobs, blockdev-create, snapshots)."""
    return await _objects(mon, "query-jobs")


async def query_block_jobs(mon: Executor) -> list[JsonObject]:
    """List the block jobs with their progress."""
    return await _objects(mon, "query-block-jobs")


async def job_cancel(mon: Executor, id: str) -> None:
    """Cancel a job."""
    await _run(mon, "job-cancel", {"id": id})


async def job_dismiss(mon: Executor, id: str) -> None:
    """Forget a concluded job."""
    await _run(mon, "job-dismiss", {"id": id})


# ----------------------------------------------------------------- migration


async def query_migrate(mon: Executor, *, deadline: float = COMMAND_DEADLINE) -> JsonObject:
    """Read the state and counters of the migration."""
    return as_object(await mon.execute("query-migrate", deadline=deadline), "query-migrate")


async def migrate(mon: Executor, uri: str, **options: JsonValue) -> None:
    """Start an outgoing migration (also save and dump) to a URI."""
    await _run(mon, "migrate", _said(uri=uri, **options))


async def migrate_incoming(mon: Executor, uri: str) -> None:
    """Start to listen for an incoming migration."""
    await _run(mon, "migrate-incoming", {"uri": uri})


async def migrate_cancel(mon: Executor) -> None:
    """Cancel the migration."""
    await _run(mon, "migrate_cancel")


async def migrate_continue(mon: Executor, state: str) -> None:
    """Go on with a migration that waits in `state` ("pre-switchover")."""
    await _run(mon, "migrate-continue", {"state": state})


async def migrate_set_parameters(mon: Executor, parameters: Arguments) -> None:
    """Set migration parameters."""
    await _run(mon, "migrate-set-parameters", parameters)


async def query_migrate_parameters(mon: Executor) -> JsonObject:
    """Read the migration parameters."""
    return await _object(mon, "query-migrate-parameters")


async def migrate_set_capabilities(mon: Executor, capabilities: Mapping[str, bool]) -> None:
    """Switch migration capabilities on and off."""
    items: list[JsonValue] = [{"capability": name, "state": on} for name, on in capabilities.items()]
    await _run(mon, "migrate-set-capabilities", {"capabilities": items})


async def query_migrate_capabilities(mon: Executor) -> dict[str, bool]:
    """Read which migration capabilities are on."""
    name = "query-migrate-capabilities"
    return {
        text_of(item, "capability", name): item.get("state") is True for item in await _objects(mon, name)
    }


# ------------------------------------------------- characters, displays, nets


async def query_chardev(mon: Executor) -> dict[str, str]:
    """Map the label of each chardev to its file name ("pty:/dev/pts/3", "disconnected:...")."""
    name = "query-chardev"
    return {
        text_of(item, "label", name): text_of(item, "filename", name) for item in await _objects(mon, name)
    }


async def chardev_add(mon: Executor, id: str, backend: Arguments) -> str | None:
    """Make a chardev; returns the pty's path when it is one."""
    value = await _object(mon, "chardev-add", {"id": id, "backend": backend})
    pty = value.get("pty")
    return pty if isinstance(pty, str) else None


async def chardev_remove(mon: Executor, id: str) -> None:
    """Remove a chardev."""
    await _run(mon, "chardev-remove", {"id": id})


async def query_vnc(mon: Executor) -> JsonObject:
    """Ask about the first VNC server and its clients."""
    return await _object(mon, "query-vnc")


async def query_vnc_servers(mon: Executor) -> list[JsonObject]:
    """Ask about all VNC servers."""
    return await _objects(mon, "query-vnc-servers")


async def query_spice(mon: Executor) -> JsonObject:
    """Ask about the SPICE server and its clients."""
    return await _object(mon, "query-spice")


async def set_password(mon: Executor, protocol: str, password: str, *, connected: str | None = None) -> None:
    """Set the password of "vnc" or "spice"; connected: "keep", "fail" or "disconnect"."""
    await _run(mon, "set_password", _said(protocol=protocol, password=password, connected=connected))


async def expire_password(mon: Executor, protocol: str, time: str) -> None:
    """Set when the password ends: "now", "never", "+SECONDS" or Unix time."""
    await _run(mon, "expire_password", {"protocol": protocol, "time": time})


async def add_client(
    mon: Executor, protocol: str, fd: int, *, skipauth: bool, tls: bool | None = None
) -> None:
    """Give a connected socket to a display server."""
    name = "qvirt-add-client"
    await getfd(mon, name, fd)
    await _run(mon, "add_client", _said(protocol=protocol, fdname=name, skipauth=skipauth, tls=tls))


async def query_rx_filter(mon: Executor, name: str | None = None) -> list[JsonObject]:
    """Ask what a guest's network card listens to."""
    return await _objects(mon, "query-rx-filter", _said(name=name))


async def netdev_add(mon: Executor, arguments: Arguments, fds: Sequence[int] = ()) -> None:
    """Make a network backend."""
    await mon.execute("netdev_add", arguments, fds=fds)


async def netdev_del(mon: Executor, id: str) -> None:
    """Remove a network backend."""
    await _run(mon, "netdev_del", {"id": id})


async def set_link(mon: Executor, name: str, up: bool) -> None:
    """Plug or pull the network cable."""
    await _run(mon, "set_link", {"name": name, "up": up})


# ---------------------------------------------------------------- descriptors


async def getfd(mon: Executor, fdname: str, fd: int) -> None:
    """Hand over a descriptor under a name, for the next command that uses it."""
    await mon.execute("getfd", {"fdname": fdname}, fds=(fd,))


async def closefd(mon: Executor, fdname: str) -> None:
    """Close a descriptor nobody used."""
    await _run(mon, "closefd", {"fdname": fdname})


async def add_fd(
    mon: Executor, fd: int, *, fdset_id: int | None = None, opaque: str | None = None
) -> tuple[int, int]:
    """Add a descriptor to a set; returns the set's id (path "/dev/fdset/ID") and QEMU's descriptor."""
    value = as_object(
        await mon.execute("add-fd", _said(fdset_id=fdset_id, opaque=opaque), fds=(fd,)), "add-fd"
    )
    return int_of(value, "fdset-id", "add-fd"), int_of(value, "fd", "add-fd")


async def remove_fd(mon: Executor, fdset_id: int, fd: int | None = None) -> None:
    """Remove a set, or one descriptor of it."""
    await _run(mon, "remove-fd", _said(fdset_id=fdset_id, fd=fd))


async def query_fdsets(mon: Executor) -> list[JsonObject]:
    """List the descriptor sets."""
    return await _objects(mon, "query-fdsets")


# ------------------------------------------------------- what this QEMU can do


async def query_version(mon: Executor) -> JsonObject:
    """Ask for QEMU's version."""
    return await _object(mon, "query-version")


async def query_kvm(mon: Executor) -> tuple[bool, bool]:
    """Ask whether KVM is in use, and whether it is built in."""
    value = await _object(mon, "query-kvm")
    return value.get("enabled") is True, value.get("present") is True


async def query_target(mon: Executor) -> str:
    """Ask for the architecture ("x86_64")."""
    return text_of(await _object(mon, "query-target"), "arch", "query-target")


async def query_machines(mon: Executor) -> list[JsonObject]:
    """List the machine types."""
    return await _objects(mon, "query-machines")


async def query_cpu_definitions(mon: Executor) -> list[JsonObject]:
    """List the CPU models with what keeps each from running here."""
    return await _objects(mon, "query-cpu-definitions")


async def query_cpu_model_expansion(mon: Executor, type: str, model: Arguments) -> JsonObject:
    """Expand a model ("static" or "full") into name and properties."""
    command = "query-cpu-model-expansion"
    value = await _object(mon, command, {"type": type, "model": model})
    return as_object(value.get("model"), command)


async def query_cpu_model_baseline(mon: Executor, modela: Arguments, modelb: Arguments) -> JsonObject:
    """Find the model both hosts can run."""
    command = "query-cpu-model-baseline"
    value = await _object(mon, command, {"modela": modela, "modelb": modelb})
    return as_object(value.get("model"), command)


async def query_cpu_model_comparison(mon: Executor, modela: Arguments, modelb: Arguments) -> JsonObject:
    """Compare two models: result, responsible-properties."""
    return await _object(mon, "query-cpu-model-comparison", {"modela": modela, "modelb": modelb})


async def query_qmp_schema(mon: Executor) -> list[JsonObject]:
    """Read the whole QAPI schema."""
    return await _objects(mon, "query-qmp-schema")


async def query_command_line_options(mon: Executor, option: str | None = None) -> list[JsonObject]:
    """List command line options with their parameters."""
    return await _objects(mon, "query-command-line-options", _said(option=option))


async def query_commands(mon: Executor) -> list[str]:
    """List the commands this QEMU has."""
    return [text_of(item, "name", "query-commands") for item in await _objects(mon, "query-commands")]


async def query_tpm_models(mon: Executor) -> list[str]:
    """List the TPM frontends."""
    return _texts(await mon.execute("query-tpm-models"), "query-tpm-models")


async def query_tpm_types(mon: Executor) -> list[str]:
    """List the TPM backends."""
    return _texts(await mon.execute("query-tpm-types"), "query-tpm-types")


async def query_gic_capabilities(mon: Executor) -> list[JsonObject]:
    """List the interrupt controllers of ARM: version, emulated, kernel."""
    return await _objects(mon, "query-gic-capabilities")


async def query_sev_capabilities(mon: Executor) -> JsonObject:
    """Ask what AMD SEV offers here."""
    return await _object(mon, "query-sev-capabilities")


async def query_sgx_capabilities(mon: Executor) -> JsonObject:
    """Ask what Intel SGX offers here."""
    return await _object(mon, "query-sgx-capabilities")


def _texts(value: Json, command: str) -> list[str]:
    if isinstance(value, list):
        return [as_text(item, command) for item in value]
    raise WireError(f"'{command}' answered {type(value).__name__} instead of a list")
