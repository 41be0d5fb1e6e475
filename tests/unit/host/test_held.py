"""Folders that are somebody else's, and the links they put there."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qvirt.errors import SystemError_
from qvirt.host.held import held
from qvirt.runtime.life import launch
from qvirt.runtime.paths import Paths, make_folders
from qvirt.security.stack import Guard

_QEMU = 64055

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")]


def _theirs(link: Path, target: Path) -> None:
    link.symlink_to(target)
    os.chown(link, _QEMU, _QEMU, follow_symlinks=False)


def _guard() -> Guard:
    own: Any = lambda path, **_: os.chown(path, _QEMU, _QEMU)  # noqa: E731
    return cast(Guard, SimpleNamespace(own=own))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    folder.mkdir(mode=0o700)
    (folder / "file").write_text("precious")
    return folder


def test_links_of_ours_are_followed_wherever_they_are(tmp_path: Path, ours: Path) -> None:
    (tmp_path / "a").symlink_to("b/../c")
    (tmp_path / "b").mkdir()
    (tmp_path / "c").symlink_to(ours)
    with held(tmp_path / "a" / "file") as name:
        assert Path(name).read_text() == "precious"
        assert os.readlink(name) == str(ours / "file")


@pytest.mark.parametrize("path", ["link", "link/file", "way/link/file"])
def test_links_of_others_are_not(tmp_path: Path, ours: Path, path: str) -> None:
    _theirs(tmp_path / "link", ours)
    (tmp_path / "way").symlink_to(".")
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many levels"), held(tmp_path / path):
        pass
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"), held(tmp_path / "a"):
        pass


@pytest.mark.parametrize("folder", ["domain-7-next", "way/domain-7-next"])
def test_a_guest_is_given_no_folder_of_ours(tmp_path: Path, ours: Path, folder: str) -> None:
    """The name of the next guest's folder is known beforehand."""
    _theirs(tmp_path / folder.partition("/")[0], ours)
    if "/" in folder:
        (ours / "domain-7-next").mkdir(mode=0o700)
    with pytest.raises(SystemError_, match="unable to create directory"):
        launch.make_folders([str(tmp_path / folder)], _guard())
    for path in (ours, *ours.iterdir()):
        assert path.stat().st_uid == 0
        assert path.stat().st_mode & 0o777 != 0o750


def test_the_instances_folders_are_no_links_of_qemus(tmp_path: Path, ours: Path) -> None:
    paths = Paths.root(tmp_path / "root")
    make_folders(paths, (_QEMU, _QEMU))
    dump = paths.lib / "dump"
    assert dump.stat().st_uid == _QEMU
    dump.rmdir()
    _theirs(dump, ours)
    with pytest.raises(SystemError_):
        make_folders(paths, (_QEMU, _QEMU))
    assert ours.stat().st_uid == 0


def test_a_variable_store_is_given_and_nothing_in_its_place(tmp_path: Path, ours: Path) -> None:
    template = tmp_path / "template"
    template.write_text("variables")
    store = tmp_path / "store"

    def swap(path: str, **_: object) -> None:
        """QEMU is quick: it puts a link there before the file is given to it."""
        store.unlink()
        _theirs(store, ours / "file")
        os.chown(path, _QEMU, _QEMU)

    launch.prepare_nvram(str(store), str(template), cast(Guard, SimpleNamespace(own=swap)), reset=False)
    assert (ours / "file").stat().st_uid == 0
