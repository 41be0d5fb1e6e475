"""What recorded emulators print, read as the abilities that libvirt found in them.

Left out are abilities that libvirt gave by version or not at all, and those it took out of texts that are not
recorded (``-device TYPE,?`` of some types).
"""

import json
from pathlib import Path
from typing import Any

import pytest

from qvirt.qemu.dialect.help_text import parse_devices, parse_help
from tests.conformance.capabilities import NAMES

#: abilities of a version, not of a text; and a switch whose meaning libvirt took from another fork
BY_VERSION = frozenset({"VNC_COLON", "CPU_HOST", "VNC_SHARE_POLICY", "VNET_HDR"})
#: (emulator, ability): libvirt's reading came from more than the recorded texts
ELSEWHERE = frozenset(
    {
        ("qemu-kvm-0.13.0", "DEVICE_QXL"),
        ("qemu-kvm-0.13.0", "SPICE"),
        ("qemu-kvm-0.12.3", "VHOST_NET"),
        ("qemu-0.12.1", "XEN_DOMID"),
    }
)


@pytest.fixture(scope="module")
def emulators(conformance: Path) -> dict[str, Any]:
    path = conformance / "native" / "qemu-help" / "capabilities.json"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    found: dict[str, Any] = json.loads(path.read_text())
    for name, emulator in found.items():
        emulator["help"] = path.with_name(f"{name}.help").read_text()
        devices = path.with_name(f"{name}.device")
        emulator["device"] = devices.read_text() if devices.exists() else ""
    return found


def test_versions(emulators: dict[str, Any]) -> None:
    read = {name: parse_help(emulator["help"]) for name, emulator in emulators.items()}
    for name, emulator in emulators.items():
        for reading in emulator["readings"]:
            said = read[name]
            assert said.version_number == reading["version"], name
            assert (said.kvm is not None) == reading["is_kvm"], name
            assert (said.kvm or 0) == reading["kvm_version"], name


def test_abilities(emulators: dict[str, Any]) -> None:
    wrong: list[str] = []
    compared = 0
    #: what libvirt knew to look for, by its commit
    names: dict[str, set[str]] = {}
    for emulator in emulators.values():
        for reading in emulator["readings"]:
            names.setdefault(reading["commit"], set()).update(reading["caps"])
    for name, emulator in emulators.items():
        known = {cap for reading in emulator["readings"] for cap in reading["caps"]}
        if len(known) < 2:
            continue  # libvirt asked this one by QMP
        facts = parse_help(emulator["help"]).facts | parse_devices(emulator["device"])
        looked_for = set().union(*(names[reading["commit"]] for reading in emulator["readings"]))
        for cap in looked_for - BY_VERSION:
            wanted = NAMES.get(cap, "").split()
            is_text = wanted and not wanted[0].startswith(("@", "-incoming:"))
            if not is_text or wanted[0] == "virtio-net-device" or (name, cap) in ELSEWHERE:
                continue
            compared += 1
            if (wanted[0] in facts) != (cap in known):
                wrong.append(f"{name}: {cap} is {'not ' if cap in known else ''}read")
    assert compared > 1000
    assert wrong == []
