"""The answers a client gets, from recorded emulators instead of installed ones."""

import asyncio
import json
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qvirt.errors import CpuIncompatible, QvirtError
from qvirt.host.cpu import host_arch
from qvirt.host.emulators import EmulatorTable
from qvirt.host.firmware import FirmwareTable
from qvirt.host.queries import HostQueries
from qvirt.qemu.caps import EmulatorCaps, Overview

DATA = Path(__file__).parents[2] / "data" / "caps"
T = TypeVar("T")
pytestmark = pytest.mark.skipif(host_arch() != "x86_64", reason="the recorded host emulator is x86_64's")


class RecordedTable(EmulatorTable):
    """Emulators whose facts are read from tests/data by the name of the file."""

    async def caps(self, emulator: Path | str) -> EmulatorCaps:
        target = Path(emulator).name.removeprefix("qemu-system-")
        value = json.loads((DATA / f"qemu-7.2-{target}.json").read_bytes())
        return EmulatorCaps.from_json(value | {"emulator": str(emulator)})

    async def overviews(self, emulators: Iterable[str]) -> dict[str, Overview | QvirtError]:
        return {path: await self.caps(path) for path in emulators}


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    for target in ("x86_64", "s390x"):
        path = tmp_path / f"qemu-system-{target}"
        path.write_text("")
        path.chmod(0o755)
    return tmp_path


def run(bin_dir: Path, ask: "Any") -> Any:
    async def main() -> Any:
        table = RecordedTable(None)
        queries = HostQueries(table, FirmwareTable([]), search=[str(bin_dir)], nvram=[])
        answer: Coroutine[Any, Any, Any] = ask(queries)
        return await answer

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_capabilities(bin_dir: Path) -> None:
    document = run(bin_dir, lambda q: q.capabilities())
    assert document.count("<guest>") == 3
    # Without an emulator of its own, i686 runs on the host's.
    assert document.count(f"<emulator>{bin_dir}/qemu-system-x86_64</emulator>") == 2
    assert "<arch name='i686'>" in document
    assert "<arch name='s390x'>" in document


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ((None, None, None, None), ("x86_64", "pc-i440fx-7.2")),
        ((None, None, "q35", "qemu"), ("x86_64", "pc-q35-7.2")),
        ((None, "i686", None, None), ("i686", "pc-i440fx-7.2")),
        ((None, "s390x", None, "qemu"), ("s390x", "s390-ccw-virtio-7.2")),
    ],
)
def test_domain_capabilities(
    bin_dir: Path, arguments: tuple[str | None, ...], facts: tuple[str, str]
) -> None:
    document = run(bin_dir, lambda q: q.domain_capabilities(*arguments))
    assert f"<arch>{facts[0]}</arch>" in document
    assert f"<machine>{facts[1]}</machine>" in document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "foo", None, None), "invalid argument: unknown architecture: foo"),
        ((None, None, None, "foo"), "invalid argument: unknown virttype: foo"),
        (
            (None, None, None, "xen"),
            "invalid argument: Emulator '{bin}/qemu-system-x86_64' does not support virt type 'xen'",
        ),
        (
            (None, None, "nope", None),
            "invalid argument: the machine 'nope' is not supported by emulator '{bin}/qemu-system-x86_64'",
        ),
        (
            (None, "aarch64", None, None),
            "unsupported configuration: unable to find any emulator to serve 'aarch64' architecture",
        ),
        (
            ("/x/qemu-system-i386", "x86_64", None, None),
            "invalid argument: Emulator '/x/qemu-system-i386' does not support arch 'x86_64'",
        ),
    ],
)
def test_what_does_not_fit(bin_dir: Path, arguments: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        run(bin_dir, lambda q: q.domain_capabilities(*arguments))
    assert str(caught.value) == message.format(bin=bin_dir)


def host_cpu(model: str, *features: str) -> str:
    listed = "".join(f"<feature name='{name}'/>" for name in features)
    return f"<cpu><arch>x86_64</arch><model>{model}</model>{listed}</cpu>"


def test_hypervisor_cpus(bin_dir: Path) -> None:
    tcg = (None, None, None, "qemu")
    assert run(bin_dir, lambda q: q.compare_hypervisor_cpu(*tcg, host_cpu("Penryn"))) == 2
    assert run(bin_dir, lambda q: q.compare_hypervisor_cpu(*tcg, host_cpu("Cooperlake"))) == 0
    with pytest.raises(CpuIncompatible, match="does not provide required features: "):
        run(bin_dir, lambda q: q.compare_hypervisor_cpu(*tcg, host_cpu("Opteron_G4"), fail_incompatible=True))
    documents = [host_cpu("EPYC"), host_cpu("Opteron_G5")]
    found = run(bin_dir, lambda q: q.baseline_hypervisor_cpu(*tcg, documents))
    assert "<model fallback='forbid'>Opteron_G5</model>" in found
    assert found.count("policy='disable'") == 6
    with pytest.raises(QvirtError, match="not supported for arch s390x"):
        run(bin_dir, lambda q: q.baseline_hypervisor_cpu(None, "s390x", None, "qemu", documents))


def test_host_cpus(bin_dir: Path) -> None:
    assert run(bin_dir, lambda q: q.compare_cpu("<cpu/>")) == 2
    assert run(bin_dir, lambda q: q.compare_cpu("<cpu><arch>s390x</arch><model>z13</model></cpu>")) == 0
    found = run(bin_dir, lambda q: q.baseline_cpu([host_cpu("Penryn"), host_cpu("Nehalem", "invtsc")]))
    assert found == "<cpu mode='custom' match='exact'>\n  <model fallback='allow'>Penryn</model>\n</cpu>\n"
    with pytest.raises(QvirtError, match="cannot compute baseline CPU of s390x architecture"):
        run(bin_dir, lambda q: q.baseline_cpu(["<cpu><arch>s390x</arch><model>z13</model></cpu>"]))
