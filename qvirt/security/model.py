"""What a security model is: the questions it answers about a guest, and what it does for one.

`Stack` (`stack.py`) holds the models of a daemon, the primary one first and DAC last, and asks each of them
in turn; nobody else knows which there are. When each question is asked:

    base_labels, doi
               for the capabilities document
    label      before a start, on the document that will run: the model's label for this run
    recall     when a QEMU is found again by a later daemon: what `label` worked out
    words      before QEMU is executed: what the launcher does for the model
    helper_words
               the same for a process that serves the guest beside QEMU
    obstacles, plan
               before a file is lent: what keeps QEMU from it all the same, and what lending it is
    give, take_back
               a file, or a device's files as a whole, is opened to QEMU, or closed; the loans of other models
               are not for it. Written into the status file before
    node       instead of lending one in a /dev that is the guest's own
    own        something the daemon made for the guest (folder, key, socket), which goes with it
    fence, unfence
               something a helper works on, which outlives the run: the guest's alone, and nobody's again
    making     around the making of a socket that QEMU is handed
    find_again when an earlier daemon's guest is found again, with which this one shall do as with its own
    note, take_over
               what an earlier daemon, or libvirt, has lent
    suspicions something has failed: was it the model, and what would allow it
    end        the guest has ended; after this nothing of the model's is left
    is_about, is_harmless, remedy
               when QEMU has failed: whose refusal a record of the kernel's is, and what would allow it
    read       the label a process has

All of these but `words` may block; the caller runs them off the loop.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from qvirt.host.config import QemuUser
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import FileResource, Resource
from qvirt.record import Record, field
from qvirt.security.denials import Denial
from qvirt.security.loans import Book, Loan
from qvirt.security.private_dev import Node


class Guest(Record, frozen=False, eq=False):
    """A guest's run as the models know it.

    run: its number. folder: its own folder, '' before it has one. seclabels: those of the live document.
    user: whom QEMU runs as, None for the daemon's own user. lends: whether files change their owner for it.
    type: the domain's, ``kvm`` or ``qemu``.
    """

    run: int = 0
    name: str = ""
    uuid: str = ""
    folder: str = ""
    seclabels: list[SecLabel] = field(default_factory=list)
    user: QemuUser | None = None
    lends: bool = True
    type: str = "kvm"

    def label_of(self, model: str) -> SecLabel | None:
        """Return the label of a model, None where the document has none."""
        return next((label for label in self.seclabels if label.model == model), None)


class Obstacle(Record):
    """What keeps QEMU from a file. what: a clause; remedy: the smallest command that helps, or ''."""

    path: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class Model:
    """Base: a model that does nothing. name: libvirt's. book: of the files it lends."""

    name: str
    doi: str = "0"
    book: Book | None = None
    #: whether the kernel keeps a record of what the model refuses; see `denials`
    records: bool = False
    #: whether QEMU may be kept from gaining rights before it is executed; a change of label may count as one
    takes_no_new_privs: bool = True

    def base_labels(self) -> Sequence[tuple[str, str]]:
        """Return (domain type, label) that labels are made from."""
        return ()

    def label(self, guest: Guest, wanted: SecLabel | None, others: Iterable[Guest]) -> SecLabel | None:
        """Return the label of this run: ``wanted``, the document's, filled in, or a new one; None for none.

        A domain that is not to be confined has ``wanted`` of the type ``none``. others: the guests that run.
        Raises QvirtError for a label that cannot be.
        """
        return wanted

    def recall(self, guest: Guest) -> None:
        """Note what the labels of a guest found again mean for it."""

    def find_again(self, guest: Guest) -> None:
        """Have a guest that was found again know this daemon. Raises QvirtError."""

    def words(self, guest: Guest) -> Sequence[str]:
        """Return setpriv's words for the guest's label."""
        return ()

    def helper_words(self, guest: Guest, name: str, program: str) -> Sequence[str]:
        """Return setpriv's words for the label of a process beside QEMU.

        name: it within the guest. program: what it executes. Raises QvirtError.
        """
        return ()

    def obstacles(self, guest: Guest, resource: FileResource, path: str) -> Iterator[Obstacle]:
        """Yield what keeps QEMU from a file that exists, even if it is lent."""
        return iter(())

    def plan(self, guest: Guest, resource: FileResource, path: str) -> Loan | None:
        """Return what lending a file is; None where its label stays.

        A file that is not there yet is going to be made by the daemon before it is lent.
        """
        return None

    def give(self, guest: Guest, loans: Sequence[Loan], resources: Iterable[Resource]) -> None:
        """Open files to QEMU, all or none. Raises QvirtError."""
        if self.book is not None:
            self.book.give(guest.run, loans)

    def take_back(
        self, guest: Guest, loans: Sequence[Loan], gone: Iterable[Resource], kept: Iterable[Resource]
    ) -> list[str]:
        """Close files that ``gone`` was about and ``kept`` is not. Returns what went wrong."""
        return self.book.take_back(guest.run, loans) if self.book is not None else []

    def node(self, guest: Guest, resource: FileResource, node: Node) -> Node:
        """Return what a file's node is like in a /dev of the guest's own, where nothing is lent."""
        return node

    def own(self, guest: Guest, path: str, *, stays: bool) -> None:
        """Label what was made for the guest alone. stays: it outlives the run. Raises OSError."""

    def fence(self, guest: Guest, folder: str) -> None:
        """Have a folder, which stays its user's, be out of other guests' reach. Raises OSError."""

    def unfence(self, guest: Guest, folder: str) -> None:
        """Undo it. Raises OSError."""

    def making(self, guest: Guest, *, ours: bool, helper: str) -> contextlib.AbstractContextManager[None]:
        """Have the sockets that this thread makes inside labelled: QEMU's, or, ``ours``, the daemon's end.

        helper: the program of the one that accepts on it in QEMU's place, '' for none. Raises OSError.
        """
        return contextlib.nullcontext()

    def suspicions(self, guest: Guest, said: str) -> list[str]:
        """Return what of the model's may have made something fail, and what would allow it.

        said: the error, with what QEMU said.
        """
        return []

    def end(self, guest: Guest) -> list[str]:
        """Take away what is left of the guest's label; its loans are back. Returns what went wrong."""
        return []

    def is_about(self, guest: Guest, denial: Denial) -> bool:
        """Tell whether something was refused to the guest's process by this model."""
        label = guest.label_of(self.name)
        return label is not None and denial.model == self.name and denial.label == label.label

    def is_harmless(self, guest: Guest, denial: Denial, said: str) -> bool:
        """Tell whether QEMU does without what it was refused. said: its own words about its failure."""
        return False

    def remedy(self, guest: Guest, denial: Denial) -> str:
        """Return what would allow what was refused, a sentence, or ''."""
        return ""

    def read(self, guest: Guest, pid: int) -> tuple[str, bool]:
        """Return the label of the guest's process and whether it is enforced. Raises OSError."""
        return "", False


class Nothing(Model):
    """What libvirt calls ``none``: the primary model where no other is in use."""

    name = "none"
