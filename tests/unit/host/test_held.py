"""Folders that are somebody else's, and the links they put there."""

import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qvirt.errors import SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.held import held
from qvirt.host.unix import connect
from qvirt.runtime.life import launch, lending
from qvirt.runtime.paths import Paths, make_folders
from qvirt.security import acl
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
    for folder in (paths.lib, paths.lib / "dump", paths.lib / "channel/target"):
        # QEMU may look into them, and not put anything in the place of what is there
        assert (folder.stat().st_uid, folder.stat().st_gid) == (0, _QEMU)
        assert not folder.stat().st_mode & 0o022
    dump = paths.lib / "dump"
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


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "file"])
def test_a_key_is_written_to_nothing_that_is_there(tmp_path: Path, ours: Path, kind: str) -> None:
    key = tmp_path / "master-key.aes"
    match kind:
        case "link":
            _theirs(key, ours / "file")
        case "hard link":
            key.hardlink_to(ours / "file")
        case "pipe":
            os.mkfifo(key)
        case _:
            key.write_text("longer than any key is, and not ours")
    launch.write_master_key(str(tmp_path), bytes(range(32)), _guard())
    assert (key.stat().st_uid, key.stat().st_mode & 0o777, key.stat().st_nlink) == (_QEMU, 0o600, 1)
    assert launch.read_master_key(str(tmp_path)) == bytes(range(32))
    assert (ours / "file").read_text() == "precious"
    assert (ours / "file").stat().st_uid == 0


@pytest.mark.parametrize("kind", ["link", "pipe", "long", "short", "none"])
def test_what_qemu_puts_in_the_place_of_its_key_is_not_read(tmp_path: Path, kind: str) -> None:
    key = tmp_path / "master-key.aes"
    match kind:
        case "link":
            _theirs(key, Path("/dev/zero"))
        case "pipe":
            os.mkfifo(key)
        case "long":
            key.touch()
            os.truncate(key, 1 << 40)
        case "short":
            key.touch()
    with pytest.raises(SystemError_, match="failed to read the master key file"):
        launch.read_master_key(str(tmp_path))


@pytest.mark.parametrize("who", ["qemu", "root"])
def test_a_link_to_somebody_elses_socket(tmp_path: Path, who: str) -> None:
    """Whoever listens there would take the daemon's word for root's."""
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as sock:
        other.bind(str(tmp_path / "other"))
        other.listen()
        link = tmp_path / "agent"
        link.symlink_to(tmp_path / "other")
        if who == "root":
            connect(sock, str(link))
            return
        os.chown(link, _QEMU, _QEMU, follow_symlinks=False)
        with pytest.raises(OSError, match="Too many levels"):
            connect(sock, str(link))


def test_what_is_no_socket_is_not_connected_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileExistsError):
        connect(sock, str(tmp_path / "file"))


def test_a_list_of_who_may_search_is_ours_alone(tmp_path: Path, ours: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o750)
    user = QemuUser(_QEMU, _QEMU)
    try:
        acl.let_search(folder, user.uid)
    except OSError:
        pytest.skip("this file system keeps no lists")
    entries = acl.read(folder)
    assert entries is not None
    assert acl.allows(entries, folder.stat(), user, 1)
    acl.forget(folder, user.uid)
    assert acl.read(folder) is None
    _theirs(tmp_path / "link", ours)
    for change in (acl.let_search, acl.forget):
        with pytest.raises(OSError, match="Too many levels"):
            change(tmp_path / "link", user.uid)
    assert acl.read(ours) is None


def test_a_pipe_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    pipe, log = tmp_path / "pipe", tmp_path / "log"
    os.mkfifo(pipe)

    def late(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        lending._create(str(pipe))
        lending._create(str(log))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert log.stat().st_mode & 0o777 == 0o600
