"""Encrypted guests on a host that can: what QEMU is told, what is refused, what the host's document says."""

import json
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.host.sev import guest_limits
from qvirt.model.launch import LaunchSecurity
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.domcaps import DomainCapsHost, domcaps
from qvirt.qemu.firmware import Supported
from qvirt.qemu.launch_security import (
    SEV_DEVICE,
    check_launch_security,
    launch_security_switches,
    owner_files,
)
from qvirt.qemu.start import boot_files
from qvirt.xml.document import parse
from tests.support.pure import completed, context
from tests.unit.qemu.test_domain_level import document

DATA = Path(__file__).parents[2] / "data" / "caps"
FACTS = {"cbitpos": 47, "reduced-phys-bits": 1, "pdh": "cGRo", "cert-chain": "Y2VydA=="}


def sev_caps() -> EmulatorCaps:
    """Return an emulator's capabilities as a host with SEV has them."""
    value: dict[str, Any] = json.loads((DATA / "qemu-7.2-x86_64.json").read_bytes())
    value["accels"]["kvm"]["sev"] = FACTS
    return EmulatorCaps.from_json(value)


def security(inside: str = "<policy>0x0001</policy>", more: str = "") -> LaunchSecurity:
    return parse(f"<launchSecurity type='sev'{more}>{inside}</launchSecurity>", LaunchSecurity, "(test)")


@pytest.mark.parametrize(
    ("element", "said"),
    [
        (security(), {"cbitpos": 47, "reduced-phys-bits": 1, "policy": 1}),
        (
            security("<cbitpos>51</cbitpos><reducedPhysBits>5</reducedPhysBits><policy>0x5</policy>"),
            {"cbitpos": 51, "reduced-phys-bits": 5, "policy": 5},
        ),
    ],
)
def test_what_qemu_is_told(element: LaunchSecurity, said: dict[str, int]) -> None:
    domain = completed(document())
    domain.launch_security = element
    ctx = context(domain)
    ctx.caps = sev_caps()
    check_launch_security(domain, ctx)
    (switch,) = launch_security_switches(domain, ctx)
    assert json.loads(switch.to_argv()[1]) == {"qom-type": "sev-guest", "id": "lsec0", **said}
    assert SEV_DEVICE in [file.path for file in boot_files(domain)]
    assert owner_files(domain) == {}


def test_what_the_owner_gives_is_in_files() -> None:
    domain = completed(document())
    domain.launch_security = security("<policy>1</policy><dhCert>QUJD</dhCert><session>REVG</session>")
    ctx = context(domain)
    ctx.caps = sev_caps()
    (switch,) = launch_security_switches(domain, ctx)
    told = json.loads(switch.to_argv()[1])
    files = owner_files(domain)
    assert files == {"dh_cert.base64": "QUJD", "session.base64": "REVG"}
    assert told["dh-cert-file"] == f"{ctx.domain_dir}/dh_cert.base64"
    assert told["session-file"] == f"{ctx.domain_dir}/session.base64"


def test_a_host_without_it() -> None:
    domain = completed(document())
    domain.launch_security = security()
    with pytest.raises(ConfigUnsupported, match="SEV launch security is not supported with this QEMU binary"):
        check_launch_security(domain, context(domain))
    domain.launch_security = LaunchSecurity(type="s390-pv")
    with pytest.raises(ConfigUnsupported, match="S390 PV launch security is not supported"):
        check_launch_security(domain, context(domain))


def test_what_the_host_offers(tmp_path: Path) -> None:
    misc = tmp_path / "sys/fs/cgroup/misc.capacity"
    assert guest_limits(tmp_path) == {}
    misc.parent.mkdir(parents=True)
    misc.write_text("sev 59\nsev_es 450\nother 3\n")
    limits = guest_limits(tmp_path)
    assert limits == {"max-guests": 59, "max-es-guests": 450}
    caps = sev_caps()
    machine = caps.machine("q35")
    assert machine is not None
    host = DomainCapsHost("x86_64", 1024, sev_limits=limits)
    text = domcaps(caps, machine, "kvm", "x86_64", Supported((), (), False), host)
    assert (
        "    <sev supported='yes'>\n      <cbitpos>47</cbitpos>\n      <reducedPhysBits>1</reducedPhysBits>\n"
        "      <maxGuests>59</maxGuests>\n      <maxESGuests>450</maxESGuests>\n    </sev>\n"
    ) in text


@pytest.mark.parametrize(("policy", "encrypts"), [("0x1", False), ("0x4", True), ("0x5", True)])
def test_whose_registers_are_encrypted(policy: str, encrypts: bool) -> None:
    assert security(f"<policy>{policy}</policy>").encrypts_registers is encrypts
