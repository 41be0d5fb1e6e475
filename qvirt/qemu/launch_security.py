"""``<launchSecurity>`` and seccomp: what protects the guest from the host, and the host from QEMU."""

from collections.abc import Iterable, Iterator

from qvirt.errors import ConfigUnsupported
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_s390
from qvirt.qemu.switches import KeyValue, Netdev, Object, Switch

#: where SEV's firmware is reached
SEV_DEVICE = "/dev/sev"

_CERTIFICATE = "dh_cert.base64"
_SESSION = "session.base64"
_HASHES = "object-add/arg-type/+sev-guest/kernel-hashes"


def check_launch_security(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for protection this QEMU or host cannot give."""
    security = domain.launch_security
    if security is None:
        return
    if security.type == "sev" and not (
        ctx.caps.has_object("sev-guest") and ctx.caps.accel("kvm").sev is not None
    ):
        raise ConfigUnsupported("SEV launch security is not supported with this QEMU binary")
    if security.type == "sev" and security.kernel_hashes is not None and not ctx.caps.schema_has(_HASHES):
        raise ConfigUnsupported("SEV measured direct kernel boot is not supported with this QEMU binary")
    if security.type == "s390-pv" and not (is_s390(domain) and ctx.caps.has_object("s390-pv-guest")):
        raise ConfigUnsupported("S390 PV launch security is not supported with this QEMU binary")


def owner_files(domain: Domain) -> dict[str, str]:
    """Return what the guest's owner gives to SEV, by the names of the files it is handed over in."""
    security = domain.launch_security
    if security is None or security.type != "sev":
        return {}
    given = {_CERTIFICATE: security.dh_cert, _SESSION: security.session}
    return {name: text for name, text in given.items() if text is not None}


def launch_security_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the object that protects the guest's memory."""
    security = domain.launch_security
    if security is None:
        return
    if security.type == "s390-pv":
        yield Object({"qom-type": "s390-pv-guest", "id": "lsec0"}, origin=security)
        return
    facts = ctx.caps.accel("kvm").sev or {}
    props: dict[str, JsonValue] = {
        "qom-type": "sev-guest",
        "id": "lsec0",
        "cbitpos": security.cbitpos if security.cbitpos is not None else facts.get("cbitpos"),
        "reduced-phys-bits": security.reduced_phys_bits
        if security.reduced_phys_bits is not None
        else facts.get("reduced-phys-bits"),
        "policy": security.policy,
    }
    if security.dh_cert is not None:
        props["dh-cert-file"] = f"{ctx.domain_dir}/{_CERTIFICATE}"
    if security.session is not None:
        props["session-file"] = f"{ctx.domain_dir}/{_SESSION}"
    props["kernel-hashes"] = security.kernel_hashes
    yield Object(props, origin=security)


def sandbox_switches(ctx: BuildContext) -> Iterator[Switch]:
    """Yield the system call filter QEMU puts on itself."""
    if not ctx.settings.seccomp_sandbox:
        return
    deny: dict[str, JsonValue] = dict.fromkeys(
        ("obsolete", "elevateprivileges", "spawn", "resourcecontrol"), "deny"
    )
    yield KeyValue("sandbox", {"enable": True, **deny}, "enable")


def spawning(switches: Iterable[Switch]) -> Iterator[Switch]:
    """Yield the switches; where QEMU itself runs programs for its netdevs, the filter lets it.

    A start runs them before QEMU is there, so its filter kills a QEMU that tries.
    """
    listed = list(switches)
    spawns = any(isinstance(switch, Netdev) and _spawns(switch) for switch in listed)
    for switch in listed:
        if spawns and isinstance(switch, KeyValue) and switch.name == "sandbox":
            switch = KeyValue("sandbox", {**switch.props, "spawn": "allow"}, switch.implied)
        yield switch


def _spawns(netdev: Netdev) -> bool:
    """Tell whether QEMU runs a program for a netdev: a bridge's helper, a tap's scripts, named or its own."""
    props = netdev.props
    if props["type"] == "tap" and not {"fd", "fds"} & props.keys():
        return any(props.get(name) != "no" for name in ("script", "downscript"))
    return props["type"] == "bridge"
