"""The live definition: what only a running QEMU knows (ptys, threads, channel states) brought into it."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qvirt.constants.domain_event import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventAgentLifecycleState,
)
from qvirt.errors import InternalError, OperationTimeout
from qvirt.model.devices.address import DimmAddress
from qvirt.model.devices.chardev import CharDevice
from qvirt.model.devices.device import Device
from qvirt.model.devices.memory import Memory, MemorySize
from qvirt.model.domain import Domain as Definition
from qvirt.qemu import cpu_live, vcpu_slots
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.devices.base import handler
from qvirt.qmp.client import COMMAND_DEADLINE
from qvirt.qmp.commands import as_objects
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import Json, JsonObject, JsonValue, Reply, unsigned
from qvirt.record import Record
from qvirt.runtime.events import AgentLifecycle
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

#: how QEMU names a pseudo terminal; no other path is taken from it, as clients are connected to it
_PTY = re.compile(r"pty:(/dev/pts/[0-9]+)", re.ASCII)

Call = tuple[str, dict[str, JsonValue] | None]


class Asked(Record):
    """What a new QEMU is asked and told. questions: the first of the calls; answers: to all of them."""

    questions: list[Call]
    calls: list[Call]
    answers: "list[asyncio.Future[Reply]]"

    def cancel(self) -> None:
        """Give up on what is not answered; a failure has been reported by other means."""
        for answer in self.answers:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()


def ask(domain: "Domain", running: Running) -> Asked:
    """Ask what a new QEMU has made, and set what its command line cannot say."""
    definition = running.definition
    questions: list[Call] = [("query-cpus-fast", None)]
    if any(True for _ in character_devices(definition)):
        questions.append(("query-chardev", None))
    if definition.devices.memory:
        questions.append(("query-memory-devices", None))
    steps = [*questions, *settings(domain, running)]
    if steps[-1][0] == "balloon":
        steps.append(("query-balloon", None))  # asking the guest to shrink is not yet a smaller guest
    return Asked(questions, steps, _submit(running, steps))


async def after_start(domain: "Domain", running: Running, asked: Asked) -> None:
    """Bring the answers into the live definition.

    The CPU takes another round trip, where it is the first of its kind.
    """
    definition = running.definition
    answers = await _answers(asked.calls, asked.answers)
    if asked.calls[-1][0] == "query-balloon":
        _take_balloon(definition, answers[-1])
    for (question, _), answer in zip(asked.questions, answers, strict=False):
        match question:
            case "query-cpus-fast":
                take_cpus(running, as_objects(answer.value, "query-cpus-fast"))
            case "query-chardev":
                _take_chardevs(domain, running, answer, booted=True)
            case _:
                _take_memories(definition, answer)
    await _look_at_cpu(domain.hypervisor, running, answers[0])
    running.touch()


async def after_plug(domain: "Domain", running: Running, devices: Sequence[Device]) -> None:
    """Ask what QEMU has made of devices that were plugged in."""
    if any(isinstance(dev, CharDevice) for dev in devices):
        (answer,) = await _ask(running, [("query-chardev", None)])
        _take_chardevs(domain, running, answer, booted=False)
    if any(isinstance(dev, Memory) for dev in devices):
        (answer,) = await _ask(running, [("query-memory-devices", None)])
        _take_memories(running.definition, answer)


async def _look_at_cpu(hv: "Hypervisor", running: Running, cpus: Reply) -> None:
    """Note what QEMU made of the CPU it was asked for. Raises OperationFailed where that will not do."""
    definition, caps = running.definition, running.caps
    asked = cpu_live.asked_model(definition)
    if asked is None or definition.cpu is None or caps is None:
        return
    if not caps.has_command("query-cpu-model-expansion"):
        return
    key = (id(caps), definition.type, definition.os.type.machine, json.dumps(asked))
    if key not in hv.cpus_seen:
        first = next(iter(as_objects(cpus.value, "query-cpus-fast")), None)
        if first is None:
            raise InternalError(f"QEMU of '{definition.name}' has no CPU")
        calls: list[Call] = [
            ("query-cpu-model-expansion", {"type": "full", "model": asked}),
            ("qom-get", {"path": str(first.get("qom-path")), "property": "unavailable-features"}),
        ]
        expanded, unavailable = await _ask(running, calls)
        hv.cpus_seen[key] = (caps, _features(expanded.value, unavailable.value))
    running.note_cpu(cpu_live.live_cpu(definition.cpu, hv.cpus_seen[key][1]))


def _features(expanded: Json, unavailable: Json) -> cpu_live.CpuSeen:
    model = expanded.get("model") if isinstance(expanded, dict) else None
    props = model.get("props") if isinstance(model, dict) else None
    lacking = unavailable if isinstance(unavailable, list) else []
    on = [name for name, value in props.items() if value is True] if isinstance(props, dict) else []
    return cpu_live.cpu_seen(on, [str(name) for name in lacking])


async def after_reconnect(domain: "Domain", running: Running) -> str:
    """Ask what may have changed while nobody watched; returns QEMU's run state."""
    definition = running.definition
    questions: list[Call] = [("query-status", None), ("query-cpus-fast", None)]
    if any(True for _ in character_devices(definition)):
        questions.append(("query-chardev", None))
    has_balloon = any(balloon.model != "none" for balloon in definition.devices.memballoons)
    answers = await _ask(running, questions)
    status = answers[0].value
    take_cpus(running, as_objects(answers[1].value, "query-cpus-fast"))
    if len(questions) > 2:
        _take_chardevs(domain, running, answers[2], booted=False)
    if has_balloon:
        _take_balloon(definition, await running.submit("query-balloon"))
    running.touch()
    return str(status.get("status")) if isinstance(status, dict) else "running"


