"""Command lines of the corpus imported: none unaccounted for, every document taken, libvirt's meaning kept.

The corpus lies beside the project; where it is missing these tests are skipped. That it is the same
machine is asked of QEMU itself, for a few lines: all of them take minutes.
"""

import collections
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import QvirtError
from qvirt.model.devices.chardev import CharDevice
from qvirt.model.devices.disk import Disk
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.build import build
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.by_hand import by_hand
from qvirt.qemu.dialect.older import build_older
from qvirt.qemu.dialect.plain import plain_caps
from qvirt.qemu.importer import Imported, Surroundings, emulator_target, import_command_line
from qvirt.qemu.importer.text import emulator_first
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import CommandLine
from qvirt.record import replace
from tests.support import pure

DIFFERENCES = Path(__file__).parent.parent / "data/import-differences.json"
#: lines on which QEMU is asked, and what of each is the daemon's own doing
ASKED: dict[str, frozenset[str]] = {
    "rw-6867be7ae9": frozenset(),  # a board
    "rw-377646dbf4": frozenset(),  # a PC of another manager
    "rw-a4401cf093": frozenset(),  # a PC with everything by default
    "rw-d248a24f07": frozenset(),  # block nodes; a network card by default
    "rw-99dfd101c9": frozenset(),  # a Q35 with flash
    "rw-5fa0b781eb": frozenset(),  # ARM's virt with a TPM, which is handed on
    "rw-0caa084ac0": frozenset(),  # -no-reboot
    "rw-dec8fb2ce6": frozenset(),  # NUMA nodes without memory
    "rw-3f6ba8fb65": frozenset({"devices"}),  # -readconfig; a USB companion names its master by our name
    # a tap is opened by the daemon, and block nodes take the place of drives
    "rw-4067df8cc0": frozenset({"set-aside (compared as text)", "drive-host-options"}),
}


#: lines written by hand again, where nothing at all may differ: how images are read, taps, -usb, vfio
PLAIN = ("rw-d5f9ba4b00", "rw-80945dcc67", "rw-a39e6ea6f2", "rw-cfe35daf7b", "rw-218ea26cb7")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_gpu(domain: Domain) -> BuildContext:
    """Return the stored facts on a host whose GPU can draw for a guest: some lines ask for that."""
    ctx = pure.context(domain)
    return replace(ctx, host=replace(ctx.host, render_nodes=("/dev/dri/renderD128",)))


def imported(case: dict[str, Any], *, offers_kvm: bool = True) -> Imported | None:
    """Import a case; None where the facts of its emulator are not stored, or are another release's."""
    env, argv = emulator_first(case.get("env") or {}, case["argv"])
    target, kvm = emulator_target(argv[0])
    if not (pure.CAPS / f"qemu-7.2-{target}.json").exists():
        return None
    caps = pure.caps(target)
    read = (case.get("files") or {}).get
    around = Surroundings(caps=caps, context=with_gpu, kvm=kvm, offers_kvm=offers_kvm, read=read)
    return import_command_line(argv, env, around)


def test_every_argument_is_accounted_for_and_every_document_is_taken(conformance: Path) -> None:
    count = 0
    for case in read(conformance / "native/command-lines.jsonl"):
        made = imported(case)
        if made is None:
            continue
        count += 1
        assert made.account.unaccounted() == [], case["id"]
        domain = parse_domain(made.domain.to_xml(), validate=True)
        complete(domain, with_gpu(domain))
        parse_domain(domain.to_xml(), validate=True)
    assert count > 90


