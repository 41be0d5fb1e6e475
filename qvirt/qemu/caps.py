"""What one emulator can do: the table of facts that the builder branches on, never a version number.

The facts come from QEMU itself (`caps_queries.py` says what is asked and reads the answers). A table is kept
small, since a daemon holds one per emulator for its whole life: the QAPI schema stays compressed and is
opened for a question that was not asked before.
"""

import base64
import json
import sys
import zlib
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, Self, TypeAlias

from qvirt.qemu import schema
from qvirt.qemu.architectures import BY_NAME
from qvirt.record import Record, asdict, field, fields

FORMAT = 1
"""Version of the stored form; a stored table of another version is not read."""

PropertyValue: TypeAlias = bool | int | float | str | None


class Machine(Record):
    """A machine type. default_cpu_type is a QOM type ("qemu64-x86_64-cpu"); default_ram_id is the id its
    memory backend must have so that the guest can be migrated."""

    name: str
    alias: str | None = None
    is_default: bool = False
    cpu_max: int = 1
    hotpluggable_cpus: bool = False
    numa_mem_supported: bool = False
    deprecated: bool = False
    default_cpu_type: str | None = None
    default_ram_id: str | None = None
    acpi: bool | None = None


class CpuModel(Record):
    """A named CPU model. blockers: what keeps it from running here; None where QEMU does not say (ARM).

    alias_of: the version an unversioned name stands for. deprecated: QEMU advises against it.
    """

    name: str
    type: str
    blockers: tuple[str, ...] | None = None
    deprecated: bool = False
    migration_safe: bool = False
    static: bool = False
    alias_of: str | None = None

    @property
    def usable(self) -> bool | None:
        """Tell whether the model runs here; None when QEMU does not say."""
        return None if self.blockers is None else not self.blockers


class ModelExpansion(Record):
    """A CPU model taken apart by QEMU: its base model and what every property is."""

    name: str
    properties: Mapping[str, PropertyValue]

    def enabled(self) -> frozenset[str]:
        """Return the properties that are on."""
        return frozenset(name for name, value in self.properties.items() if value is True)


class AccelFacts(Record):
    """What depends on the accelerator.

    best: the most this accelerator can give (the model "max").
    migratable: the same, without what cannot be migrated. hyperv: properties of the enlightenments KVM has.
    """

    cpus: tuple[CpuModel, ...] = ()
    best: ModelExpansion | None = None
    migratable: ModelExpansion | None = None
    hyperv: Mapping[str, PropertyValue] = field(default_factory=dict)
    sev: Mapping[str, PropertyValue] | None = None
    sgx: Mapping[str, Any] | None = None
    gic: tuple[tuple[int, bool, bool], ...] = ()  # (version, emulated, kernel)


class Overview(Record, slots=False):
    """What the capabilities document says of one emulator.

    target: QEMU's name of the architecture; arch: libvirt's. accels: "tcg", and "kvm" where it works.
    """

    emulator: str
    target: str
    machines: tuple[Machine, ...]
    accels: Collection[str]

    @property
    def arch(self) -> str:
        """Return libvirt's name of the architecture this emulator runs."""
        return LIBVIRT_ARCH.get(self.target, self.target)

    @property
    def kvm(self) -> bool:
        """Tell whether guests of this emulator can run under KVM here."""
        return "kvm" in self.accels

    def machine(self, name: str) -> Machine | None:
        """Return the machine type of a name or alias."""
        return self._machines.get(name)

    @cached_property
    def default_machine(self) -> Machine | None:
        """The machine type a domain gets that asks for none; None when the emulator has no default either."""
        known = BY_NAME.get(self.arch)
        preferred = self._machines.get(known.machine) if known else None
        return preferred or next((machine for machine in self.machines if machine.is_default), None)

    @cached_property
    def _machines(self) -> Mapping[str, Machine]:
        by_name = {machine.alias: machine for machine in self.machines if machine.alias}
        return by_name | {machine.name: machine for machine in self.machines}

    def overview_json(self) -> dict[str, Any]:
        """Return the overview as JSON values."""
        return {
            "emulator": self.emulator,
            "target": self.target,
            "machines": [_said(machine) for machine in self.machines],
            "accels": sorted(self.accels),
        }

    @staticmethod
    def read(value: Mapping[str, Any]) -> "Overview":
        """Rebuild an overview from its stored form; raises KeyError or TypeError when it is damaged."""
        machines = tuple(Machine(**machine) for machine in value["machines"])
        return Overview(str(value["emulator"]), str(value["target"]), machines, tuple(value["accels"]))