async def _ask(running: Running, calls: list[Call]) -> list[Reply]:
    """Send all at once and wait for all answers. Raises QmpError for the first that was refused."""
    return await _answers(calls, _submit(running, calls))


def _submit(running: Running, calls: list[Call]) -> "list[asyncio.Future[Reply]]":
    return [running.submit(command, arguments) for command, arguments in calls]


async def _answers(calls: list[Call], futures: "list[asyncio.Future[Reply]]") -> list[Reply]:
    try:
        async with asyncio.timeout(COMMAND_DEADLINE):
            replies = list(await asyncio.gather(*futures))
    except TimeoutError:
        asked = ", ".join(command for command, _ in calls)
        raise OperationTimeout(
            f"QEMU monitor did not answer all of {asked} within {COMMAND_DEADLINE:g} s"
        ) from None
    for (command, _), reply in zip(calls, replies, strict=True):
        if reply.error is not None:
            raise QmpError(command, *reply.error)
    return replies


def settings(domain: "Domain", running: Running) -> Iterator[Call]:
    """Yield what has to be set before the guest runs for the first time."""
    definition = running.definition
    if (
        definition.on_reboot == "destroy"
        and running.caps is not None
        and running.caps.has_command("set-action")
    ):
        yield "set-action", {"reboot": "shutdown"}
    ctx = domain.hypervisor.documents.context(definition, _caps(running))
    for device in definition.devices.all():
        for step in handler(device).settings(device, ctx):
            yield step.command, {**step.arguments}
    if any(balloon.model != "none" for balloon in definition.devices.memballoons):
        total, current = definition.memory, definition.current_memory
        if total is not None and current is not None and current.value < total.value:
            yield "balloon", {"value": current.value * 1024}


def _caps(running: Running) -> EmulatorCaps:
    if running.caps is None:
        raise InternalError(f"nothing is known yet of the emulator of '{running.definition.name}'")
    return running.caps


def character_devices(definition: Definition) -> Iterator[CharDevice]:
    """Yield the serial ports, parallel ports, consoles, channels and lines for redirected USB devices."""
    devices = definition.devices
    yield from devices.serials
    yield from devices.parallels
    yield from devices.consoles
    yield from devices.channels
    yield from devices.redirdevs


def take_cpus(running: Running, cpus: Sequence[JsonObject]) -> None:
    """Note each vCPU's thread, by the vCPU's number; 0 for one that is off. cpus: query-cpus-fast."""
    most = vcpu_slots.most(running.definition)
    found = {
        index: thread
        for cpu in cpus
        if isinstance(index := cpu.get("cpu-index"), int)
        and isinstance(thread := cpu.get("thread-id"), int)
        and 0 <= index < most
        and running.has_thread(thread)
    }
    threads: list[int] = []
    for number in range(max(found, default=-1) + 1):
        thread = found.get(number, 0)
        # TCG may run every vCPU in one thread, whose figures belong to none of them
        threads.append(thread if thread not in threads else 0)
    running.vcpu_threads = threads


