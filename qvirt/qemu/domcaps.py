"""The domain capabilities document: what an emulator offers a machine type, from the emulator's own facts."""

from collections.abc import Callable, Iterable, Mapping

from qvirt.qemu.caps import AccelFacts, EmulatorCaps, Machine
from qvirt.qemu.cpumodels import PPC64_MODELS, X86, host_model, vendor_of
from qvirt.qemu.firmware import Supported
from qvirt.qemu.x86_models import MODEL_BY_NAME
from qvirt.record import Record, field
from qvirt.xml.writer import Writer


class DomainCapsHost(Record):
    """What the document says about the machine.

    arch: of the host, libvirt's name. kvm_max_vcpus: None without KVM. vfio: PCI devices can be assigned.
    tpm_versions: that the installed swtpm emulates ("1.2", "2.0"). sev_limits: how many guests SEV encrypts.
    """

    arch: str
    kvm_max_vcpus: int | None = None
    vfio: bool = False
    tpm_versions: tuple[str, ...] = ()
    sev_limits: Mapping[str, int] = field(default_factory=dict)


def domcaps(
    caps: EmulatorCaps, machine: Machine, virt_type: str, arch: str, firmware: Supported, host: DomainCapsHost
) -> str:
    """Write the document. virt_type: "kvm" or "qemu"; arch: the guest's; firmware: what fits the machine."""
    out = Writer()
    limit = machine.cpu_max
    if virt_type == "kvm" and host.kvm_max_vcpus:
        limit = min(limit, host.kvm_max_vcpus)
    with out.element("domainCapabilities"):
        out.leaf("path", caps.emulator)
        out.leaf("domain", virt_type)
        out.leaf("machine", machine.name)
        out.leaf("arch", arch)
        out.leaf("vcpu", max=limit)
        out.leaf("iothreads", supported=_yes(caps.has_object("iothread")))
        _os(out, firmware)
        _cpu(out, caps, virt_type, arch, host)
        sources = ["file", "anonymous", *(["memfd"] if caps.has_object("memory-backend-memfd") else [])]
        _group(out, "memoryBacking", {"sourceType": sources})
        with out.element("devices"):
            for name, enums in _devices(caps, machine, arch, host):
                _group(out, name, enums)
        _features(out, caps, virt_type, arch, host)
    return out.text()


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _enum(out: Writer, name: str, values: Iterable[str]) -> None:
    with out.element("enum", name=name):
        for value in values:
            out.leaf("value", value)


def _group(out: Writer, name: str, enums: dict[str, list[str]] | None) -> None:
    if enums is None:
        out.leaf(name, supported="no")
        return
    with out.element(name, supported="yes"):
        for enum, values in enums.items():
            _enum(out, enum, values)


def _os(out: Writer, firmware: Supported) -> None:
    with out.element("os", supported="yes"):
        _enum(out, "firmware", firmware.interfaces)
        with out.element("loader", supported="yes"):
            for image in firmware.images:
                out.leaf("value", image)
            _enum(out, "type", ("rom", "pflash"))
            _enum(out, "readonly", ("yes", "no"))
            _enum(out, "secure", ("yes", "no") if firmware.secure else ("no",))


# ------------------------------------------------------------------------ CPU


def _cpu(out: Writer, caps: EmulatorCaps, virt_type: str, arch: str, host: DomainCapsHost) -> None:
    facts = caps.accel(virt_type)
    is_native = arch == host.arch or (arch, host.arch) in {("i686", "x86_64"), ("armv7l", "aarch64")}
    model = host_model(caps, virt_type)
    named = _named_models(facts, arch)
    with out.element("cpu"):
        # libvirt asks for the property that makes it migratable on max-x86_64-cpu alone.
        migratable = ("off",) if arch == "i686" else ("on", "off")
        _mode(out, "host-passthrough", "hostPassthrough", virt_type == "kvm" and is_native, migratable)
        _mode(out, "maximum", "maximum", any(cpu.name == "max" for cpu in facts.cpus), ("on", "off"))
        if model is None:
            out.leaf("mode", name="host-model", supported="no")
        else:
            with out.element("mode", name="host-model", supported="yes"):
                out.leaf("model", model.model, fallback="forbid")
                if model.vendor:
                    out.leaf("vendor", model.vendor)
                for policy, features in (("require", model.require), ("disable", model.disable)):
                    for feature in features:
                        out.leaf("feature", policy=policy, name=feature)
        if not named:
            out.leaf("mode", name="custom", supported="no")
            return
        with out.element("mode", name="custom", supported="yes"):
            for name, usable, is_deprecated in named:
                vendor = "IBM" if name in PPC64_MODELS else vendor_of(name)
                deprecated = "yes" if is_deprecated else None
                out.leaf("model", name, usable=usable, deprecated=deprecated, vendor=vendor)


