"""Files lent to QEMU's user, and given back to whom they belonged when nobody uses them any more.

One book per daemon counts its own guests' uses of each file; the mark on the file (`marks`) tells of others'.
Everything here blocks; the caller runs it off the loop.
"""

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from qvirt.errors import OperationInvalid, SystemError_
from qvirt.record import Record, field
from qvirt.security import marks
from qvirt.security.marks import Mark

#: a file, whatever it is called
_Inode = tuple[int, int]


class Loan(Record):
    """One use of a file by a guest. owner: whom it belonged to; user: whom it is lent to."""

    path: str
    owner: tuple[int, int]
    user: tuple[int, int]


_LOCKS = 64


class _Entry(Record, frozen=False):
    """The uses of a file, by the run that uses it. owner: as it was before the first of them."""

    owner: tuple[int, int]
    uses: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.uses.values())


class Owners:
    """The book. daemon: a word that tells this daemon's marks from others'; a run is known by its number."""

    def __init__(self, daemon: str, *, remember: bool = True) -> None:
        self.daemon = daemon
        self.remember = remember
        #: a file system that hangs holds up the files that share its lock, not all of them
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._files: dict[_Inode, _Entry] = {}
        self._inodes: dict[tuple[int, str], _Inode] = {}

    def plan(self, path: str, user: tuple[int, int]) -> Loan | None:
        """Return what lending a file would be; None where it is QEMU's already, or no file to be lent.

        A file that is not there is no error here.
        """
        real = os.path.realpath(path)
        try:
            status = os.stat(real)
        except OSError:
            return None
        if stat.S_ISDIR(status.st_mode):
            return None
        entry = self._files.get((status.st_dev, status.st_ino))
        if entry is not None:
            return Loan(real, entry.owner, user)
        owner = (status.st_uid, status.st_gid)
        mark = marks.read(real) if self.remember else None
        if mark is not None and _is_valid(mark, owner, user):
            return Loan(real, mark.owner, user)
        return Loan(real, owner if self.remember else (0, 0), user) if owner != user else None

    def _lock(self, inode: _Inode) -> threading.Lock:
        return self._locks[hash(inode) % _LOCKS]

    def note(self, run: int, loans: Iterable[Loan]) -> None:
        """Take down what an earlier daemon has lent, before anything is given back."""
        for loan in loans:
            with contextlib.suppress(OSError):
                status = os.stat(loan.path)
                self._enter(run, loan, (status.st_dev, status.st_ino))

    def take_over(self, run: int, paths: Iterable[str]) -> list[Loan]:
        """Take down as ours a run's uses that libvirt has marked; the files and their owners stay.

        A share of ours that no run has is of a guest that was given back, and comes again.
        """
        loans: list[Loan] = []
        for path in dict.fromkeys(os.path.realpath(path) for path in paths):
            with contextlib.suppress(OSError), marks.opened(path) as (name, status):
                inode = (status.st_dev, status.st_ino)
                with self._lock(inode):
                    mark = marks.read(name) if self.remember else None
                    entry = self._files.get(inode)
                    mine = entry.total if entry is not None else 0
                    if mark is None or mark.is_stale:
                        continue
                    if mark.shares.get(self.daemon, 0) <= mine:
                        if not mark.foreign:
                            continue
                        shares = {**mark.shares, self.daemon: mine + 1}
                        marks.write(name, Mark(mark.owner, mark.count, shares), mark)
                    loan = Loan(path, mark.owner, (status.st_uid, status.st_gid))
                    self._enter(run, loan, inode)
                    loans.append(loan)
        return loans

    def _enter(self, run: int, loan: Loan, inode: _Inode) -> None:
        self._inodes[run, loan.path] = inode
        uses = self._files.setdefault(inode, _Entry(loan.owner)).uses
        uses[run] = uses.get(run, 0) + 1

    def holds(self, run: int, loans: Iterable[Loan]) -> bool:
        """Tell whether a run uses any of these files."""
        return any((run, loan.path) in self._inodes for loan in loans)

    def give(self, run: int, loans: Iterable[Loan]) -> None:
        """Lend files, all or none. Raises SystemError_, OperationInvalid for one lent to another user."""
        done: list[Loan] = []
        try:
            for loan in loans:
                self._give(run, loan)
                done.append(loan)
        except BaseException:
            self.take_back(run, done)
            raise

    def _give(self, run: int, loan: Loan) -> None:
        try:
            with marks.opened(loan.path) as (name, status), self._lock((status.st_dev, status.st_ino)):
                self._lend(run, loan, name, status)
        except OSError as error:
            raise SystemError_(
                f"unable to set user and group to '{loan.user[0]}:{loan.user[1]}' on '{loan.path}'", error
            ) from error

    def _lend(self, run: int, loan: Loan, name: str, status: os.stat_result) -> None:
        inode, now = (status.st_dev, status.st_ino), (status.st_uid, status.st_gid)
        mark = marks.read(name) if self.remember else None
        valid = mark if mark is not None and not mark.is_stale else None
        entry = self._files.get(inode)
        mine = entry.total if entry is not None else 0
        others = valid.others(self.daemon) if valid is not None else 0
        if mine + others and now != loan.user:
            raise OperationInvalid(
                f"Setting different DAC user or group on {loan.path} which is already in use: "
                f"it is lent to {now[0]}:{now[1]}, not to {loan.user[0]}:{loan.user[1]}"
            )
        if self.remember:
            owner = loan.owner
            if valid is not None:
                owner = valid.owner
            elif entry is not None:
                owner = entry.owner
            elif mark is not None and now == loan.user:
                owner = mark.owner  # the machine went down while it was lent
            shares = {**(valid.shares if valid is not None else {}), self.daemon: mine + 1}
            marks.write(name, Mark(owner, others + mine + 1, shares), mark)
        if now != loan.user:
            os.chown(name, *loan.user)
        self._enter(run, loan, inode)

    def take_back(self, run: int, loans: Iterable[Loan]) -> list[str]:
        """End a run's uses, in reverse order; the last one gives the file back. Returns what could not be.

        What the run does not use is left alone.
        """
        failures = []
        for loan in reversed(list(loans)):
            try:
                self._take_back(run, loan)
            except FileNotFoundError:
                pass  # whoever removed it has no more use for an owner
            except OSError as error:
                failures.append(
                    f"cannot give '{loan.path}' back to {loan.owner[0]}:{loan.owner[1]}: {error.strerror}"
                )
        return failures

    def _take_back(self, run: int, loan: Loan) -> None:
        if (run, loan.path) not in self._inodes:
            return
        try:
            with marks.opened(loan.path) as (name, status), self._lock((status.st_dev, status.st_ino)):
                self._return(loan, name, (status.st_uid, status.st_gid), self._strike(run, loan))
        except FileNotFoundError:
            self._strike(run, loan)
            raise

    def _return(self, loan: Loan, name: str, now: tuple[int, int], left: int) -> None:
        mark = marks.read(name) if self.remember else None
        if mark is None or mark.is_stale:
            if left:
                return
            if now == loan.user:
                os.chown(name, *loan.owner)
            if mark is not None:
                marks.erase(name)
            return
        count = left + mark.others(self.daemon)
        if count:
            marks.write(name, Mark(mark.owner, count, {**mark.shares, self.daemon: left}), mark)
            return
        os.chown(name, *mark.owner)
        marks.erase(name)

    def _strike(self, run: int, loan: Loan) -> int:
        """Take one use out of the book; returns how many are left."""
        inode = self._inodes[run, loan.path]
        entry = self._files[inode]
        entry.uses[run] -= 1
        if not entry.uses[run]:
            del entry.uses[run]
            del self._inodes[run, loan.path]
        if not entry.uses:
            del self._files[inode]
        return entry.total


def daemon_word(folder: str) -> str:
    """Return what tells a daemon from all others that may mark a file: its machine and its folder."""
    machine = ""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    return hashlib.sha256(f"{machine}:{folder}".encode()).hexdigest()[:8]


def _is_valid(mark: Mark, now: tuple[int, int], user: tuple[int, int]) -> bool:
    """Tell whether a mark still says the truth: of this boot, or the file is as a lost guest left it."""
    return not mark.is_stale or now == user
