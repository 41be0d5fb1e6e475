"""What a guest's QEMU may touch, and why: ``python -m qvirt.runtime.explain MODELS CONF``, document on stdin.

MODELS is what the capabilities document names, such as ``apparmor,dac=+64055:+64055``, CONF the daemon's
qemu.conf, in the folder that its instance has. For a guest that runs, whatever the kernel says of its process
and its control group, and AppArmor's files of its profile, stand beside what the document asks for. Prints a
line for each thing that may be touched: the kind, the access, what it is, and the element that is about it.
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from qvirt.drivers.network import plug
from qvirt.errors import QvirtError
from qvirt.host import bpf, cgroup, images
from qvirt.host.bpf import BLOCK, READ, WRITE, Rule
from qvirt.host.config import QemuConfig, read_config
from qvirt.host.emulators import EmulatorTable
from qvirt.model.devices.disk import Disk
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.context import BuildContext, Launch
from qvirt.qemu.devices.base import (
    DirectoryResource,
    FileResource,
    HandedResource,
    ListenResource,
    OpenResource,
    ReachedResource,
    Resource,
    TapResource,
    VsockResource,
)
from qvirt.qemu.devices.vsock import DEVICE as VSOCK
from qvirt.runtime import explain_apparmor
from qvirt.runtime.documents import Documents
from qvirt.runtime.life import launch
from qvirt.runtime.paths import Paths
from qvirt.security import devices
from qvirt.security.apparmor.profiles import Profile

_SETS = {"CapEff": "effective", "CapBnd": "bounding"}
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def explain(
    definition: Domain, ctx: BuildContext, models: dict[str, str], paths: Paths, acl: Sequence[str]
) -> Iterator[str]:
    """Yield the lines. Blocking.

    models: name -> base label, '' without. paths: of the instance. acl: the nodes that every guest gets.
    """
    pid = process_of(definition)
    yield from _labels(definition, models, pid)
    if pid:
        yield from _process(pid)
    plan = launch.survey(definition, ctx, [])
    opened = [*plan.opened, *_handed(definition)]
    for resource in (*opened, *plan.handed):
        yield from _resource(resource)
    label = next((label for label in definition.seclabels if label.model == "apparmor"), None)
    if "apparmor" in models and (label is None or label.type == "dynamic"):
        profile = Profile(paths.etc.parent / "apparmor.d/libvirt", definition.uuid or "")
        found = explain_apparmor.rules(definition, ctx, opened, profile, reason, runs=bool(pid))
        for rule, why in found:
            yield _line("rule", "apparmor", rule, why)
    yield from _nodes(plan.files, pid, acl)


def _handed(definition: Domain) -> list[Resource]:
    """Return the nodes that were made for the guest's interfaces."""
    found = ((interface, plug.node(interface)) for interface in definition.devices.interfaces)
    return [HandedResource(interface, node) for interface, node in found if node is not None]


def process_of(definition: Domain) -> int:
    """Return the process of a guest that runs here, 0 for none."""
    mark = f"\0-uuid\0{definition.uuid}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark in words and b"\0-name\0" in words:
                return int(entry.name)
    return 0


def _labels(definition: Domain, models: dict[str, str], pid: int) -> Iterator[str]:
    said = {label.model: label for label in definition.seclabels}
    for model, base in models.items():
        label = said.get(model)
        where = (
            f"<seclabel> (line {label.line})" if label is not None and label.line else "the model's default"
        )
        text = label.label if label is not None and label.label else base
        if label is not None and label.type == "none":
            text = "unconfined by this model"
        elif not text and model != "none":
            text = f"libvirt-{definition.uuid}" if model == "apparmor" else "made at start"
        if model != "none":
            yield _line("label", model, text or "", where)
    if pid:
        for name in ("attr/apparmor/current", "attr/current"):
            try:
                now = Path(f"/proc/{pid}/{name}").read_text(errors="replace").rstrip("\0\n")
            except OSError:
                continue
            yield _line("label", "kernel", now, f"process {pid}")
            return


def _process(pid: int) -> Iterator[str]:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    yield _line(
        "user", fields["Uid"].split()[1], f"gid {fields['Gid'].split()[1]}, groups {fields['Groups']}"
    )
    for key, name in _SETS.items():
        value = int(fields[key], 16)
        yield _line("capabilities", name, f"{value:#x}" if value else "none")
    yield _line("kernel", "no new rights", "yes" if fields.get("NoNewPrivs") == "1" else "no")
    yield _line("kernel", "system calls filtered", "yes" if fields.get("Seccomp") == "2" else "no")
    # whose namespaces are the host's; where nobody may ask, ours have to do
    host = 1 if _namespace(1, "mnt") else os.getpid()
    own = [name for name in sorted(_NAMESPACES) if _namespace(pid, name) != _namespace(host, name)]
    yield _line("namespaces", "own", ", ".join(own) or "none", "all others are the host's")


