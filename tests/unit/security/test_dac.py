"""Who may get where, and what is said when they may not."""

import os
import struct
from pathlib import Path

import pytest

from qvirt.errors import InvalidArg
from qvirt.host.asuser import as_user
from qvirt.host.config import QemuUser
from qvirt.model.seclabel import SecLabel
from qvirt.security.dac import parse_label, user_of
from qvirt.security.reach import is_open_to_all, obstacles, unsearchable

STRANGER = QemuUser(os.getuid() + 4711, os.getgid() + 4711, (os.getgid() + 4711,))
OWN = (STRANGER.uid, STRANGER.gid)


def closed_tree(tmp_path: Path) -> Path:
    image = tmp_path / "outer" / "inner" / "image"
    image.parent.mkdir(parents=True)
    image.touch(0o644)
    image.parent.chmod(0o700)
    (tmp_path / "outer").chmod(0o710)
    return image


def test_every_closed_folder_is_found_with_owner_mode_and_remedy(tmp_path: Path) -> None:
    image = closed_tree(tmp_path)
    found = {x.path: str(x) for x in obstacles(str(image), STRANGER, write=True, owner=OWN)}
    assert [path for path in found if path.startswith(str(tmp_path / "outer"))] == [
        str(tmp_path / "outer"),
        str(image.parent),
    ]
    said = found[str(image.parent)]
    assert "mode 0700, owner " in said
    assert str(STRANGER.uid) in said or "chmod o+x" in said
    assert said.endswith(f"{image.parent}', or move the file")
    first = unsearchable(str(image), STRANGER)
    assert first is not None
    assert str(tmp_path / "outer").startswith(str(first))


def test_a_group_is_enough_and_the_smallest_remedy(tmp_path: Path) -> None:
    image = closed_tree(tmp_path)
    member = QemuUser(STRANGER.uid, STRANGER.gid, (os.getgid(),))
    found = [x for x in obstacles(str(image), member, write=False, owner=OWN) if "outer" in x.path]
    assert [x.path for x in found] == [str(image.parent)]
    assert f"chmod g+x {image.parent}" in found[0].remedy


def test_access_control_lists_are_read(tmp_path: Path) -> None:
    image = closed_tree(tmp_path)
    entries = [(1, 7, 0xFFFFFFFF), (2, 1, STRANGER.uid), (4, 0, 0xFFFFFFFF), (16, 1, 0xFFFFFFFF),
               (32, 0, 0xFFFFFFFF)]  # fmt: skip
    for mask, opened in ((1, True), (4, False)):
        entries[3] = (16, mask, 0xFFFFFFFF)
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            for folder in (image.parent, image.parent.parent):
                os.setxattr(folder, "system.posix_acl_access", acl)
        except OSError as error:
            pytest.skip(f"no access control lists here: {error.strerror}")
        found = [x for x in obstacles(str(image), STRANGER, write=True, owner=OWN) if "outer" in x.path]
        assert (found == []) is opened


def opened_by(entries: list[tuple[int, int, int]], folder: Path) -> str:
    """Give a folder an access control list, and return the remedy for a stranger."""
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, "system.posix_acl_access", data)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
    found = [x for x in obstacles(str(folder / "image"), STRANGER, write=False, owner=OWN)]
    return next(x.remedy for x in found if x.path == str(folder))


def test_the_remedy_helps_where_a_list_or_the_owner_decides(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "image").touch()
    nobody = 0xFFFFFFFF
    denied = [(1, 7, nobody), (2, 4, STRANGER.uid), (4, 7, nobody), (16, 7, nobody), (32, 7, nobody)]
    assert f"setfacl -m u:{STRANGER.uid}:rx {folder}" in opened_by(denied, folder)
    masked = [(1, 7, nobody), (2, 1, STRANGER.uid), (4, 7, nobody), (16, 0, nobody), (32, 0, nobody)]
    assert f"setfacl -m u:{STRANGER.uid}:x {folder}" in opened_by(masked, folder)
    os.removexattr(folder, "system.posix_acl_access")
    if os.geteuid() == 0:
        folder.chmod(0o077)
        os.chown(folder, STRANGER.uid, STRANGER.gid)
        found = next(x for x in obstacles(str(folder / "image"), STRANGER, write=False, owner=OWN)
                     if x.path == str(folder))  # fmt: skip
        assert f"chmod u+x {folder}" in found.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another")
def test_the_kernel_has_the_last_word(tmp_path: Path) -> None:
    """A file system may know more than its modes say: here what is shown is not what counts."""
    image = tmp_path / "image"
    image.touch()
    os.chown(image, STRANGER.uid, STRANGER.gid)
    image.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    assert as_user(STRANGER, lambda: image.open("rb").close()) is None
    image.chmod(0o000)
    with pytest.raises(PermissionError):
        as_user(STRANGER, lambda: image.open("rb").close())
    os.chown(image, 0, 4711)
    image.chmod(0o040)
    member = QemuUser(STRANGER.uid, STRANGER.gid, (4711,))
    assert as_user(member, lambda: image.open("rb").close()) is None
    assert os.geteuid() == 0
    image.open("rb").close()


def test_the_file_itself(tmp_path: Path) -> None:
    image = tmp_path / "a"
    image.touch()

    def last(mode: int, *, write: bool, owner: tuple[int, int] | None) -> str:
        image.chmod(mode)
        found = [x for x in obstacles(str(image), STRANGER, write=write, owner=owner) if x.path == str(image)]
        return str(found[0]) if found else ""

    assert last(0o600, write=True, owner=OWN) == ""
    assert "mode 0444 forbids it to QEMU's user even if it is lent" in last(0o444, write=True, owner=OWN)
    assert last(0o444, write=False, owner=OWN) == ""
    assert "it stays as it is (mode 0644, owner " in last(0o644, write=True, owner=None)
    theirs = last(0o600, write=True, owner=(815, 816))
    assert "even if it is lent to 815:816, as its <seclabel> says; allow it with 'chmod o+rw" in theirs
    assert last(0o644, write=False, owner=None) == ""


def test_a_folder_a_guest_sees_is_not_lent(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()

    def found(mode: int) -> list[str]:
        folder.chmod(mode)
        every = obstacles(str(folder), STRANGER, write=True, owner=OWN, otherwise="")
        return [str(x) for x in every if x.path == str(folder)]

    for mode in (0o700, 0o711, 0o744):
        assert found(mode)[0].startswith(f"it stays as it is (mode {mode:04o}, owner "), mode
        assert found(mode)[0].endswith(f"+rx {folder}'") or f":rx {folder}'" in found(mode)[0]
    assert found(0o755) == []


def test_devices_of_everybody() -> None:
    assert is_open_to_all("/dev/urandom", STRANGER, write=True)
    assert not is_open_to_all("/nowhere", STRANGER, write=False)


def test_labels_say_who() -> None:
    default = QemuUser(1, 2)
    assert user_of([], default) == (default, True)
    static = SecLabel(type="static", model="dac", label="+12:+13", relabel=False)
    assert user_of([static], default) == (parse_label("+12:+13"), False)
    none = SecLabel(type="none", model="dac")
    assert user_of([none], default) == (default, False)
    for label, message in (
        ("no-such-user:root", "Failed to parse user 'no-such-user'"),
        ("root", "Failed to parse uid and gid from 'root'"),
        ("root:", "Failed to parse group ''"),
        ("+4294967295:+0", r"Failed to parse user '\+4294967295'"),
        ("+0:+99999999999", r"Failed to parse group '\+99999999999'"),
    ):
        with pytest.raises(InvalidArg, match=message):
            parse_label(label)
