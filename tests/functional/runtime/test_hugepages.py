"""Memory in huge pages: its folders come and go, a missing mount is told; folders stand for the mounts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import InternalError
from qvirt.runtime import documents
from qvirt.runtime.domain import Domain
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import Instance, document, instance, run
from tests.functional.runtime.test_hotplug_kinds import DIMM, roomy

pytestmark = pytest.mark.qemu

HUGE = "<memoryBacking><hugepages/></memoryBacking>"


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Instance]:
    """An instance on a machine with pages of 2 MiB and of 1 GiB; QEMU takes any folder for a mount."""
    with instance() as made:
        mounts = tmp_path / "mounts"
        line = "hugetlbfs {0}/huge{1} hugetlbfs rw,pagesize={1} 0 0\n"
        mounts.write_text("".join(line.format(made.root, size) for size in ("2M", "1G")))
        for size in ("2M", "1G"):
            (made.root / f"huge{size}").mkdir()
        monkeypatch.setattr(documents, "MOUNTS", mounts)
        yield made


def folders(it: Instance) -> list[str]:
    """Return the folders of guests on the mounts, by page size and number of the run."""
    found = it.root.glob("huge*/libvirt/qemu/*")
    return sorted(f"{path.parents[2].name}/{path.name}" for path in found)


def files_of(domain: Domain) -> set[str]:
    """Return the folders in which the files of a guest's memory were, which have no name any more."""
    maps = Path(f"/proc/{domain.need_running().pid}/maps").read_text()
    return set(re.findall(r"/(huge(?:2M|1G)/libvirt/qemu/\S+)/qemu_back_mem", maps))


def test_memory_of_huge_pages(it: Instance) -> None:
    async def scenario() -> None:
        async with it.serve() as hv:
            domain = await hv.create(document("huge", extra=HUGE), paused=True)
            name = f"{domain.need_running().id}-huge"
            assert folders(it) == [f"huge2M/{name}"]
            assert files_of(domain) == {f"huge2M/libvirt/qemu/{name}"}
            status = Path(it.root / f"huge2M/libvirt/qemu/{name}").stat()
            assert status.st_mode & 0o777 == 0o750
            if hv.user is not None:
                assert status.st_uid == hv.user.uid
            await domain.destroy()
            assert folders(it) == []
            assert it.traces() == []

    run(scenario())


def test_pages_of_several_sizes_and_a_module(it: Instance) -> None:
    async def scenario() -> None:
        pages = "<memoryBacking><hugepages><page size='1' unit='G' nodeset='0'/></hugepages></memoryBacking>"
        async with it.serve() as hv:
            text = roomy("sizes").replace("<devices>", f"{pages}<devices>")
            domain = await hv.create(text, paused=True)
            name = f"{domain.need_running().id}-sizes"
            assert files_of(domain) == {f"huge1G/libvirt/qemu/{name}"}
            module = DIMM.replace("<target>", "<source><pagesize unit='M'>2</pagesize></source><target>")
            await hotplug.attach(domain, module, Modify.LIVE)
            assert files_of(domain) == {f"huge{size}/libvirt/qemu/{name}" for size in ("1G", "2M")}
            assert folders(it) == [f"huge1G/{name}", f"huge2M/{name}"]
        async with it.serve() as hv:  # a daemon that comes later takes them away all the same
            await hv.domains.by_name("sizes").destroy()
            assert folders(it) == []

    run(scenario())


@pytest.mark.parametrize(
    ("pages", "words"),
    [("<page size='16' unit='M'/>", "Unable to find any usable hugetlbfs mount for 16384 KiB")],
)
def test_a_size_that_is_not_mounted_is_refused_before_anything_is_made(
    it: Instance, pages: str, words: str
) -> None:
    async def scenario() -> None:
        backing = f"<memoryBacking><hugepages>{pages}</hugepages></memoryBacking>"
        async with it.serve() as hv:
            with pytest.raises(InternalError, match=words):
                await hv.create(document("huge", extra=backing))
            assert folders(it) == []
            assert it.traces() == []

    run(scenario())


def test_without_mounts_it_is_said(it: Instance) -> None:
    async def scenario() -> None:
        conf = it.paths.etc / "qemu.conf"
        conf.parent.mkdir(parents=True, exist_ok=True)
        conf.write_text('hugetlbfs_mount = ""\n')
        async with it.serve() as hv:
            with pytest.raises(InternalError, match="not mounted or disabled by administrator config"):
                await hv.create(document("huge", extra=HUGE))

    run(scenario())