def _mode(out: Writer, name: str, prefix: str, is_supported: bool, migratable: Iterable[str]) -> None:
    if not is_supported:
        out.leaf("mode", name=name, supported="no")
        return
    with out.element("mode", name=name, supported="yes"):
        _enum(out, f"{prefix}Migratable", migratable)


def _named_models(facts: AccelFacts, arch: str) -> list[tuple[str, str, bool]]:
    """List the models a document may name: name, whether it runs here, whether QEMU advises against it."""
    ppc = {name.lower(): name for name in PPC64_MODELS}
    named: list[tuple[str, str, bool]] = []
    for cpu in facts.cpus:
        name: str | None = cpu.name
        if arch in X86:
            name = cpu.name if cpu.name in MODEL_BY_NAME else None
        elif arch.startswith("ppc64"):
            name = ppc.get(cpu.name.lower())
        elif cpu.name == "host":
            name = None
        if name:
            usable = "unknown" if cpu.usable is None else _yes(cpu.usable)
            named.append((name, usable, cpu.deprecated))
    return named


# -------------------------------------------------------------------- devices

_Enums = dict[str, list[str]] | None


def _there(caps: EmulatorCaps, table: Iterable[tuple[str, tuple[str, ...]]]) -> list[str]:
    """Return the names of which one of the device types is built in; no types: always."""
    return [name for name, types in table if not types or any(caps.has_device(type) for type in types)]


_GRAPHICS = ("sdl", "vnc", "spice", "egl-headless", "dbus")
_VIDEO = (
    ("vga", ("VGA",)),
    ("cirrus", ("cirrus-vga",)),
    ("vmvga", ("vmware-svga",)),
    ("qxl", ("qxl",)),
    ("virtio", ("virtio-gpu-pci", "virtio-gpu-ccw", "virtio-gpu-device")),
    ("none", ()),
    ("bochs", ("bochs-display",)),
    ("ramfb", ("ramfb",)),
)
_HOSTDEV = (("usb", ("usb-host",)), ("pci", ()), ("scsi", ("scsi-generic",)))
_RNG_BACKENDS = (("random", ("rng-random",)), ("egd", ("rng-egd",)), ("builtin", ("rng-builtin",)))
_FILESYSTEM = (
    ("path", ()),
    ("handle", ()),
    ("virtiofs", ("vhost-user-fs-device", "vhost-user-fs-pci", "vhost-user-fs-ccw")),
)
_TPM = (
    ("tpm-tis", ("tpm-tis", "tpm-tis-device")),
    ("tpm-crb", ("tpm-crb",)),
    ("tpm-spapr", ("tpm-spapr",)),
    ("spapr-tpm-proxy", ("spapr-tpm-proxy",)),
)
_VIRTIO = ["virtio", "virtio-transitional", "virtio-non-transitional"]
_IDE_MACHINES = ("pc-i440fx-", "isapc", "malta", "sun4u", "g3beige")


def _devices(
    caps: EmulatorCaps, machine: Machine, arch: str, host: DomainCapsHost
) -> list[tuple[str, _Enums]]:
    has_floppy = not machine.name.startswith("pseries")
    has_spice = caps.has_command("query-spice")
    buses = [
        *(["ide"] if machine.name.startswith(_IDE_MACHINES) else []),
        *(["fdc"] if has_floppy else []),
        "scsi",
        "virtio",
        *(["usb"] if caps.has_device("usb-storage") else []),
        *(["sata"] if caps.has_device("ich9-ahci") else []),
    ]
    rng = any(caps.has_device(f"virtio-rng-{bus}") for bus in ("pci", "ccw", "device"))
    disk = {
        "diskDevice": ["disk", "cdrom", *(["floppy"] if has_floppy else []), "lun"],
        "bus": buses,
        "model": _VIRTIO,
    }
    hostdev = {
        "mode": ["subsystem"],
        "startupPolicy": ["default", "mandatory", "requisite", "optional"],
        "subsysType": _there(caps, _HOSTDEV),
        "capsType": [],
        "pciBackend": ["default", "vfio"] if host.vfio and caps.has_device("vfio-pci") else [],
    }
    channels = ["pty", "unix", *(["spicevmc"] if has_spice else [])]
    return [
        ("disk", disk),
        ("graphics", {"type": [kind for kind in _GRAPHICS if _has_display(caps, kind)]}),
        ("video", {"modelType": _there(caps, _VIDEO)}),
        ("hostdev", hostdev),
        ("rng", {"model": _VIRTIO, "backendModel": _there(caps, _RNG_BACKENDS)} if rng else None),
        ("filesystem", {"driverType": _there(caps, _FILESYSTEM)}),
        ("tpm", _tpm(caps, host)),
        ("redirdev", {"bus": ["usb"]} if caps.has_device("usb-redir") else None),
        ("channel", {"type": channels}),
    ]