def _namespace(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except OSError:
        return ""


def _resource(resource: Resource) -> Iterator[str]:
    match resource:
        case FileResource():
            kind, what = "file", resource.path
            access = "read, write" if resource.writable else "read"
        case DirectoryResource():
            kind, access, what = "folder", "read, write", f"{resource.path}/"
        case ListenResource():
            kind, access, what = "socket", "accept", resource.path
        case ReachedResource():
            kind, access, what = "socket", "make, connect", resource.path
        case TapResource():
            kind, access, what = "tap", "handed over", f"{resource.queues} queue(s)"
        case HandedResource():
            kind, access, what = "file", "handed over", resource.path
        case OpenResource():
            kind, access, what = "file", "handed over", " or ".join(resource.paths)
        case VsockResource():
            kind, access, what = "file", "handed over", VSOCK
        case _:
            return
    yield _line(kind, access, what, reason(resource))


def _nodes(files: list[FileResource], pid: int, acl: Sequence[str]) -> Iterator[str]:
    """Yield the list of devices: what the kernel has, else what a start would ask for."""
    reasons: dict[tuple[int, int, int | None], str] = {}
    wanted: list[Rule] = []
    for rule in devices.default_rules(acl):
        wanted.append(rule)
        reasons[rule.type, rule.major, rule.minor] = "every guest (cgroup_device_acl)"
    for resource in files:
        found = devices.rule_of(resource.path, writable=resource.writable)
        if found is not None and (found.type, found.major, found.minor) not in reasons:
            wanted.append(found)
            reasons[found.type, found.major, found.minor] = f"{resource.path}, {reason(resource)}"
    in_force = _list_of(pid) if pid else None
    for rule in wanted if in_force is None else in_force:
        access = ", ".join(word for bit, word in ((READ, "read"), (WRITE, "write")) if rule.access & bit)
        node = (
            f"{'b' if rule.type == BLOCK else 'c'} {rule.major}:{'*' if rule.minor is None else rule.minor}"
        )
        why = reasons.get((rule.type, rule.major, rule.minor), "no device of the document")
        yield _line("node", access, node, why)


def _list_of(pid: int) -> list[Rule] | None:
    """Return the device list in force; None where it cannot be read."""
    path, mounts = cgroup.path_of_process(pid), cgroup.find_mounts()
    if not path or mounts.v2 is None:
        return None
    try:
        return bpf.rules(mounts.v2 / path)
    except OSError:
        return None


def reason(resource: Resource) -> str:
    """Return the element of the document a resource is for, with its line."""
    origin = resource.origin
    if isinstance(origin, Domain):
        return "the domain itself"
    name = f" '{origin.target.dev}'" if isinstance(origin, Disk) else ""
    return f"<{origin.tag}>{name} (line {origin.line})" if origin.line else f"<{origin.tag}>{name}"


def _line(kind: str, access: str, what: str, why: str = "") -> str:
    return f"{kind:<13}{access:<22}{what}" + (f"  [{why}]" if why else "")


def _paths(conf: Path) -> Paths:
    """Return the instance that has its qemu.conf there; a user's has none that counts."""
    if conf == Paths.system().conf:
        return Paths.system()
    etc = conf.parent.parent
    return Paths.root(etc.parent) if etc.name == "etc" else Paths.session(os.environ, os.getuid())


async def _main(models: str, conf: str) -> int:
    config, paths = QemuConfig(), _paths(Path(conf))
    try:
        config = read_config(Path(conf), privileged=paths.kind != "session")
    except QvirtError as error:
        print(f"{error}: what it says is taken for libvirt's defaults", file=sys.stderr)
    definition = parse_domain(Path("/dev/stdin").read_text())
    pairs = (word.partition("=") for word in models.split(",") if word)
    documents = Documents(paths, config, EmulatorTable(None))
    maker = Launch()
    maker.id = definition.id if definition.id is not None else -1
    ctx = documents.build_context(definition, await documents.caps_for(definition), maker)
    images.fill_in(images.look_below(definition.devices.disks))
    asked = {name: label for name, _, label in pairs}
    for line in dict.fromkeys(explain(definition, ctx, asked, paths, config.device_acl)):
        print(line)
    return 0


def main() -> int:
    """Print the lines; the status is 1 for a document that cannot be read or started."""
    try:
        return asyncio.run(_main(*sys.argv[1:]))
    except QvirtError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
