"""Command lines for older emulators, beside those that libvirt wrote when such emulators were current.

What is recorded is a document, the abilities an emulator had by libvirt's names, and libvirt's answer.
Compared is the multiset of options, each with the set of its parameters. What does not count:

- what the recording host decided: paths below the driver's folder, the emulator's own name;
- ids of devices nobody refers to, and the ports of USB devices that the document leaves open;
- spellings of one value (``readonly`` and ``readonly=on``).

The material lies beside the project, not in it; where it is missing these tests are skipped.
"""

import collections
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import QvirtError
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.caps import Machine
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext, Dirs, HostFacts, Launch, Settings
from qvirt.qemu.dialect.facts import DialectCaps, dialect_caps
from qvirt.qemu.dialect.older import build_older
from qvirt.qemu.names import assign_aliases
from qvirt.record import replace
from tests.conformance.capabilities import facts_of

Row = dict[str, Any]

ALWAYS = (
    "VGA cirrus-vga vmware-svga rtl8139 e1000 ne2k_pci pcnet virtio-net-pci virtio-blk-pci virtio-serial-pci "
    "virtio-balloon-pci usb-tablet usb-mouse usb-kbd isa-serial isa-parallel ES1370 AC97 sb16 ide-drive "
    "scsi-disk spapr-vty spapr-vscsi spapr-vlan sclpconsole sclplmconsole ib700 i6300esb usb-host pci-assign "
    "-no-acpi -no-reboot @monitor-socket @drive-units @multifunction "
)
"""What libvirt never asked an emulator about."""

DEVICE_AGE = (
    ALWAYS + "-device -nodefaults -drive -drive:format -drive:aio -drive:werror "
    "-drive:cache=none -name -uuid -vga -vga:none -vnc -net:name -smbios @rom "
)
ERAS = {
    "v4.0.0": DEVICE_AGE + "-chardev -mon -smp:sockets @usb-ports @pci.0 -no-hpet -no-kvm-pit-reinjection "
    "-spice -vnc:share -drive:readonly @memory-up @silent-cpu -m:maxmem",
    "2016-05": DEVICE_AGE + "@memory-up",
    "2015-11": ALWAYS + "-smbios @memory-up",
    "v1.0.0": ALWAYS + "-smbios @memory-up",
    "v0.9.0": ALWAYS + "-smbios @memory-up",
    "v0.7.5": ALWAYS.replace("@drive-units", ""),
    "documentation": ALWAYS.replace("@drive-units", "").replace("@monitor-socket", ""),
}
"""What libvirt of an era took for granted, beside what a recording grants."""

TARGETS = {"i686": "i386", "armv7l": "arm", "ppc64le": "ppc64"}


class RecordedLaunch(Launch):
    """A start whose secrets are those of libvirt's own tests."""

    def secret(self, usage_type: str, uuid: str | None, usage: str | None) -> bytes:
        return b"AQCVn5hO6HzFAhAAq0NCv8jtJcIcE+HOBlMQ1A"


def ours(row: Row) -> list[str]:
    """Return our command line for a recorded document and emulator. Raises QvirtError."""
    domain = parse_domain(row["xml"])
    ctx = context(domain, row)
    complete(domain, ctx)
    assign_aliases(domain, ctx)
    assert isinstance(ctx.caps, DialectCaps)
    return build_older(domain, ctx, ctx.caps).argv()


def context(domain: Domain, row: Row) -> BuildContext:
    era = next(facts for start, facts in ERAS.items() if row["era"].startswith(start))
    arch = domain.os.type.arch or "x86_64"
    taken_for_granted = set(era.split())
    if row["era"].startswith("v4.0.0") and arch not in ("i686", "x86_64", "aarch64"):
        taken_for_granted.discard("-no-acpi")
    caps = dialect_caps(
        facts_of(row["caps"]) | taken_for_granted,
        emulator=domain.devices.emulator or "/usr/bin/qemu",
        version=(0, 0, 0),
        target=TARGETS.get(arch, arch),
        machines=machines(domain, row),
    )
    launch = RecordedLaunch()
    words = row["argv"]
    if "-incoming" in words:
        launch.incoming = words[words.index("-incoming") + 1]
    spice = next((value for name, value in options(words) if name == "-spice"), "")
    vnc = next((value for name, value in options(words) if name == "-vnc"), "")
    return BuildContext(
        domain=domain,
        caps=caps,
        generate_mac=lambda: "52:54:00:00:00:01",
        generate_uuid=lambda: "00000000-0000-4000-8000-000000000001",
        host=HostFacts(
            kvm=True,
            hugepage_mounts=((2048, "/dev/hugepages2M"), (1048576, "/dev/hugepages1G")),
            numa_nodes=frozenset(range(8)),
            arch="x86_64",
        ),
        settings=Settings(
            spice_tls=True,
            spice_tls_x509_cert_dir="/etc/pki/libvirt-spice",
            spice_password="123456",  # noqa: S106
            spice_sasl=",sasl" in spice,
            spice_auto_unix_socket="unix,addr=/tmp/lib" in spice,
            vnc_auto_unix_socket=vnc.startswith("unix:/tmp/lib"),
            chardev_tls=any("objchar" in word for word in words),
            chardev_tls_x509_cert_dir="/etc/pki/libvirt-chardev",
            vnc_sasl=",sasl" in vnc,
            vnc_tls=",tls" in vnc,
            vnc_tls_x509_verify="x509verify" in vnc,
            vnc_tls_x509_cert_dir="/etc/pki/libvirt-vnc" if "libvirt-vnc" in vnc else "/etc/pki/qemu",
        ),
        dirs=Dirs(lib="/tmp/lib"),
        launch=launch,
        now=1234567890.0,
    )