def _take_memories(definition: Definition, reply: Reply) -> None:
    """Note where the memory modules are in the guest's address space, and what of them it has."""
    places: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for item in as_objects(reply.value, "query-memory-devices"):
        data = item.get("data")
        if isinstance(data, dict) and isinstance(address := data.get("addr"), int) and address >= 0:
            places[str(data.get("id"))] = address
        if item.get("type") == "virtio-mem" and isinstance(data, dict):
            size = data.get("size")
            if isinstance(size, int) and size >= 0:
                sizes[str(data.get("id"))] = size
    for module in definition.devices.memory:
        if isinstance(module.address, DimmAddress) and module.alias.name in places:
            module.address.base = places[module.alias.name]
        if module.alias.name in sizes:
            set_module(definition, module.alias.name, sizes[module.alias.name])


def set_module(definition: Definition, alias: str, size: int) -> None:
    """Note how much of a virtio-mem device the guest has, in bytes; more than there is is not believed."""
    for module in definition.devices.memory:
        if module.alias.name == alias and module.model == "virtio-mem":
            kib = min(-(-size // 1024), module.target.size.value)
            had = module.target.current.value if module.target.current is not None else 0
            module.target.current = MemorySize(value=kib, unit="KiB")
            if definition.current_memory is not None and definition.memory is not None:
                now = definition.current_memory.value + kib - had
                definition.current_memory.value = max(0, min(now, definition.memory.value))


def _take_chardevs(domain: "Domain", running: Running, reply: Reply, *, booted: bool) -> None:
    found: dict[str, Mapping[str, object]] = {}
    for item in as_objects(reply.value, "query-chardev"):
        found[str(item.get("label"))] = item
    definition = running.definition
    for device in character_devices(definition):
        alias = device.alias.name
        entry = found.get(f"char{alias}")
        if entry is None:
            continue
        pty = _PTY.fullmatch(str(entry.get("filename", "")))
        if device.type == "pty" and pty is not None:
            device.source.path = pty[1]
    for console in definition.devices.consoles:
        if console.type == "pty":
            serials = definition.devices.serials
            if console.target.type == "serial" and serials and serials[0].type == "pty":
                console.source.path = serials[0].path
            console.tty = console.path
    for channel in definition.devices.channels:
        entry = found.get(f"char{channel.alias.name}")
        if entry is None or channel.target.type != "virtio":
            continue
        set_channel_state(
            domain,
            running,
            str(channel.alias.name),
            connected=entry.get("frontend-open") is True,
            reason=ConnectDomainEventAgentLifecycleReason.DOMAIN_STARTED
            if booted
            else ConnectDomainEventAgentLifecycleReason.CHANNEL,
        )


def set_channel_state(
    domain: "Domain", running: Running, alias: str, *, connected: bool, reason: int
) -> None:
    """Note whether a program in the guest has a channel open; for the agent's, tell everybody."""
    for channel in running.definition.devices.channels:
        if channel.alias.name != alias or channel.target.type != "virtio":
            continue
        is_agent = channel.is_agent
        if is_agent:
            running.agent_connected = connected
            if not connected and running.agent is not None:
                running.agent.close()
                running.agent = None
        word = "connected" if connected else "disconnected"
        started = ConnectDomainEventAgentLifecycleReason.DOMAIN_STARTED
        if channel.target.state == word and reason != started:
            return
        channel.target.state = word
        running.touch()
        if is_agent:
            states = ConnectDomainEventAgentLifecycleState
            domain.publish(
                AgentLifecycle(domain.ref, states.CONNECTED if connected else states.DISCONNECTED, reason)
            )


def _take_balloon(definition: Definition, reply: Reply) -> None:
    if isinstance(reply.value, dict) and isinstance(actual := reply.value.get("actual"), int):
        set_balloon(definition, unsigned(actual))


def set_balloon(definition: Definition, actual: int) -> None:
    """Note the guest's memory, ``actual`` bytes; more than it has is not believed."""
    if definition.current_memory is not None:
        kib, total = -(-actual // 1024), definition.memory
        definition.current_memory.value = min(kib, total.value) if total is not None else kib
