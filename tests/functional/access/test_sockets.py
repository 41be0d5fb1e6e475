"""Who gets in by which socket: polkit's word, and the files' owners and modes."""

import grp
import os
import shutil
import stat
from collections.abc import Iterator

import pytest

from tests.functional.access import people
from tests.functional.access.test_polkit import daemon_with, short_folder
from tests.support import users
from tests.support.daemon import Daemon, make_root, wait_until
from tests.support.polkit import Authority, fake_polkit

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon")
    with short_folder() as folder, fake_polkit(folder) as polkit:
        yield polkit


@pytest.fixture(scope="module")
def daemon(authority: Authority) -> Iterator[Daemon]:
    with daemon_with(authority, 'auth_unix_rw = "polkit"\nauth_unix_ro = "polkit"\n') as running:
        yield running


@pytest.mark.parametrize(("readonly", "action"), [(False, "manage"), (True, "monitor")])
def test_polkit_lets_in(daemon: Daemon, authority: Authority, readonly: bool, action: str) -> None:
    authority.take()
    authority.decide = lambda _: "yes"
    assert people.virsh(daemon, "list", readonly=readonly).returncode == 0
    (question,) = authority.take()
    assert question.action == f"org.libvirt.unix.{action}"
    assert question.subject["uid"] == people.UID
    assert question.flags == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("no", "authentication failed: access denied by policy"),
        ("dismissed", "authentication cancelled: user cancelled authentication process"),
        ("challenge", "no polkit agent available to authenticate action 'org.libvirt.unix.manage'"),
        ("error", "authentication failed: polkit: Action org.libvirt.unix.manage is not registered"),
    ],
)
def test_polkit_keeps_out(daemon: Daemon, authority: Authority, answer: str, words: str) -> None:
    authority.decide = lambda _: answer
    done = people.virsh(daemon, "list")
    assert done.returncode
    assert words in done.stderr


def test_root_needs_nobodys_word(daemon: Daemon, authority: Authority) -> None:
    authority.take()
    authority.decide = lambda _: "no"
    daemon.virsh("list")
    assert not authority.take()


def test_a_bus_that_is_gone_keeps_out_and_may_come_back() -> None:
    with (
        short_folder() as folder,
        fake_polkit(folder) as polkit,
        daemon_with(polkit, 'auth_unix_rw = "polkit"\n') as daemon,
    ):
        assert people.virsh(daemon, "list").returncode == 0
        polkit.stop()
        polkit.start()
        assert people.virsh(daemon, "list").returncode == 0
        polkit.stop()
        assert "cannot reach polkit by D-Bus" in people.virsh(daemon, "list").stderr


def modes(daemon: Daemon) -> dict[str, tuple[int, int]]:
    """Give mode and group of each socket, when all are there: the daemon answers on the first before the
    last.
    """
    folder = daemon.root / "run/libvirt"
    last = folder / "virtqemud-sock-ro"
    wait_until(lambda: last.exists() and stat.S_IMODE(last.stat().st_mode) != 0o600, "all sockets are there")
    return {
        path.name: (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid)
        for path in folder.iterdir()
        if path.is_socket()
    }


def test_the_files_let_in(authority: Authority) -> None:
    group = grp.getgrgid(max(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid < 60000))
    settings = f"""
unix_sock_group = "{group.gr_name}"
unix_sock_ro_perms = "0750"
unix_sock_rw_perms = "0770"
unix_sock_admin_perms = "0750"
auth_unix_rw = "none"
auth_unix_ro = "none"
"""
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(settings)
    daemon = Daemon(root)
    try:
        daemon.start()
        found = modes(daemon)
        for name in ("libvirt-sock", "virtqemud-sock"):
            assert found[name] == (0o770, group.gr_gid)
            assert found[f"{name}-ro"] == (0o750, group.gr_gid)
        for name in ("libvirt-admin-sock", "virtqemud-admin-sock"):
            assert found[name] == (0o750, group.gr_gid)
        assert "Permission denied" in people.virsh(daemon, "list").stderr
        assert people.virsh(daemon, "list", group=group.gr_gid).returncode == 0
        # reading is not enough to connect
        assert "Permission denied" in people.virsh(daemon, "list", readonly=True, group=group.gr_gid).stderr
    finally:
        daemon.clean()


def test_without_settings_the_daemons_user_alone_writes() -> None:
    daemon = Daemon(make_root())
    try:
        daemon.start()
        found = {name: mode for name, (mode, _) in modes(daemon).items()}
        assert found["libvirt-sock"] == 0o700
        assert found["libvirt-sock-ro"] == 0o777
        assert people.virsh(daemon, "list", readonly=True).returncode == 0
        assert "Permission denied" in people.virsh(daemon, "list").stderr
    finally:
        daemon.clean()


def test_the_folder_of_the_sockets_is_a_setting() -> None:
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(f'unix_sock_dir = "{root}/sockets"\n')
    daemon = Daemon(root)
    daemon.socket = root / "sockets/libvirt-sock"
    try:
        daemon.start()
        assert daemon.virsh("uri").strip() == daemon.uri
        wait_until((root / "sockets/virtqemud-sock-ro").exists, "all sockets are there")
        found = {path.name for path in (root / "sockets").iterdir()}
        assert {"libvirt-admin-sock", "virtqemud-admin-sock", "libvirt-sock-ro"} <= found
        assert not (root / "run/libvirt/libvirt-sock").exists()
    finally:
        daemon.clean()


def test_a_group_that_is_not_there_is_refused() -> None:
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text('unix_sock_group = "no-such-group"\n')
    daemon = Daemon(root)
    try:
        done = daemon.run_to_the_end()
        assert done.returncode
        assert "there is no group 'no-such-group'" in done.stderr
    finally:
        daemon.clean()


def test_a_users_daemon_is_theirs_whatever_settings_and_modes_say() -> None:
    with users.users_daemon() as daemon:
        (daemon.root / "etc/libvirt/libvirtd.conf").write_text('unix_sock_rw_perms = "0777"\n')
        daemon.start()
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o700
        assert daemon.virsh("list").strip() == ""  # root may
        for folder in (daemon.root / "run", daemon.root / "run/libvirt"):
            folder.chmod(0o711)
        daemon.socket.chmod(0o777)
        done = people.virsh(daemon, "list")
        assert done.returncode
        assert f"user {people.UID} may not use this daemon" in daemon.log.read_text()
