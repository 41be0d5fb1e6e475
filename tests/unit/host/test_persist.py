"""Files are old or new; a file system that hangs holds up nobody else."""

import asyncio
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from qvirt.errors import OperationTimeout, SystemError_
from qvirt.host.persist import FileWorker, is_leftover, remove, remove_tree, write_atomic


def test_writes_replace_and_set_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    write_atomic(path, b"old")
    write_atomic(path, b"new", 0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) & ~0o022 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.xml"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    write_atomic(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SystemError_, match=r"cannot write file '.*a\.xml'"):
            write_atomic(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.xml"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.xml.new").symlink_to(victim)
    with pytest.raises(SystemError_):
        write_atomic(tmp_path / "a.xml", b"data")
    assert victim.read_text() == "mine"


def test_remove_tells_whether_it_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    assert remove(path)
    assert not remove(path)
    assert is_leftover(tmp_path / "a.xml.new")


def test_work_that_hangs_ends_in_an_error() -> None:
    async def scenario() -> None:
        worker = FileWorker(2)
        release = threading.Event()
        with pytest.raises(OperationTimeout, match="image 'x': the file system did not answer"):
            await worker.run("image 'x'", release.wait, deadline=0.05)
        assert await worker.run("other", lambda: 42) == 42
        release.set()
        await worker.close()

    asyncio.run(scenario())


def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = FileWorker(1)
        release = threading.Event()

        def work() -> None:
            release.wait(5)
            (tmp_path / "done").touch()

        task = asyncio.ensure_future(worker.run("work", work))
        await asyncio.sleep(0)
        task.cancel()
        release.set()
        await worker.close()
        assert (tmp_path / "done").exists()

    asyncio.run(scenario())
    assert os.listdir(tmp_path) == ["done"]


def test_a_folder_goes_however_deep_it_is(tmp_path: Path) -> None:
    """A guest may have filled it, in order that nobody gets it away."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.symlink(precious, "link", dir_fd=at)
        os.mkfifo("pipe", dir_fd=at)
        for name in ("a", "b"):
            os.mkdir(name, dir_fd=at)
        below = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    before = sorted(os.listdir("/proc/self/fd"))
    remove_tree(folder)
    assert not folder.exists()
    assert (precious / "file").read_text() == "kept"
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_link_is_no_folder_to_be_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "folder").symlink_to(precious)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "folder")
    assert precious.is_dir()
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "none")
