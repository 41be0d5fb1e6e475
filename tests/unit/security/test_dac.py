"""Who owns what, who may get where."""

import os
from pathlib import Path

from qvirt.host.config import QemuUser
from qvirt.security.dac import Change, Wanted, plan, unreadable, unsearchable

STRANGER = QemuUser(os.getuid() + 4711, os.getgid() + 4711)


def test_plan_names_what_is_not_the_users_yet(tmp_path: Path) -> None:
    image = tmp_path / "a"
    image.touch()
    changes = list(
        plan(
            [
                Wanted(str(image), True, True),
                Wanted(str(image), False, False),
                Wanted(str(tmp_path / "missing"), True, True),
                Wanted(str(tmp_path), True, True),
                Wanted("/dev/null", True, True),
            ],
            STRANGER,
        )
    )
    assert changes == [Change(str(image), os.getuid(), os.getgid(), True)]
    assert list(plan([Wanted(str(image), True, True)], QemuUser(os.getuid(), os.getgid()))) == []


def test_the_first_closed_folder_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    (inner / "image").touch()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            break
    (tmp_path / "closed").chmod(0o700)
    found = unsearchable(str(inner / "image"), STRANGER)
    assert found is not None
    assert str(tmp_path / "closed").startswith(str(found))
    assert unsearchable(str(inner / "image"), QemuUser(0, 0)) is None


def test_unreadable_follows_the_mode(tmp_path: Path) -> None:
    image = tmp_path / "a"
    image.touch()
    image.chmod(0o644)
    assert not unreadable(str(image), STRANGER, write=False)
    assert unreadable(str(image), STRANGER, write=True)