def test_libvirts_own_cases_keep_their_meaning(conformance: Path) -> None:
    """Each difference from what libvirt said has its reason in the data file, and each reason is needed."""
    reasons = [re.compile(pattern) for pattern, _ in json.loads(DIFFERENCES.read_text())]
    used: set[int] = set()
    for case in read(conformance / "native/libvirt-argv-to-xml.jsonl"):
        made = imported(case)
        assert made is not None
        try:
            expected = parse_domain(
                re.sub(r"(?<!<name>)(?=  <uuid>)", _name(case["xml"]), case["xml"], count=1)
            )
        except QvirtError:
            continue  # a product id of zero, which libvirt itself refuses today
        theirs, ours = facts(expected), facts(made.domain)
        for difference in (
            *(f"- {fact}" for fact in theirs - ours),
            *(f"+ {fact}" for fact in ours - theirs),
        ):
            place = next((at for at, reason in enumerate(reasons) if reason.fullmatch(difference)), None)
            assert place is not None, (case["name"], case["release"], difference)
            used.add(place)
    assert used == set(range(len(reasons)))


@pytest.mark.parametrize("id", ASKED)
def test_qemu_builds_the_same_machine(id: str, conformance: Path, tmp_path: Path) -> None:
    differing = _differences(id, conformance, tmp_path, build)
    assert differing.keys() == ASKED[id], differing


@pytest.mark.parametrize("id", PLAIN)
def test_what_is_written_by_hand_again_is_the_same(id: str, conformance: Path, tmp_path: Path) -> None:
    assert _differences(id, conformance, tmp_path, _by_hand) == {}


def _by_hand(domain: Domain, ctx: BuildContext) -> CommandLine:
    plain = plain_caps(ctx.caps)
    ctx = replace(ctx, caps=plain)
    return build_older(domain, ctx, plain, lambda switches: by_hand(switches, ctx))


