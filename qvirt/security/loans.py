"""Files whose labels are changed for QEMU, and get back what they had when nobody uses them any more.

A label is what one security model has on a file: for DAC its owner. One book per daemon and model counts its
own guests' uses of each file; the mark on the file (`marks`) tells of others'. Everything here blocks; the
caller runs it off the loop.
"""

import contextlib
import functools
import hashlib
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from qvirt.errors import OperationInvalid, SystemError_
from qvirt.record import Record, field
from qvirt.security import marks
from qvirt.security.marks import Mark

#: a file, whatever it is called
_Inode = tuple[int, int]


class Loan(Record):
    """One use of a file by a guest. before: the label it had; label: the one it has meanwhile.

    before is '' for a file that is made after the loan is written down: it is lent as it was made.
    shared: it may get another label while it is used, for a guest that has it open by then.
    """

    path: str
    before: str
    label: str
    model: str = "dac"
    shared: bool = False


class Labels(Protocol):
    """How a model's labels get on files. names: the attributes of its mark."""

    model: str
    names: marks.Names

    def read(self, path: str) -> str:
        """Return a file's label. Raises OSError."""
        ...

    def write(self, path: str, label: str) -> None:
        """Give a file a label. Raises OSError."""
        ...

    def usual(self, path: str) -> str:
        """Return what a file gets back where nobody remembers what it had."""
        ...

    def refused(self, path: str, label: str) -> str:
        """Say that a label could not be given."""
        ...

    def taken(self, path: str) -> str:
        """Say that a file has another label already that somebody needs."""
        ...

    def is_lost(self, now: str, wanted: str, lent: str) -> bool:
        """Tell whether a label is one that a guest left when the machine went down under it.

        lent: what the mark says the file was lent with, '' where it does not.
        """
        ...

    def bears(self, error: OSError) -> bool:
        """Tell whether a file that has no label, or takes none, is left as it is."""
        ...


_LOCKS = 64


class _Entry(Record, frozen=False):
    """The uses of a file, each with the run that uses it. before: its label before the first of them."""

    before: str
    uses: list[tuple[int, Loan]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.uses)

    @property
    def is_shared(self) -> bool:
        return all(loan.shared for _, loan in self.uses)


