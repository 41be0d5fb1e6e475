"""Files lent and given back: counted, marked where libvirt marks them, right after every kind of end."""

import errno
import os
from pathlib import Path

import pytest

from qvirt.errors import OperationInvalid
from qvirt.security import marks
from qvirt.security.dac import Owners, owner_text
from qvirt.security.loans import Book, Loan

USER = (64055, 64055)
OTHER = (4711, 4712)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    os.chown(path, 12, 34)
    try:
        os.setxattr(path, "trusted.qvirt.probe", b"")
        os.removexattr(path, "trusted.qvirt.probe")
    except OSError as error:
        pytest.skip(f"no trusted attributes here: {error.strerror}")
    return path


def owner(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_uid, status.st_gid


def attribute(path: Path, name: str) -> str | None:
    try:
        return os.getxattr(path, f"trusted.libvirt.security.{name}").decode()
    except OSError:
        return None


def loan(owners: Book, path: Path, user: tuple[int, int] = USER) -> Loan:
    found = owners.plan(str(path), owner_text(*user))
    assert found is not None
    return found


def lend(owners: Book, run: int, path: Path, user: tuple[int, int] = USER) -> Loan:
    one = loan(owners, path, user)
    owners.give(run, [one])
    return one


def test_lent_with_libvirts_mark_and_given_back(image: Path) -> None:
    owners = Book(Owners(), "here")
    one = lend(owners, 1, image)
    assert one == Loan(str(image), "+12:+34", owner_text(*USER))
    assert owner(image) == USER
    assert attribute(image, "dac") == "+12:+34"
    assert attribute(image, "ref_dac") == "1"
    assert attribute(image, "timestamp_dac") == str(marks.boot_time())
    assert owners.take_back(1, [one]) == []
    assert owner(image) == (12, 34)
    assert os.listxattr(image) == []


def test_two_guests_and_the_last_one_gives_back(image: Path) -> None:
    owners = Book(Owners(), "here")
    first, second = lend(owners, 1, image), lend(owners, 2, image)
    assert attribute(image, "ref_dac") == "2"
    owners.take_back(1, [first])
    owners.take_back(1, [first])  # a second time changes nothing
    assert (owner(image), attribute(image, "ref_dac")) == (USER, "1")
    owners.take_back(2, [second])
    assert (owner(image), os.listxattr(image)) == ((12, 34), [])


def test_a_start_that_fails_leaves_the_mark_of_the_guest_that_runs(image: Path, tmp_path: Path) -> None:
    owners = Book(Owners(), "here")
    first = lend(owners, 1, image)
    planned = [loan(owners, image), Loan(str(tmp_path / "gone"), "+0:+0", owner_text(*USER))]
    with pytest.raises(Exception, match=r"unable to set user and group to '64055:64055' on '.*/gone'"):
        owners.give(2, planned)
    owners.take_back(2, planned)
    assert (owner(image), attribute(image, "ref_dac")) == (USER, "1")
    owners.take_back(1, [first])
    assert owner(image) == (12, 34)


def test_a_file_that_guests_share_is_lent_to_the_last_and_left_to_who_is_left(image: Path) -> None:
    """Each has it open by the time the next one gets it; a daemon that comes back knows them all."""
    owners = Book(Owners(), "here")
    third = (99, 99)
    first, second, last = loans = [
        owners.plan(str(image), owner_text(*user), shared=True) for user in (USER, OTHER, third)
    ]
    assert first is not None
    assert second is not None
    assert last is not None
    for run, one in enumerate(loans, 1):
        assert one is not None
        owners.give(run, [one])
    assert (owner(image), attribute(image, "ref_dac")) == (third, "3")
    owners.take_back(1, [first])
    assert owner(image) == third
    later = Book(Owners(), "here")
    later.note(2, [second])
    later.note(3, [last])
    later.take_back(3, [last])
    assert (owner(image), attribute(image, "ref_dac"), attribute(image, "dac")) == (OTHER, "1", "+12:+34")
    with pytest.raises(OperationInvalid, match="already in use"):
        lend(later, 4, image)
    later.take_back(2, [second])
    assert (owner(image), os.listxattr(image)) == ((12, 34), [])


def test_another_daemons_guest_keeps_what_it_shares(image: Path) -> None:
    here, there = Book(Owners(), "here"), Book(Owners(), "there")
    first = here.plan(str(image), owner_text(*USER), shared=True)
    second = there.plan(str(image), owner_text(*OTHER), shared=True)
    assert first is not None
    assert second is not None
    here.give(1, [first])
    with pytest.raises(OperationInvalid, match="already in use"):
        there.give(1, [second])
    here.take_back(1, [first])
    assert owner(image) == (12, 34)


def test_a_file_system_that_keeps_owners_is_left_as_it_is(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = Book(Owners(), "here")
    one = loan(owners, image)

    def refused(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", refused)
        owners.give(1, [one])
    assert not owners.holds(1, [one])
    assert (owner(image), os.listxattr(image)) == ((12, 34), [])
    assert owners.take_back(1, [one]) == []
    assert owner(image) == (12, 34)


def test_another_user_is_refused_while_it_is_lent(image: Path) -> None:
    owners = Book(Owners(), "here")
    lend(owners, 1, image)
    with pytest.raises(OperationInvalid, match=r"Setting different DAC user or group on .* already in use"):
        lend(owners, 2, image, OTHER)
    assert owner(image) == USER


def test_two_daemons_and_libvirt_count_together(image: Path) -> None:
    here, there = Book(Owners(), "here"), Book(Owners(), "there")
    first, second = lend(here, 1, image), lend(there, 1, image)
    os.setxattr(image, marks.DAC.count, b"3")  # libvirt counts itself so
    here.take_back(1, [first])
    assert attribute(image, "ref_dac") == "2"
    there.take_back(1, [second])
    assert (owner(image), attribute(image, "ref_dac"), attribute(image, "dac")) == (USER, "1", "+12:+34")


@pytest.mark.parametrize("users", [1, 2])
@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("ending", [False, True])
def test_killed_between_any_two_steps(
    image: Path, monkeypatch: pytest.MonkeyPatch, users: int, step: int, ending: bool
) -> None:
    """A daemon dies at any write to the file; the next one, which knows the loans, puts it right."""

    class Killed(BaseException):
        pass

    before = Book(Owners(), "here")
    loans = [lend(before, run, image) for run in range(1, users)]
    planned = loan(before, image)
    if ending:
        before.give(users, [planned])
    steps = iter(range(step))

    def counted(real: object) -> object:
        def call(*args: object) -> object:
            if next(steps, None) is None:
                raise Killed
            return real(*args)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        for name in ("setxattr", "removexattr", "chown"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            if ending:
                before.take_back(users, [planned])
            else:
                before._give(users, planned)
        except Killed:
            pass
    after = Book(Owners(), "here")
    for run, one in enumerate(loans, 1):
        after.note(run, [one])
    after.note(users, [planned])
    assert after.take_back(users, [planned]) == []
    if loans:
        assert owner(image) == USER
        assert attribute(image, "ref_dac") == str(len(loans))
        again = lend(after, 9, image)
        assert again.before == "+12:+34"
        assert after.take_back(9, [again]) == []
    for run, one in enumerate(loans, 1):
        assert after.take_back(run, [one]) == []
    assert (owner(image), os.listxattr(image)) == ((12, 34), [])


def test_marks_of_an_earlier_boot(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine went down while the file was lent: its owner is still known, unless changed by hand."""
    lend(Book(Owners(), "here"), 1, image)
    marks._boot_id.cache_clear()
    monkeypatch.setattr(marks, "_boot_id", lambda: "another")
    monkeypatch.setattr(marks, "boot_time", lambda: 1)
    owners = Book(Owners(), "here")
    one = lend(owners, 1, image)
    assert (attribute(image, "dac"), attribute(image, "ref_dac")) == ("+12:+34", "1")
    monkeypatch.setattr(marks, "_boot_id", lambda: "the next")
    lend(Book(Owners(), "here"), 1, image, OTHER)  # the user of guests was changed meanwhile
    assert (attribute(image, "dac"), attribute(image, "ref_dac")) == ("+12:+34", "1")
    monkeypatch.setattr(marks, "_boot_id", lambda: "yet another")
    os.chown(image, 77, 78)
    owners = Book(Owners(), "here")
    one = lend(owners, 1, image)
    assert attribute(image, "dac") == "+77:+78"
    owners.take_back(1, [one])
    assert owner(image) == (77, 78)


def test_without_attributes_the_book_remembers(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    for name in ("setxattr", "getxattr", "removexattr"):
        monkeypatch.setattr(os, name, refused)
    owners = Book(Owners(), "here")
    first, second = lend(owners, 1, image), lend(owners, 2, image)
    assert second.before == "+12:+34"
    owners.take_back(1, [first])
    assert owner(image) == USER
    owners.take_back(2, [second])
    assert owner(image) == (12, 34)


def test_not_remembering_means_root(image: Path) -> None:
    owners = Book(Owners(), "here", remember=False)
    one = lend(owners, 1, image)
    assert os.listxattr(image) == []
    owners.take_back(1, [one])
    assert owner(image) == (0, 0)


def test_no_longer_remembering_leaves_no_mark(image: Path) -> None:
    """The option was changed, and the daemon started again, while the file was lent."""
    one = lend(Book(Owners(), "here"), 1, image)
    owners = Book(Owners(), "here", remember=False)
    owners.note(1, [one])
    owners.take_back(1, [one])
    assert (owner(image), os.listxattr(image)) == ((12, 34), [])
    lend(Book(Owners(), "there"), 1, image)
    other = lend(owners, 2, image, OTHER)
    owners.take_back(2, [other])
    assert attribute(image, "ref_dac") == "1"  # another daemon's, which is not read


def test_a_file_swapped_for_a_link_is_not_followed(image: Path, tmp_path: Path) -> None:
    owners = Book(Owners(), "here")
    one = loan(owners, image)
    secret = tmp_path / "secret"
    secret.touch()
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(Exception, match="unable to set user and group"):
        owners.give(1, [one])
    assert owner(secret) == (0, 0)
