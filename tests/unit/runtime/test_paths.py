"""Where each instance keeps its files, and that only one daemon serves it."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from qvirt.errors import OperationFailed, SystemError_
from qvirt.runtime.paths import InstanceLock, Paths, make_folders


def test_system() -> None:
    paths = Paths.system()
    assert str(paths.definition("a")) == "/etc/libvirt/qemu/a.xml"
    assert str(paths.autostart_link("a")) == "/etc/libvirt/qemu/autostart/a.xml"
    assert str(paths.status("a")) == "/run/libvirt/qemu/a.xml"
    assert paths.dirs.channel == "/var/lib/libvirt/qemu/channel/target"
    assert str(paths.swtpm_storage) == "/var/lib/libvirt/swtpm"
    assert str(paths.swtpm_log) == "/var/log/swtpm/libvirt/qemu"
    assert paths.dirs.swtpm == "/run/libvirt/qemu/swtpm"


def test_session_follows_xdg(tmp_path: Path) -> None:
    paths = Paths.session({"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/5"}, 5)
    assert str(paths.definitions) == "/home/u/.config/libvirt/qemu"
    assert str(paths.run) == "/run/user/5/libvirt/qemu/run"
    assert str(paths.lib) == "/home/u/.config/libvirt/qemu/lib"
    assert str(paths.log) == "/home/u/.cache/libvirt/qemu/log"
    assert str(paths.swtpm_storage) == "/home/u/.config/libvirt/qemu/swtpm"
    assert str(paths.swtpm_log) == "/home/u/.cache/libvirt/swtpm/log"
    assert paths.dirs.swtpm == "/run/user/5/libvirt/swtpm"
    bare = Paths.session({"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, 2**31)
    assert str(bare.sockets) == "/c/libvirt"


def test_a_session_without_a_home_has_that_of_its_user() -> None:
    entry = pwd.getpwuid(0)
    assert str(Paths.session({}, 0).etc) == f"{entry.pw_dir}/.config/libvirt"
    assert str(Paths.session({"HOME": ""}, 0).sockets) == f"{entry.pw_dir}/.cache/libvirt"


def test_a_users_two_daemons_with_other_runtime_folders_would_have_the_same_guests(tmp_path: Path) -> None:
    """One logged in with such a folder, one by cron without."""
    home = {"HOME": str(tmp_path)}
    first, second = (
        Paths.session({**home, "XDG_RUNTIME_DIR": str(tmp_path / "run")}, 5),
        Paths.session(home, 5),
    )
    assert first.run != second.run
    for paths in (first, second):
        make_folders(paths, None)
    lock = InstanceLock(first)
    with pytest.raises(OperationFailed, match=f"{second.lib}/driver.pid': another daemon"):
        InstanceLock(second)
    lock.release()
    InstanceLock(second).release()


def test_lock_holds_against_this_and_another_process(tmp_path: Path) -> None:
    paths = Paths.root(tmp_path)
    make_folders(paths, None)
    lock = InstanceLock(paths)
    with pytest.raises(OperationFailed, match="another daemon"):
        InstanceLock(paths)
    # the way libvirt takes it: a record lock on the first byte
    script = (
        "import fcntl,sys; f=open(sys.argv[1],'r+')\n"
        "try: fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, 1, 0)\n"
        "except OSError: sys.exit(7)"
    )
    command = [sys.executable, "-c", script, str(paths.run / "driver.pid")]
    assert subprocess.run(command, check=False).returncode == 7
    lock.release()
    assert subprocess.run(command, check=False).returncode == 0
    InstanceLock(paths).release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is lent others' folders")
@pytest.mark.parametrize("below", ["", "etc", "run/libvirt", "var/log/libvirt/qemu"])
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_a_tree_that_is_somebody_elses_is_not_served(tmp_path: Path, below: str, how: str) -> None:
    """Whoever may write there would have root truncate, read and run what they like."""
    tree = tmp_path / "tree"
    folder = tree / below
    folder.parent.mkdir(parents=True, exist_ok=True)
    other = tmp_path / "other"
    other.mkdir()
    match how:
        case "owner":
            folder.mkdir()
            os.chown(folder, 4711, 4711)
        case "mode":
            folder.mkdir()
            folder.chmod(0o777)
        case _:
            folder.symlink_to(other)
            os.chown(folder, 4711, 4711, follow_symlinks=False)
    with pytest.raises((OperationFailed, SystemError_)):
        make_folders(Paths.root(tree), None)
    assert not list(other.iterdir())
    assert not list(tree.rglob("driver.pid"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is lent others' folders")
def test_a_cache_that_libvirt_has_given_to_qemus_user(tmp_path: Path) -> None:
    paths = Paths.root(tmp_path)
    make_folders(paths, None)
    os.chown(paths.cache, 4711, 4711)
    make_folders(paths, None)
    assert paths.cache.stat().st_uid == 0