class Book:
    """The book of a model. daemon: a word that tells its marks from others'; a run is known by its number."""

    def __init__(self, labels: Labels, daemon: str, *, remember: bool = True) -> None:
        self.labels = labels
        self.daemon = daemon
        self.remember = remember
        #: a file system that hangs holds up the files that share its lock, not all of them
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._files: dict[_Inode, _Entry] = {}
        self._inodes: dict[tuple[int, str], _Inode] = {}

    def plan(self, path: str, label: str, *, shared: bool = False) -> Loan | None:
        """Return what lending a file would be; None where it has the label already, or is no file to be lent.

        A file that is not there is no error here. shared: see `Loan`.
        """
        real = os.path.realpath(path)
        try:
            status = os.stat(real)
            if stat.S_ISDIR(status.st_mode):
                return None
            now = self.labels.read(real)
        except OSError:
            return None
        entry = self._files.get((status.st_dev, status.st_ino))
        if entry is not None:
            return self._loan(real, entry.before, label, shared=shared)
        mark = self._mark(real)
        if mark is not None and (not mark.is_stale or self.labels.is_lost(now, label, mark.label)):
            return self._loan(real, mark.before, label, shared=shared)
        if now == label:
            return None
        before = now if self.remember else self.labels.usual(real)
        return self._loan(real, before, label, shared=shared)

    def plan_new(self, path: str, label: str) -> Loan:
        """Return what lending a file would be that is going to be made."""
        return self._loan(os.path.realpath(path), "", label)

    def _loan(self, path: str, before: str, label: str, *, shared: bool = False) -> Loan:
        return Loan(path, before, label, self.labels.model, shared)

    def _mark(self, path: str) -> Mark | None:
        return marks.read(path, self.labels.names) if self.remember else None

    def _lock(self, inode: _Inode) -> threading.Lock:
        return self._locks[hash(inode) % _LOCKS]

    def note(self, run: int, loans: Iterable[Loan]) -> None:
        """Take down what an earlier daemon has lent, before anything is given back."""
        for loan in loans:
            with contextlib.suppress(OSError):
                status = os.stat(loan.path)
                self._enter(run, loan, (status.st_dev, status.st_ino))

    def take_over(self, run: int, paths: Iterable[str]) -> list[Loan]:
        """Take down as ours a run's uses that libvirt has marked; the files and their labels stay.

        A share of ours that no run has is of a guest that was given back, and comes again.
        """
        loans: list[Loan] = []
        for path in dict.fromkeys(os.path.realpath(path) for path in paths):
            with contextlib.suppress(OSError), marks.opened(path) as (name, status):
                inode = (status.st_dev, status.st_ino)
                with self._lock(inode):
                    mark = self._mark(name)
                    entry = self._files.get(inode)
                    mine = entry.total if entry is not None else 0
                    if mark is None or mark.is_stale:
                        continue
                    if mark.shares.get(self.daemon, 0) <= mine:
                        if not mark.foreign:
                            continue
                        shares = {**mark.shares, self.daemon: mine + 1}
                        ours = Mark(mark.before, mark.count, shares, mark.label)
                        marks.write(name, ours, mark, self.labels.names)
                    loan = self._loan(path, mark.before, self.labels.read(name))
                    self._enter(run, loan, inode)
                    loans.append(loan)
        return loans

    def _enter(self, run: int, loan: Loan, inode: _Inode) -> None:
        self._inodes[run, loan.path] = inode
        self._files.setdefault(inode, _Entry(loan.before)).uses.append((run, loan))

    def holds(self, run: int, loans: Iterable[Loan]) -> bool:
        """Tell whether a run uses any of these files."""
        return any((run, loan.path) in self._inodes for loan in loans)

    def give(self, run: int, loans: Iterable[Loan]) -> None:
        """Lend files, all or none. Raises SystemError_, OperationInvalid for one that has another label."""
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
            raise SystemError_(self.labels.refused(loan.path, loan.label), error) from error

    def _lend(self, run: int, loan: Loan, name: str, status: os.stat_result) -> None:
        try:
            now = self.labels.read(name)
        except OSError as error:
            if self.labels.bears(error):
                return
            raise
        inode = (status.st_dev, status.st_ino)
        mark = self._mark(name)
        valid = mark if mark is not None and not mark.is_stale else None
        entry = self._files.get(inode)
        mine = entry.total if entry is not None else 0
        others = valid.others(self.daemon) if valid is not None else 0
        yields = entry is not None and entry.is_shared and loan.shared and not others
        if mine + others and now != loan.label and not yields:
            raise OperationInvalid(f"{self.labels.taken(loan.path)}: it has {now}, not {loan.label}")
        written = None
        if self.remember:
            before = loan.before or now
            if valid is not None:
                before = valid.before
            elif entry is not None:
                before = entry.before
            elif mark is not None and self.labels.is_lost(now, loan.label, mark.label):
                before = mark.before  # the machine went down while it was lent
            shares = {**(valid.shares if valid is not None else {}), self.daemon: mine + 1}
            written = Mark(before, others + mine + 1, shares, loan.label)
            marks.write(name, written, mark, self.labels.names)
        if now != loan.label:
            try:
                self.labels.write(name, loan.label)
            except OSError as error:
                if written is not None:
                    self._unwrite(name, written, valid)
                if self.labels.bears(error):
                    return
                raise
        self._enter(run, loan, inode)

    def _unwrite(self, name: str, written: Mark, before: Mark | None) -> None:
        """Put back the mark there was before one was written for nothing."""
        if before is None:
            marks.erase(name, self.labels.names)
        else:
            marks.write(name, before, written, self.labels.names)

    def take_back(self, run: int, loans: Iterable[Loan]) -> list[str]:
        """End a run's uses, in reverse order; the last one gives the file back. Returns what could not be.

        What the run does not use is left alone.
        """
        failures = []
        for loan in reversed(list(loans)):
            try:
                self._take_back(run, loan)
            except FileNotFoundError:
                pass  # whoever removed it has no more use for a label
            except OSError as error:
                failures.append(f"cannot give '{loan.path}' back to {loan.before}: {error.strerror}")
        return failures

    def _take_back(self, run: int, loan: Loan) -> None:
        if (run, loan.path) not in self._inodes:
            return
        try:
            with marks.opened(loan.path) as (name, status), self._lock((status.st_dev, status.st_ino)):
                self._return(loan, name, *self._strike(run, loan))
        except FileNotFoundError:
            self._strike(run, loan)
            raise

    def _return(self, loan: Loan, name: str, left: int, heir: str) -> None:
        mark = marks.read(name, self.labels.names)
        if mark is not None and not self.remember and self.daemon not in mark.shares:
            mark = None  # it is not from when we remembered
        if mark is None or mark.is_stale:
            if left:
                if heir and self.labels.read(name) == loan.label:
                    self.labels.write(name, heir)
                return
            if self.labels.read(name) == loan.label:
                self.labels.write(name, loan.before or self.labels.usual(loan.path))
            if mark is not None:
                marks.erase(name, self.labels.names)
            return
        count = left + mark.others(self.daemon)
        if count:
            shares = {**mark.shares, self.daemon: left}
            passes = bool(heir) and count == left and self.labels.read(name) == loan.label
            now = Mark(mark.before, count, shares, heir if passes else mark.label)
            marks.write(name, now, mark, self.labels.names)
            if passes:
                self.labels.write(name, heir)
            return
        self.labels.write(name, mark.before)
        marks.erase(name, self.labels.names)

    def _strike(self, run: int, loan: Loan) -> tuple[int, str]:
        """Take one use out of the book.

        Returns how many are left, and the label they need, '' where one of them needs that of this use.
        """
        inode = self._inodes.pop((run, loan.path))
        entry = self._files[inode]
        at = next(n for n, (user, use) in enumerate(entry.uses) if (user, use.path) == (run, loan.path))
        del entry.uses[at]
        if not entry.uses:
            del self._files[inode]
        labels = [use.label for _, use in entry.uses]
        return entry.total, labels[-1] if labels and loan.label not in labels else ""


@functools.cache
def daemon_word(folder: str) -> str:
    """Return what tells a daemon from all others that may mark a file: its machine and its folder."""
    machine = ""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    return hashlib.sha256(f"{machine}:{folder}".encode()).hexdigest()[:8]