def _differences(
    id: str, conformance: Path, tmp_path: Path, write: Callable[[Domain, BuildContext], CommandLine]
) -> dict[str, Any]:
    """Ask QEMU whether a line and what its document is written as make the same machine."""
    case = next(x for x in read(conformance / "native/command-lines.jsonl") if x["id"] == id)
    target, _ = emulator_target(case["argv"][0])
    if shutil.which(f"qemu-system-{target}") is None:
        pytest.skip(f"qemu-system-{target} is not installed")
    made = imported(case, offers_kvm=False)
    assert made is not None or not (pure.CAPS / f"qemu-7.2-{target}.json").exists()
    if made is None:
        pytest.skip(f"no stored facts of qemu-system-{target}")
    domain = parse_domain(made.domain.to_xml())
    ctx = with_gpu(domain)
    complete(domain, ctx)
    assign_aliases(domain, ctx)
    ctx.launch.id = 1
    command = write(domain, ctx)
    sides = (tmp_path / "a", tmp_path / "b")
    original = [word for word in case["argv"] if word.lstrip("-") != "no-shutdown"]
    sides[0].write_text(
        json.dumps({"argv": original, "env": case.get("env") or {}, "files": case.get("files")})
    )
    sides[1].write_text(json.dumps({"argv": _comparable(command.argv()), "env": command.env}))
    asked = subprocess.run(
        [sys.executable, str(conformance / "native/compare_machines.py"), "--json", *map(str, sides)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert asked.stdout, asked.stderr
    answer = json.loads(asked.stdout)
    return {name: said for name, said in answer["facets"].items() if said["status"] == "differs"}


def _comparable(argv: list[str]) -> list[str]:
    """Leave out what every managed guest has and no machine shows; spell audio as the comparison reads it."""
    made: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "-no-shutdown":
            continue
        if word in ("-object", "-audiodev"):
            value = next(words)
            if "masterKey0" in value:
                continue
            if word == "-audiodev":
                said = json.loads(value) if value.startswith("{") else None
                value = value if said is None else f"{said['driver']},id={said['id']}"
            made += [word, value]
            continue
        made.append(word)
    return made


# ------------------------------------------------------------ what a document means


def facts(domain: Domain) -> collections.Counter[str]:
    """Return what a document says, a line for each fact."""
    found: collections.Counter[str] = collections.Counter()

    def add(*words: object) -> None:
        found[" ".join(str(word) for word in words)] += 1

    os, devices = domain.os, domain.devices
    add("type", domain.type)
    add("memory", domain.memory.value if domain.memory else None)
    add("vcpu", domain.vcpu.value if domain.vcpu else 1)
    add("arch", os.type.arch)
    add("boot", *(boot.dev for boot in os.boots))
    add("clock", domain.clock.offset if domain.clock else "utc")
    add("acpi", domain.features.acpi)
    add("on_reboot", domain.on_reboot or "restart")
    for name in ("name", "uuid"):
        if getattr(domain, name) not in (None, "unnamed"):
            add(name, getattr(domain, name))
    for name in ("kernel", "initrd", "cmdline", "dtb"):
        if getattr(os, name):
            add(name, getattr(os, name))
    if os.loader:
        add("loader", os.loader.path)
    for timer in domain.clock.timers if domain.clock else ():
        add("timer", timer.name, timer.present, timer.tickpolicy)
    if domain.cpu:
        if domain.cpu.model:
            add("cpu", domain.cpu.model.name, domain.cpu.mode)
        if domain.cpu.topology:
            add(
                "topology",
                domain.cpu.topology.sockets,
                domain.cpu.topology.cores,
                domain.cpu.topology.threads,
            )
        for cell in domain.cpu.numa.cells if domain.cpu.numa else ():
            add("cell", cell.id, sorted(cell.cpus or ()), cell.memory)
    for name in ("hyperv", "kvm", "pvspinlock", "pmu"):
        feature = getattr(domain.features, name)
        if feature is not None:
            add(name, " ".join(feature.to_xml().split()))
    for disk in devices.disks:
        _disk(disk, add)
    for nic in devices.interfaces:
        script = nic.script.path if nic.script else None
        bridge = nic.source.bridge if nic.source else None
        add("interface", nic.type, nic.model.type, nic.mac.address, script, nic.target.dev, bridge)
    for kind in ("serials", "parallels"):
        for dev in getattr(devices, kind):
            _character(kind, dev, add)
    for shown in devices.graphics:
        where = [listen.address or listen.socket for listen in shown.listens] or shown.listen
        add(
            "graphics",
            shown.type,
            shown.port,
            shown.display,
            shown.xauth,
            shown.fullscreen,
            where,
            shown.keymap,
        )
    for video in devices.videos:
        add("video", video.model.type)
    for sound in devices.sounds:
        add("sound", sound.model)
    for dev in devices.inputs:
        add("input", dev.type, dev.bus)
    for host in devices.hostdevs:
        add("hostdev", host.type, " ".join(host.source.to_xml().split()) if host.source else None)
    for watchdog in devices.watchdogs:
        add("watchdog", watchdog.model, watchdog.action)
    for shared in devices.filesystems:
        add("filesystem", shared.source.dir if shared.source else None)
    for balloon in devices.memballoons:
        add("balloon", balloon.model)
    words = [arg.value for arg in domain.qemu_commandline.args] if domain.qemu_commandline else []
    if "-uuid" in words:
        place = words.index("-uuid")
        del words[place : place + 2]
    if words:
        add("args", *words)
    return found


def _disk(disk: Disk, add: Any) -> None:
    source = disk.source
    where = None
    if source is not None:
        hosts = ",".join(f"{host.name}:{host.port}" for host in source.hosts)
        where = source.local_path or f"{source.protocol}:{source.name}:{hosts}"
    only = "ro" if disk.readonly else ""
    add("disk", disk.device, disk.target.bus, disk.target.dev, disk.type, where, *([only] if only else []))
    for name in ("type", "cache", "io", "error_policy", "rerror_policy"):
        if getattr(disk.driver, name):
            add("disk", disk.name, name, getattr(disk.driver, name))
    if disk.serial:
        add("disk", disk.name, "serial", disk.serial)


def _character(kind: str, dev: CharDevice, add: Any) -> None:
    source = dev.sources[0] if dev.sources else None
    other = (source.path or f"{source.mode} {source.host}:{source.service}") if source else None
    add(kind, dev.type, other, dev.protocols[0].type if dev.protocols else None)


def _name(xml: str) -> str:
    return "" if "<name>" in xml else "  <name>unnamed</name>\n"
