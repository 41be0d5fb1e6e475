"""What an emulator is asked about itself, and the reading of its answers into `EmulatorCaps`.

Two processes are asked: one for everything, under TCG unless it is built without, and, where KVM works, one
under KVM for what depends on it. All questions go out at once; one that this QEMU does not know costs an
error reply and means "no".
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qvirt.qemu import schema
from qvirt.qemu.caps import (
    AccelFacts,
    CpuModel,
    EmulatorCaps,
    Machine,
    ModelExpansion,
    Overview,
    PropertyValue,
    interned,
    pack_schema,
)
from qvirt.record import Record

PROBED_TYPES: tuple[str, ...] = (
    # block
    "virtio-blk-pci", "virtio-blk-ccw", "virtio-blk-device", "virtio-scsi-pci", "virtio-scsi-ccw",
    "vhost-user-blk-pci", "virtio-scsi-device", "scsi-hd", "scsi-cd", "scsi-block", "scsi-generic",
    "ide-hd", "ide-cd", "floppy", "isa-fdc", "usb-storage", "nvme", "nvme-ns", "vhost-scsi-pci", "megasas",
    "mptsas1068", "lsi53c895a", "sd-card",
    # net
    "virtio-net-pci", "virtio-net-ccw", "virtio-net-device", "e1000", "e1000e", "igb", "rtl8139", "usb-net",
    "vmxnet3",
    # controllers
    "pci-bridge", "pcie-root-port", "pcie-pci-bridge", "pxb", "pxb-pcie", "ich9-ahci", "nec-usb-xhci",
    "qemu-xhci", "piix3-usb-uhci", "ich9-usb-ehci1", "virtio-serial-pci", "usb-hub", "i440FX-pcihost",
    "q35-pcihost", "spapr-pci-host-bridge", "intel-iommu", "amd-iommu", "virtio-iommu-pci", "smmuv3",
    # display, sound, input
    "VGA", "bochs-display", "cirrus-vga", "qxl", "qxl-vga", "vmware-svga", "virtio-gpu-pci",
    "virtio-gpu-device", "virtio-vga", "virtio-gpu-ccw", "vhost-user-gpu-pci", "ramfb", "hda-duplex",
    "ich9-intel-hda", "usb-audio", "virtio-sound-pci", "virtio-input-host-pci", "virtio-keyboard-pci",
    # host devices, memory and the rest
    "vfio-pci", "vfio-ccw", "vfio-ap", "usb-host", "usb-redir", "virtio-balloon-pci", "virtio-balloon-ccw",
    "virtio-balloon-device", "virtio-rng-pci", "virtio-crypto-pci", "virtio-mem-pci", "virtio-pmem-pci",
    "nvdimm", "pc-dimm", "ivshmem-plain", "ivshmem-doorbell", "vhost-user-fs-pci", "vhost-user-fs-device",
    "vhost-vsock-pci", "vhost-vsock-ccw", "virtio-9p-pci", "pvpanic", "pvpanic-pci", "vmcoreinfo",
    "vmgenid", "isa-serial", "pci-serial", "tpm-tis", "tpm-crb", "spapr-nvram", "ib700", "i6300esb",
    "loader", "mc146818rtc", "kvm-pit", "isa-debugcon",
    # global properties of chip sets
    "PIIX4_PM", "ICH9-LPC", "fw_cfg",
)  # fmt: skip
"""Devices whose properties are kept. The -gl- displays are left out: QEMU 7.2 ends when asked for them while
the module of the device behind them is not installed."""

PROBED_OBJECTS: tuple[str, ...] = (
    "memory-backend-file", "memory-backend-ram", "memory-backend-memfd", "memory-backend-epc", "sev-guest",
    "sev-snp-guest", "tdx-guest", "s390-pv-guest", "iothread", "main-loop", "thread-context",
    "tls-creds-x509", "secret", "rng-builtin", "throttle-group", "input-linux", "cryptodev-backend-lkcf",
    "can-bus", "generic-pc-machine", "virt-machine", "spapr-machine", "s390-ccw-machine",
)  # fmt: skip
"""Objects and abstract machine types whose properties are kept."""

SCHEMA_QUESTIONS: tuple[str, ...] = (
    "query-display-options/ret-type/type/^sdl",
    "query-display-options/ret-type/type/^egl-headless",
    "query-display-options/ret-type/type/^dbus",
    "screendump/arg-type/format/^png",
)
"""Questions to the schema answered at probing time, so that the daemon need not open the schema for them."""

Question: TypeAlias = tuple[str, Mapping[str, Any] | None]
Answer: TypeAlias = Any  # what QEMU returned (a JSON edge); None for a question it refused

_COMMON: tuple[Question, ...] = (
    ("query-kvm", None),
    ("query-version", None),
    ("query-target", None),
    ("query-machines", None),
    ("qom-list-types", {"abstract": False}),
    ("query-qmp-schema", None),
    ("query-command-line-options", None),
    ("query-commands", None),
    ("query-migrate-capabilities", None),
    ("query-tpm-models", None),
    ("query-tpm-types", None),
)


def _expansion(kind: str, name: str, **props: bool) -> Question:
    model: dict[str, Any] = {"name": name}
    if props:
        model["props"] = {key.replace("_", "-"): value for key, value in props.items()}
    return ("query-cpu-model-expansion", {"type": kind, "model": model})


_ACCEL: tuple[Question, ...] = (
    ("query-cpu-definitions", None),
    ("query-gic-capabilities", None),
    ("query-sev-capabilities", None),
    ("query-sgx-capabilities", None),
    _expansion("static", "max", migratable=False),
    _expansion("static", "max", migratable=True),
    _expansion("full", "max"),
    _expansion("full", "host", hv_passthrough=True),
)

_PROPERTIES: tuple[Question, ...] = (
    *(("device-list-properties", {"typename": name}) for name in PROBED_TYPES),
    *(("qom-list-properties", {"typename": name}) for name in PROBED_OBJECTS),
)

MAIN_ACCEL = "tcg:kvm"
"""The accelerators of the process that is asked for everything: TCG if it is built in."""

KVM_ACCEL = "kvm"

_BRIEF: tuple[Question, ...] = (("query-kvm", None), ("query-target", None), ("query-machines", None))

FULL: Mapping[str, tuple[Question, ...]] = {
    MAIN_ACCEL: (*_COMMON, *_ACCEL, *_PROPERTIES),
    KVM_ACCEL: (("query-kvm", None), *_ACCEL),
}
"""What a process under MAIN_ACCEL or KVM_ACCEL is asked for `read_answers`, in order."""

BRIEF: Mapping[str, tuple[Question, ...]] = {MAIN_ACCEL: _BRIEF, KVM_ACCEL: _BRIEF[:1]}
"""What they are asked for `read_overview`."""


@functools.cache
def fingerprint() -> str:
    """Return a digest of everything asked: stored answers to other questions are not complete."""
    return hashlib.sha256(repr((FULL, BRIEF, SCHEMA_QUESTIONS)).encode()).hexdigest()[:16]


class _Answers(Record, frozen=False):
    """Answers in the order of their questions."""

    rest: Iterator[Answer]

    def take(self, default: Any) -> Any:
        value = next(self.rest)
        return default if value is None else value


def read_answers(emulator: str, main: Sequence[Answer], kvm: Sequence[Answer] | None) -> EmulatorCaps:
    """Make the table of facts from the answers of the main process and, where KVM works, of the other.

    Raises ValueError when an answer has an unknown form.
    """
    with _known_form(emulator):
        return _read(emulator, main, kvm)


def read_overview(emulator: str, main: Sequence[Answer], kvm: Sequence[Answer] | None) -> Overview:
    """Make the overview from the answers to BRIEF; raises as `read_answers` does."""
    with _known_form(emulator):
        answers = _Answers(iter(main))
        accels = {"kvm" if answers.take({}).get("enabled") else "tcg"}
        target = answers.take({}).get("arch", "")
        machines = _machines(answers.take([]))
        if kvm is not None and _Answers(iter(kvm)).take({}).get("enabled"):
            accels.add("kvm")
        return Overview(emulator, target, machines, tuple(sorted(accels)))


@contextlib.contextmanager
def _known_form(emulator: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, StopIteration) as e:
        raise ValueError(f"emulator '{emulator}' describes itself in an unknown form: {e!r}") from e


def _read(emulator: str, main: Sequence[Answer], kvm: Sequence[Answer] | None) -> EmulatorCaps:
    answers = _Answers(iter(main))
    main_accel = "kvm" if answers.take({}).get("enabled") else "tcg"
    version = answers.take({"qemu": {}})
    target = answers.take({}).get("arch", "")
    machines = answers.take([])
    types = answers.take([])
    qapi = answers.take([])
    options = answers.take([])
    commands = answers.take([])
    migration = answers.take([])
    tpm_models = answers.take([])
    tpm_types = answers.take([])
    accels = {main_accel: _accel_facts(answers, main_accel == "kvm")}
    properties = {
        name: interned(p["name"] for p in listed)
        for name in (*PROBED_TYPES, *PROBED_OBJECTS)
        if (listed := answers.take(None)) is not None
    }
    if kvm is not None:
        answers = _Answers(iter(kvm))
        if answers.take({}).get("enabled"):
            accels["kvm"] = _accel_facts(answers, True)
    by_name = schema.index(qapi)
    qemu = version["qemu"]
    return EmulatorCaps(
        emulator=emulator,
        version=(qemu["major"], qemu["minor"], qemu["micro"]),
        package=version.get("package", "").strip().removeprefix("(").removesuffix(")"),
        target=target,
        machines=_machines(machines),
        types=interned(t["name"] for t in types if not t["name"].endswith(("-machine", "-cpu"))),
        properties=properties,
        options={o["option"]: interned(p["name"] for p in o["parameters"]) for o in options},
        commands=interned(c["name"] for c in commands),
        migration_capabilities=interned(c["capability"] for c in migration),
        tpm_models=interned(tpm_models),
        tpm_types=interned(tpm_types),
        accels=accels,
        schema_packed=pack_schema(qapi),
        schema_answers={question: schema.has(by_name, question) for question in SCHEMA_QUESTIONS},
    )


def _accel_facts(answers: _Answers, is_kvm: bool) -> AccelFacts:
    cpus = answers.take([])
    gic = answers.take([])
    sev = answers.take(None)
    sgx = answers.take(None)
    best = _model(answers.take(None))
    migratable = _model(answers.take(None))
    full = _model(answers.take(None))
    hyperv = _model(answers.take(None))
    hv = {n: v for n, v in hyperv.properties.items() if n.startswith("hv-")} if hyperv and is_kvm else {}
    return AccelFacts(
        cpus=tuple(_cpu(cpu) for cpu in cpus),
        # ARM and others know only the full expansion.
        best=best or full,
        migratable=migratable or full,
        hyperv=hv,
        sev=sev,
        sgx=sgx,
        gic=tuple((g["version"], g["emulated"], g["kernel"]) for g in gic),
    )


def _model(answer: Answer) -> ModelExpansion | None:
    if answer is None:
        return None
    model = answer["model"]
    properties: dict[str, PropertyValue] = model.get("props") or {}
    return ModelExpansion(model["name"], properties)


def _machines(listed: Iterable[Mapping[str, Any]]) -> tuple[Machine, ...]:
    return tuple(_machine(item) for item in listed if item["name"] != "none")


def _machine(item: Mapping[str, Any]) -> Machine:
    return Machine(
        name=item["name"],
        alias=item.get("alias"),
        is_default=item.get("is-default", False),
        cpu_max=item.get("cpu-max", 1),
        hotpluggable_cpus=item.get("hotpluggable-cpus", False),
        numa_mem_supported=item.get("numa-mem-supported", False),
        deprecated=item.get("deprecated", False),
        default_cpu_type=item.get("default-cpu-type"),
        default_ram_id=item.get("default-ram-id"),
        acpi=item.get("acpi"),
    )


def _cpu(item: Mapping[str, Any]) -> CpuModel:
    blockers = item.get("unavailable-features")
    return CpuModel(
        name=item["name"],
        type=item.get("typename", ""),
        blockers=None if blockers is None else tuple(blockers),
        deprecated=item.get("deprecated", False),
        migration_safe=item.get("migration-safe", False),
        static=item.get("static", False),
        alias_of=item.get("alias-of"),
    )