def machines(domain: Domain, row: Row) -> tuple[Machine, ...]:
    """Return the machine type of the recording emulator that an alias, or none, stood for."""
    said = next((value for name, value in options(row["argv"]) if name in ("-M", "-machine")), "pc")
    name, asked = said.partition(",")[0], domain.os.type.machine
    known = Machine(name, alias=asked if asked != name else None, cpu_max=1024, numa_mem_supported=True)
    return (replace(known, is_default=True),)


# ------------------------------------------------------------ comparing


def options(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield every switch with its value; both dashes are one."""
    pending: str | None = None
    for word in words:
        if word.startswith("-") and word != "-":
            if pending is not None:
                yield pending, ""
            pending = word
        elif pending is not None:
            yield pending, word
            pending = None
    if pending is not None:
        yield pending, ""


def normal(row: Row, words: list[str]) -> collections.Counter[tuple[str, frozenset[str]]]:
    """Return the options as they are compared."""
    opens_ports = re.search(r"<address type=['\"]usb", row["xml"]) is None
    found: collections.Counter[tuple[str, frozenset[str]]] = collections.Counter()
    for name, value in options(words[1:]):
        value = re.sub(r"(iscsi://[^/,]*/iqn[^/,]*)(?=,|$)", r"\1/0", value)  # QEMU wants a LUN
        value = value.replace("/qemu/ram/libvirt/qemu/", "/qemu/ram/")
        value = re.sub(r"fds?=[\d:]+", "fd=N", value)
        value = re.sub(r"/tmp/lib/domain--1-[^/]*/monitor.sock|/tmp/test-monitor", "MONITOR", value)
        parts = {part.replace("\0", ",,") for part in value.replace(",,", "\0").split(",") if part}
        if name == "-device":
            parts = {part for part in parts if not part.startswith("id=")}
            if opens_ports and any(part.startswith("bus=usb") for part in parts):
                parts = {part for part in parts if not re.match(r"bus=usb|port=", part)}
        found[name, frozenset(part.removesuffix("=on") if name != "-device" else part for part in parts)] += 1
    return found


def differences(row: Row) -> list[str]:
    """Return what libvirt said and we do not, and the reverse; empty when the answers are equal."""
    try:
        said = normal(row, ours(row))
    except QvirtError as error:
        return [f"refused: {error.message}"]
    recorded = normal(row, row["argv"])

    def shown(sign: str, counter: collections.Counter[tuple[str, frozenset[str]]]) -> list[str]:
        return [f"{sign}{name} {','.join(sorted(parts))}" for name, parts in counter.elements()]

    return shown("-", recorded - said) + shown("+", said - recorded)


@pytest.fixture(scope="module")
def rows(conformance: Path) -> list[Row]:
    path = conformance / "native" / "xml-to-old-argv.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_documented_example_comes_out_as_documented(rows: list[Row]) -> None:
    assert differences(rows[0]) == []


def test_options_are_those_of_the_era(rows: list[Row]) -> None:
    """Nine of ten command lines for emulators of 0.12 and later have the options that libvirt gave them."""
    asked = [row for row in rows if row["outcome"] == "ok" and row.get("emulators") and row["argv"][1:]]
    assert asked
    bad = {f"{row['era'][:7]} {row['name']}": found for row in asked if (found := differences(row))}
    share = 1 - len(bad) / len(asked)
    assert share >= 0.9, "\n".join(f"{name}: {found}" for name, found in bad.items())
