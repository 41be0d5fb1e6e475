"""Every AppArmor rule of a guest, and what is the reason for it: a part of `explain`."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from qvirt.errors import QvirtError
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.base import HandedResource, Resource
from qvirt.runtime.helpers import helper_kinds
from qvirt.security.apparmor.profiles import Profile
from qvirt.security.apparmor.rules import FilesText, common_rules, is_quiet, rules_for

#: a rule, and why it is there
Explained = tuple[str, str]

_NO_DEVICE = "no device of the document"


def rules(
    definition: Domain,
    ctx: BuildContext,
    resources: Iterable[Resource],
    profile: Profile,
    reason: Callable[[Resource], str],
    *,
    runs: bool,
) -> Iterator[Explained]:
    """Yield them: of a guest that runs those in force, else those of a start. Blocking.

    reason: says what a resource is for.
    """
    dirs = ctx.dirs
    common = common_rules(definition.name, ctx.domain_dir, lib=dirs.lib, run=dirs.run, log=dirs.log)
    opened = list(resources)
    wanted = FilesText()
    wanted.grant(common)
    # whether these have rules depends on the daemon that starts the guest
    asked = [resource for resource in opened if not isinstance(resource, HandedResource)]
    wanted.grant(rules_for(asked, ctx.domain_dir))
    why: dict[str, list[str]] = {path: ["every guest"] for path in common}
    for resource in opened:
        for path in rules_for([resource]):
            why.setdefault(path, []).append(reason(resource))
    text = wanted
    if runs:
        try:
            text = profile.rules()
        except QvirtError as error:
            yield f"those of a start, as {error}", ""
    yield from _granted(text, why)
    helpers = {
        name: reason(Resource(dev))
        for name, dev in helper_kinds.owners(definition.devices.all()).items()
        if runs or helper_kinds.is_confined(dev)
    }
    for name, inner in text.helper_rules.items():
        for rule in inner:
            yield f"{name}: {rule}", f"helper of {helpers.get(name, _NO_DEVICE)}"
    if not runs:
        for name, about in helpers.items():
            yield f"profile {name}", f"helper of {about}; its rules are made at a start"
    yield from _profile(profile)


def _granted(text: FilesText, why: Mapping[str, list[str]]) -> Iterator[Explained]:
    for path, perms in text.rules.items():
        about = ", ".join(dict.fromkeys(why.get(path, [_NO_DEVICE])))
        yield f'"{path}" {perms},', about
        if is_quiet(path, perms):
            yield f'deny "{path}" w,', f"{about}; keeps no record"
    for line in text.others:
        yield line, "the daemon" if " peer=" in line else "not the daemon's"


def _profile(profile: Profile) -> Iterator[Explained]:
    """Yield what the profile has by itself, or will have of the template."""
    try:
        path, lines = profile.source()
    except QvirtError as error:
        yield str(error), ""
        return
    for number, line in enumerate(lines, 1):
        rule = line.strip().replace("LIBVIRT_TEMPLATE", profile.name)
        is_comment = rule.startswith("#") and not rule.startswith("#include")
        if rule and not is_comment and profile.files_path.name not in rule and rule not in ("{", "}"):
            yield rule, f"every guest ('{path}', line {number})"