class EmulatorCaps(Overview, slots=False):
    """The facts about one emulator.

    types: every concrete QOM type but machines and CPUs: devices, objects, chardevs.
    properties: of the types in `caps_queries.PROBED_TYPES` only.
    options: parameters of each command line option.
    """

    accels: Mapping[str, AccelFacts]
    version: tuple[int, int, int]
    package: str
    types: frozenset[str]
    properties: Mapping[str, frozenset[str]]
    options: Mapping[str, frozenset[str]]
    commands: frozenset[str]
    migration_capabilities: frozenset[str]
    tpm_models: frozenset[str]
    tpm_types: frozenset[str]
    schema_packed: bytes = field(repr=False)
    schema_answers: dict[str, bool] = field(default_factory=dict, repr=False)

    # ------------------------------------------------------------ the emulator

    @property
    def version_number(self) -> int:
        """Return the version as libvirt counts: major * 1000000 + minor * 1000 + micro."""
        major, minor, micro = self.version
        return major * 1_000_000 + minor * 1000 + micro

    def accel(self, virt_type: str) -> AccelFacts:
        """Return the facts of a domain type ("kvm", else TCG); empty when it is not available."""
        return self.accels.get("kvm" if virt_type == "kvm" else "tcg", _NO_FACTS)

    @property
    def plugs_first_card(self) -> bool:
        """Tell whether the first graphics card is a ``-device``; otherwise its slot stays free for it."""
        return True

    @property
    def has_modern_virtio(self) -> bool:
        """Tell whether virtio devices go into PCI Express slots."""
        return True

    # ------------------------------------------------------- machines and CPUs

    def machine_has(self, machine: str, property: str) -> bool:
        """Tell whether a machine type has a property, by the family it belongs to."""
        return property in self.machine_properties(machine)

    def machine_properties(self, machine: str) -> frozenset[str]:
        """Return the properties that all machine types of a family have; none where nobody asked."""
        family = next((f for prefix, f in MACHINE_FAMILIES if machine.startswith(prefix)), "")
        return self.properties.get(family, frozenset())

    def cpu_model(self, name: str, virt_type: str = "qemu") -> CpuModel | None:
        """Return a named CPU model as seen by an accelerator."""
        return next((cpu for cpu in self.accel(virt_type).cpus if cpu.name == name), None)

    # ------------------------------------------------------- devices, objects

    def has_device(self, type: str) -> bool:
        """Tell whether a device type is built in."""
        return type in self.types

    def has_object(self, type: str) -> bool:
        """Tell whether an object type is built in."""
        return type in self.types

    def device_has(self, type: str, property: str) -> bool:
        """Tell whether a device type is there and has a property.

        Raises LookupError when nobody asked for the properties of this type: add it to PROBED_TYPES.
        """
        properties = self.properties.get(type)
        if properties is not None:
            return property in properties
        if type in self.types:
            raise LookupError(f"properties of '{type}' are not probed; add it to caps_queries.PROBED_TYPES")
        return False

    # ---------------------------------------------- switches, monitor, schema

    def has_option(self, option: str) -> bool:
        """Tell whether the command line has an option."""
        return option.removeprefix("-") in self.options

    def option_has(self, option: str, parameter: str) -> bool:
        """Tell whether a command line option takes a parameter."""
        return parameter in self.options.get(option.removeprefix("-"), ())

    def has_command(self, command: str) -> bool:
        """Tell whether the monitor has a command."""
        return command in self.commands

    def schema_has(self, path: str) -> bool:
        """Answer a question to the QAPI schema; `schema.py` describes the paths."""
        answer = self.schema_answers.get(path)
        if answer is None:
            answer = schema.has(unpack_schema(self.schema_packed), path)
            self.schema_answers[sys.intern(path)] = answer
        return answer

    # ---------------------------------------------------------- stored form

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "format": FORMAT,
            "emulator": self.emulator,
            "version": list(self.version),
            "package": self.package,
            "target": self.target,
            "machines": [_said(machine) for machine in self.machines],
            "types": sorted(self.types),
            "properties": {name: sorted(value) for name, value in sorted(self.properties.items())},
            "options": {name: sorted(value) for name, value in sorted(self.options.items())},
            "commands": sorted(self.commands),
            "migration_capabilities": sorted(self.migration_capabilities),
            "tpm_models": sorted(self.tpm_models),
            "tpm_types": sorted(self.tpm_types),
            "accels": {
                name: {**asdict(facts), "cpus": [_said(cpu) for cpu in facts.cpus]}
                for name, facts in self.accels.items()
            },
            "schema": base64.b85encode(self.schema_packed).decode("ascii"),
            "schema_answers": dict(sorted(self.schema_answers.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a table from its stored form; raises ValueError when it is of another form or damaged."""
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"stored capabilities have format {value['format']}, not {FORMAT}")
            major, minor, micro = value["version"]
            return cls(
                emulator=str(value["emulator"]),
                version=(int(major), int(minor), int(micro)),
                package=str(value["package"]),
                target=str(value["target"]),
                machines=tuple(Machine(**machine) for machine in value["machines"]),
                types=interned(value["types"]),
                properties={sys.intern(name): interned(names) for name, names in value["properties"].items()},
                options={sys.intern(name): interned(names) for name, names in value["options"].items()},
                commands=interned(value["commands"]),
                migration_capabilities=interned(value["migration_capabilities"]),
                tpm_models=interned(value["tpm_models"]),
                tpm_types=interned(value["tpm_types"]),
                accels={name: _accel(facts) for name, facts in value["accels"].items()},
                schema_packed=base64.b85decode(value["schema"]),
                schema_answers={sys.intern(path): bool(a) for path, a in value["schema_answers"].items()},
            )
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"stored capabilities are damaged: {e!r}") from e


LIBVIRT_ARCH: Mapping[str, str] = {"i386": "i686", "arm": "armv7l", "or1k": "or32", "hppa": "parisc"}
"""libvirt's names for QEMU's targets, where they differ."""

MACHINE_FAMILIES: tuple[tuple[str, str], ...] = (
    ("pc", "generic-pc-machine"),
    ("q35", "generic-pc-machine"),
    ("isapc", "generic-pc-machine"),
    ("xenfv", "generic-pc-machine"),
    ("virt", "virt-machine"),
    ("pseries", "spapr-machine"),
    ("s390-ccw", "s390-ccw-machine"),
)
"""The abstract QOM type that holds the properties of a machine type, by the start of its name."""

_NO_FACTS = AccelFacts()


def interned(names: Iterable[str]) -> frozenset[str]:
    """Make a set of names that many emulators share."""
    return frozenset(sys.intern(name) for name in names)


def pack_schema(answer: list[dict[str, Any]]) -> bytes:
    """Compress the answer of query-qmp-schema."""
    return zlib.compress(json.dumps(answer, separators=(",", ":")).encode(), 1)


def unpack_schema(packed: bytes) -> schema.Schema:
    """Return the schema by name; raises ValueError when it is damaged."""
    try:
        return schema.index(json.loads(zlib.decompress(packed)))
    except zlib.error as e:
        raise ValueError(f"stored QAPI schema is damaged: {e}") from e


def _said(record: Machine | CpuModel) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    return {
        name: value
        for name, field in fields(record).items()
        if (value := getattr(record, name)) != field.default
    }


def _accel(value: Mapping[str, Any]) -> AccelFacts:
    return AccelFacts(
        cpus=tuple(_cpu(cpu) for cpu in value["cpus"]),
        best=_expansion(value["best"]),
        migratable=_expansion(value["migratable"]),
        hyperv=value["hyperv"],
        sev=value["sev"],
        sgx=value["sgx"],
        gic=tuple((int(version), bool(emulated), bool(kernel)) for version, emulated, kernel in value["gic"]),
    )


def _cpu(value: Mapping[str, Any]) -> CpuModel:
    blockers = value.get("blockers")
    # Models share most of their blockers.
    return CpuModel(**{**value, "blockers": None if blockers is None else tuple(map(sys.intern, blockers))})


def _expansion(value: Mapping[str, Any] | None) -> ModelExpansion | None:
    if value is None:
        return None
    return ModelExpansion(value["name"], {sys.intern(name): v for name, v in value["properties"].items()})
