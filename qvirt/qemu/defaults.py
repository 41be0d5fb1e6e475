"""Domain-level defaults, in libvirt's order: what it fills in outside ``<devices>``."""

from qvirt.errors import ConfigUnsupported, XmlDetail, XmlError
from qvirt.qemu.boot import default_boot, default_uuid
from qvirt.qemu.clock import default_clock
from qvirt.qemu.context import Context
from qvirt.qemu.cpu import default_cpu
from qvirt.qemu.features import default_features
from qvirt.qemu.loader import default_loader
from qvirt.qemu.machine import resolve_machine
from qvirt.qemu.memory import default_memory
from qvirt.qemu.numa import default_numa, default_numatune
from qvirt.qemu.smp import default_iothreads, default_vcpus


def domain_defaults(ctx: Context) -> None:
    """Fill in the domain-level defaults. Raises XmlError, ConfigUnsupported."""
    domain = ctx.domain
    default_uuid(ctx)
    if domain.genid == "":
        domain.genid = ctx.generate_uuid()
    _forget_live(ctx)
    resolve_machine(ctx)
    default_vcpus(ctx)
    default_iothreads(ctx)
    default_numatune(ctx)
    default_clock(ctx)
    domain.on_poweroff = domain.on_poweroff or "destroy"
    domain.on_reboot = domain.on_reboot or "restart"
    domain.on_crash = domain.on_crash or "destroy"
    domain.os.init = None  # a container's
    default_loader(ctx)
    _check_idmap(ctx)
    default_boot(ctx)
    default_numa(ctx)
    default_cpu(ctx)
    default_features(ctx)
    default_memory(ctx)
    if "seclabels" in domain.__dict__:
        _default_seclabels(ctx)


def _check_idmap(ctx: Context) -> None:
    idmap = ctx.domain.__dict__.get("idmap")
    if idmap is None or idmap.is_empty():
        return
    if not idmap.uids or not idmap.gids:
        raise ConfigUnsupported("uid and gid should be mapped both")
    if min(x.start for x in idmap.uids) or min(x.start for x in idmap.gids):
        raise ConfigUnsupported("You must map the root user of container")


def _default_seclabels(ctx: Context) -> None:
    """Name the security model of a single label that names none. Raises XmlError."""
    domain = ctx.domain
    labels = domain.seclabels
    seen: set[str] = set()
    for label in labels:
        if label.model is None and len(labels) > 1:
            raise XmlError("missing security model when using multiple labels")
        if label.model is not None and label.model in seen:
            raise XmlDetail(f"seclabel for model {label.model} is already provided")
        seen.add(label.model or "")
    for label in labels:
        if label.model == "none":
            label.type, label.relabel, label.label, label.baselabel = "none", None, None, None
    # a label that names its model and nothing else is what the domain gets anyway
    domain.seclabels = [label for label in labels if not label.is_default]
    if len(labels) != 1 or labels[0].model is not None:
        return
    label = labels[0]
    if label.type == "static" or label.baselabel is not None or label.is_bare:
        raise XmlError("missing security model in domain seclabel")
    label.model = ctx.host.security_models[0]
    if label.model == "none":
        label.type, label.relabel = "none", None


def _forget_live(ctx: Context) -> None:
    """Drop what only a running domain has."""
    domain = ctx.domain
    domain.id = None
    for label in domain.seclabels:
        label.imagelabel = None
        if label.type == "dynamic":
            label.label = None