def _has_display(caps: EmulatorCaps, kind: str) -> bool:
    match kind:
        case "vnc" | "spice":
            return caps.has_command(f"query-{kind}")
    return caps.schema_has(f"query-display-options/ret-type/type/^{kind}")


def _tpm(caps: EmulatorCaps, host: DomainCapsHost) -> _Enums:
    models = _there(caps, _TPM)
    if not models or not caps.tpm_types:
        return None
    backends = ["passthrough"] if "passthrough" in caps.tpm_types else []
    enums = {"model": models, "backendModel": backends}
    if host.tpm_versions and "emulator" in caps.tpm_types:
        backends += ["emulator", "external"]
        enums["backendVersion"] = list(host.tpm_versions)
    return enums


# ------------------------------------------------------------------- features

_HYPERV: tuple[tuple[str, str], ...] = (
    ("relaxed", "hv-relaxed"),
    ("vapic", "hv-vapic"),
    ("spinlocks", "hv-spinlocks"),
    ("vpindex", "hv-vpindex"),
    ("runtime", "hv-runtime"),
    ("synic", "hv-synic"),
    ("stimer", "hv-stimer"),
    ("reset", "hv-reset"),
    ("vendor_id", "hv-vendor-id"),
    ("frequencies", "hv-frequencies"),
    ("reenlightenment", "hv-reenlightenment"),
    ("tlbflush", "hv-tlbflush"),
    ("ipi", "hv-ipi"),
    ("evmcs", "hv-evmcs"),
    ("avic", "hv-avic"),
)
"""libvirt's names of QEMU's enlightenments; ones with a value (no switch) are there when QEMU knows them."""


def _features(out: Writer, caps: EmulatorCaps, virt_type: str, arch: str, host: DomainCapsHost) -> None:
    facts = caps.accel(virt_type)
    has: Callable[[str], bool] = caps.has_device
    with out.element("features"):
        versions = sorted(
            version for version, emulated, kernel in facts.gic if (kernel if virt_type == "kvm" else emulated)
        )
        _group(out, "gic", {"version": [str(v) for v in versions]} if versions else None)
        out.leaf("vmcoreinfo", supported=_yes(has("vmcoreinfo")))
        out.leaf("genid", supported=_yes(has("vmgenid")))
        out.leaf("backingStoreInput", supported="yes")
        out.leaf("backup", supported=_yes(caps.has_command("nbd-server-add")))
        if arch == "s390x":
            out.leaf("s390-pv", supported=_yes(virt_type == "kvm" and caps.has_object("s390-pv-guest")))
        _sev(out, facts, host.sev_limits)
        _sgx(out, facts)
        # libvirt 9.0 lists what KVM has for emulated guests, too.
        hyperv = caps.accel("kvm").hyperv
        if arch in X86 and hyperv:
            values = [name for name, key in _HYPERV if hyperv.get(key, False) is not False]
            _group(out, "hyperv", {"features": values})


def _sev(out: Writer, facts: AccelFacts, limits: Mapping[str, int]) -> None:
    if not facts.sev:
        out.leaf("sev", supported="no")
        return
    with out.element("sev", supported="yes"):
        out.leaf("cbitpos", str(facts.sev.get("cbitpos", 0)))
        out.leaf("reducedPhysBits", str(facts.sev.get("reduced-phys-bits", 0)))
        out.leaf("maxGuests", str(limits.get("max-guests", 0)))
        out.leaf("maxESGuests", str(limits.get("max-es-guests", 0)))


def _sgx(out: Writer, facts: AccelFacts) -> None:
    if not facts.sgx:
        out.leaf("sgx", supported="no")
        return
    with out.element("sgx", supported="yes"):
        for name in ("flc", "sgx1", "sgx2"):
            out.leaf(name, _yes(bool(facts.sgx.get(name))))
        sections = facts.sgx.get("sections") or []
        total = facts.sgx.get("section-size") or sum(section["size"] for section in sections)
        out.leaf("section_size", total // 1024, unit="KiB")
        if sections:
            with out.element("sections"):
                for section in sections:
                    out.leaf("section", node=section["node"], size=section["size"] // 1024, unit="KiB")
