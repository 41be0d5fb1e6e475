"""Guests that SEV encrypts: refused here, where no hardware does it, and made to run on a host that pretends.

The emulator is real but for the one object that asks the hardware; what it would say of itself is scripted.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import ConfigUnsupported, OperationInvalid, OperationUnsupported, QvirtError
from qvirt.qemu import start
from qvirt.qemu.caps import AccelFacts, EmulatorCaps
from qvirt.record import replace
from qvirt.runtime.life import launch_security
from qvirt.runtime.running import Running
from tests.functional.runtime.helping import program
from tests.functional.runtime.instance import EMULATOR, document, instance, run

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="SEV needs KVM"),
]

#: takes what is SEV's from the command line, and keeps the object's words
WITHOUT_SEV = f"""#!/bin/sh
left=$#
while [ $left -gt 0 ]; do
    word=$1; shift; left=$((left - 1))
    case $word,$1 in -object,*sev-guest*)
        printf %s "$1" > "$(dirname "$0")/said"; shift; left=$((left - 1)); continue ;;
    esac
    set -- "$@" "$(printf %s "$word" | sed s/,confidential-guest-support=lsec0//)"
done
exec {EMULATOR} "$@"
"""

SECURITY = """</devices><launchSecurity type='sev'>
  <policy>0x0003</policy><dhCert>QUJD</dhCert><session>REVG</session>
</launchSecurity>"""


def guest(emulator: str = EMULATOR) -> str:
    text = document("sealed").replace("type='qemu'", "type='kvm'").replace(EMULATOR, emulator)
    return text.replace("</devices>", SECURITY)


@pytest.fixture
def sev_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Pretend that the host has SEV; gives what QEMU is asked of it."""
    real_accel, real_execute = EmulatorCaps.accel, Running.execute
    asked: list[tuple[str, Any]] = []
    answers: dict[str, Any] = {
        "query-sev-launch-measure": {"data": "bWVhc3VyZWQ="},
        "query-sev": {"api-major": 1, "api-minor": 49, "build-id": 6, "policy": 3, "state": "launch-secret"},
        "sev-inject-launch-secret": {},
    }

    def accel(self: EmulatorCaps, name: str) -> AccelFacts:
        facts = real_accel(self, name)
        return replace(facts, sev={"cbitpos": 47, "reduced-phys-bits": 1}) if name == "kvm" else facts

    async def execute(
        self: Running, command: str, arguments: Mapping[str, Any] | None = None, **named: Any
    ) -> Any:
        if command in answers:
            asked.append((command, arguments))
            return answers[command]
        return await real_execute(self, command, arguments, **named)

    device = tmp_path / "sev"
    device.touch()
    monkeypatch.setattr(EmulatorCaps, "accel", accel)
    monkeypatch.setattr(Running, "execute", execute)
    monkeypatch.setattr(start, "SEV_DEVICE", str(device))
    return asked


def roots(it: Any) -> None:
    """Let guests use KVM wherever root may."""
    it.paths.conf.parent.mkdir(parents=True)
    it.paths.conf.write_text('user = "root"\ngroup = "root"\n')


def test_an_encrypted_guest(sev_host: list[tuple[str, Any]]) -> None:
    async def scenario() -> None:
        with instance() as it:
            roots(it)
            emulator = program(it.root / "bin", "qemu", WITHOUT_SEV)
            async with it.serve() as hv:
                domain = await hv.create(guest(str(emulator)), paused=True)
                folder = Path(domain.need_running().folder)
                assert (folder / "dh_cert.base64").read_text() == "QUJD"
                assert (folder / "session.base64").read_text() == "REVG"
                assert (folder / "session.base64").stat().st_mode & 0o777 == 0o600
                said = (emulator.parent / "said").read_text()
                assert f'"session-file":"{folder}/session.base64"' in said
                assert '"cbitpos":47' in said

                found = await launch_security.info(domain)
                assert {param.name: param.value for param in found} == {
                    "sev-measurement": "bWVhc3VyZWQ=",
                    "sev-api-major": 1,
                    "sev-api-minor": 49,
                    "sev-build-id": 6,
                    "sev-policy": 3,
                }
                await launch_security.set_secret(domain, "aGVhZA==", "c2VjcmV0", 4096)
                assert sev_host[-1] == (
                    "sev-inject-launch-secret",
                    {"packet-header": "aGVhZA==", "secret": "c2VjcmV0", "gpa": 4096},
                )
                await domain.resume()
                with pytest.raises(OperationInvalid, match="domain must be in a paused state"):
                    await launch_security.set_secret(domain, "a", "b", None)
                await domain.destroy()
                assert it.traces() == []

    run(scenario())


def test_a_host_that_cannot() -> None:
    async def scenario() -> None:
        with instance() as it:
            roots(it)
            async with it.serve() as hv:
                with pytest.raises(ConfigUnsupported, match="SEV launch security is not supported with this"):
                    await hv.define(guest())
                domain = await hv.define(document("plain"))
                assert await launch_security.info(domain) == []
                with pytest.raises(OperationUnsupported, match="only supported in SEV-enabled domains"):
                    await launch_security.set_secret(domain, "a", "b", None)

    run(scenario())


def test_a_firmware_that_is_not_reached(sev_host: list[tuple[str, Any]], tmp_path: Path) -> None:
    async def scenario() -> None:
        with instance() as it:
            roots(it)
            (tmp_path / "sev").unlink()
            async with it.serve() as hv:
                with pytest.raises(QvirtError, match=r"Cannot access .*/sev'"):
                    await hv.create(guest())
                assert it.traces() == []

    run(scenario())
