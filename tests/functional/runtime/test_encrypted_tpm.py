"""A TPM whose state is encrypted with a secret: what is on disk, who sees the secret, what another does."""

import shutil
from pathlib import Path

import pytest

from qvirt.errors import NoSecret, OperationFailed
from qvirt.runtime.hypervisor import Hypervisor
from tests.functional.runtime.helping import helped, state_of
from tests.functional.runtime.instance import Instance, instance, run

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm-tools is not installed"),
]

UUID = "7d1b2c3d-1111-2222-3333-444455556666"
SECRET = f"<secret><uuid>{UUID}</uuid><usage type='vtpm'><name>mine</name></usage></secret>"
VALUE = b"open sesame"
#: how an encrypted state begins is marked in its header: its flags, in network byte order
ENCRYPTED = 1


def tpm(inside: str = "") -> str:
    return helped(
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'>"
        f"<encryption secret='{UUID}'/>{inside}</backend></tpm>"
    )


def is_encrypted(state: Path) -> bool:
    """Tell whether swtpm has encrypted a state: version, least version, header size, flags, length."""
    data = state.read_bytes()
    assert data[:2] == bytes((2, 1))
    return bool(int.from_bytes(data[4:6], "big") & ENCRYPTED)


def words_of(it: Instance) -> bytes:
    """Return the command lines and environments of all processes of the tree."""
    found = b""
    for pid in it.processes():
        found += Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    return found


async def with_value(hv: Hypervisor, value: bytes) -> None:
    assert hv.secrets is not None
    await hv.secrets.set_value(hv.secrets.by_uuid(UUID), value)


@pytest.mark.parametrize("banks", ["", "<active_pcr_banks><sha384/></active_pcr_banks>"])
def test_a_state_is_encrypted(banks: str) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                assert hv.secrets is not None
                domain = await hv.define(tpm(banks))
                for wrong in ("no secret with matching uuid", "does not have a value"):
                    with pytest.raises(NoSecret, match=wrong):
                        await domain.start(paused=True)
                    assert not state_of(it).exists()
                    await hv.secrets.define(SECRET)
                await with_value(hv, VALUE)
                await domain.start(paused=True)
                words = words_of(it)
                assert b"--key\0pwdfd=" in words
                assert VALUE not in words
                await domain.destroy()
                state = state_of(it) / "tpm2/tpm2-00.permall"
                assert is_encrypted(state)
                assert VALUE not in (it.paths.swtpm_log / "helped-swtpm.log").read_bytes()

                await domain.start(paused=True)
                await domain.destroy()

                before = state.read_bytes()
                await with_value(hv, b"another")
                with pytest.raises(OperationFailed, match=f"is not encrypted with secret '{UUID}': .*HMAC"):
                    await domain.start(paused=True)
                assert state.read_bytes() == before
                assert it.traces() == []
                await with_value(hv, VALUE)
                await domain.start(paused=True)
                await domain.destroy()

    run(scenario())


def test_a_state_that_was_not_encrypted_is_not_taken_for_one() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                assert hv.secrets is not None
                await hv.secrets.define(SECRET)
                await with_value(hv, VALUE)
                plain = tpm().replace(f"<encryption secret='{UUID}'/>", "")
                domain = await hv.create(plain, paused=True)
                await domain.destroy()
                assert not is_encrypted(state_of(it) / "tpm2/tpm2-00.permall")
                with pytest.raises(OperationFailed, match="is not encrypted with secret"):
                    await hv.create(tpm(), paused=True)
                assert it.traces() == []

    run(scenario())
