"""What the kernel has refused to a QEMU that complains, beside QEMU's own words, with what would allow it."""

import logging
import re
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import QvirtError
from qvirt.host import bpf
from qvirt.qmp.errors import QmpError
from qvirt.runtime.running import Running
from qvirt.security import devices
from qvirt.security.denials import Watch

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: an error that has a record in it, as `denials.Denial` is written
_RECORDED = re.compile(r"^(?:selinux|apparmor) refused ", re.MULTILINE)

#: QEMU's words where an open fails for a list of devices, which the kernel keeps no record of
_NOT_PERMITTED = re.compile(r"(?:'(/[^']+)'|“(/[^”]+)”): Operation not permitted")


def not_permitted(said: str) -> list[str]:
    """Return the paths QEMU could not open for want of permission, each once; GLib has quotes of its own."""
    return list(dict.fromkeys("".join(found) for found in _NOT_PERMITTED.findall(said)))


async def said_of(domain: "Domain", running: Running, watch: Watch, said: str) -> str:
    """Return the kernel's side of a failure: '' where it has none, else lines, each after a line feed."""
    found = await running.guard.refusals(watch, said)
    paths = not_permitted(said)
    if paths and domain.hypervisor.cgroups.confines_devices:
        look = partial(_not_listed, running, paths)
        found += await domain.hypervisor.files.run(f"devices of '{domain.name}'", look)
    return "".join(f"\n{line}" for line in found)


async def enriched(domain: "Domain", running: Running, watch: Watch, error: QmpError) -> QmpError:
    """Return QEMU's refusal of a command with the kernel's side of it."""
    try:
        text = await said_of(domain, running, watch, error.desc)
    except QvirtError:
        return error  # what QEMU said counts, whatever becomes of the search
    return QmpError(error.command, error.error_class, error.desc + text) if text else error


async def explain(domain: "Domain", running: Running, error: QvirtError) -> None:
    """Add to an error what of the security models may be behind it, where no record says it. Never fails."""
    said = str(error)
    if _RECORDED.search(said):
        return
    ask = partial(running.guard.suspicions, said)
    try:
        for found in await domain.hypervisor.files.run(f"labels of '{domain.name}'", ask):
            error.add(found)
    except (QvirtError, OSError) as failure:
        log.info("domain '%s': no reasons are known: %s", domain.name, failure)


def _not_listed(running: Running, paths: list[str]) -> list[str]:
    """Say which of these nodes the guest's list of devices leaves out. Blocking."""
    group = running.group
    if group is None or group.v2 is None:
        return []
    try:
        listed = bpf.rules(group.v2)
    except OSError:
        return []
    found = []
    for path in paths:
        rule = devices.rule_of(path)
        if rule is not None and not any(
            one.type == rule.type and one.major in (rule.major, None) and one.minor in (rule.minor, None)
            for one in listed
        ):
            found.append(
                f"The guest's list of devices has no entry for '{path}' ({rule.major}:{rule.minor}): "
                f'add "{path}" to cgroup_device_acl in qemu.conf to give it to every guest'
            )
    return found
