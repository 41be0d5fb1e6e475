"""The security models of a daemon, and the one place that asks them; see `model`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, SystemError_
from qvirt.host.capabilities import SecurityModel
from qvirt.host.config import QemuConfig, QemuUser
from qvirt.model.domain import Domain
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import FileResource, Resource, device_labels
from qvirt.record import Record
from qvirt.security.dac import Dac
from qvirt.security.denials import Denial, Watch
from qvirt.security.loans import Loan
from qvirt.security.model import Guest, Model, Nothing, Obstacle
from qvirt.security.private_dev import Node

#: how many refusals an error tells of
_MOST_REFUSALS = 8


class Driver(Record):
    """A primary model there may be. probe: says why it is not in use here, None where it is."""

    name: str
    probe: Callable[[], str | None]
    make: Callable[[], Model]


class Stack:
    """The models in use, the primary one first. confine: guests that say nothing are confined."""

    def __init__(self, models: Sequence[Model] = (), *, confine: bool = True, require: bool = False) -> None:
        self.models = tuple(models)
        self._confine = confine
        self._require = require

    @classmethod
    def open(
        cls, config: QemuConfig, user: QemuUser | None, daemon: str, drivers: Sequence[Driver] = ()
    ) -> "Stack":
        """Choose the models as ``security_driver`` says; without it the first of ``drivers`` that is in use.

        user: whom guests run as, None for a daemon that is not root. daemon: the word of its marks.
        Raises InternalError for a driver that is asked for and not there.
        """
        models: list[Model] = [_asked(name, drivers) for name in config.security_drivers]
        if not config.security_drivers:
            models += [driver.make() for driver in drivers if driver.probe() is None][:1]
        models = models or [Nothing()]
        if user is not None:
            models.append(Dac(config, user, daemon))
        return cls(
            models,
            confine=config.security_default_confined,
            require=config.security_require_confined,
        )

    # --------------------------------------------------------------- what there is

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, the primary one first."""
        return tuple(model.name for model in self.models) or ("none",)

    def secmodels(self) -> list[SecurityModel]:
        """Return what the capabilities document says of them."""
        return [SecurityModel(model.name, model.doi, tuple(model.base_labels())) for model in self.models]

    # ------------------------------------------------------------------- one guest

    def guard(
        self, run: int, definition: Domain, others: Iterable[Guest] = (), *, folder: str = ""
    ) -> "Guard":
        """Label the document of a start, and return what confines it. Blocking.

        Raises ConfigUnsupported for a label of a model that is not there, or of none where all guests are to
        be confined; whatever a model says of its label.
        """
        self._check(definition)
        labels = definition.seclabels
        guest = _guest(run, definition, folder)
        running = list(others)
        with contextlib.ExitStack() as undo:
            for model in self.models:
                wanted = guest.label_of(model.name)
                if self._require and (wanted.type == "none" if wanted is not None else not self._confine):
                    raise ConfigUnsupported("Unconfined guests are not allowed on this host")
                if wanted is None and not self._confine:
                    model.recall(guest)
                    continue
                made = model.label(guest, wanted, running)
                undo.callback(model.end, guest)
                if made is not None and wanted is None:
                    labels.append(made)
            undo.pop_all()
        return Guard(self.models, guest)

    def recall(self, run: int, definition: Domain, folder: str) -> "Guard":
        """Return what confines a guest that was found again. A model that is no more is passed over."""
        guest = _guest(run, definition, folder)
        for model in self.models:
            with contextlib.suppress(QvirtError):  # the user was removed
                model.recall(guest)
        return Guard(self.models, guest)

    def _check(self, definition: Domain) -> None:
        """Refuse labels of models that are not in use, as libvirt does when the domain starts."""
        labels: list[SecLabel] = list(definition.seclabels)
        for label in labels:
            self._check_model(label.model, label.line)
        for device in definition.devices.all():
            for resource_label in device_labels(device):
                self._check_model(resource_label.model, resource_label.line)

    def _check_model(self, model: str | None, line: int) -> None:
        if model is None or model in ("none", *self.names):
            return
        where = f" (<seclabel> in line {line}; in use: {', '.join(self.names)})" if line else ""
        raise ConfigUnsupported(f"Security driver model '{model}' is not available{where}")

    # ---------------------------------------------------------------------- loans

    def note(self, run: int, loans: Sequence[Loan]) -> None:
        """Take down what an earlier daemon has lent, before anything is given back. Blocking."""
        for model in self.models:
            if model.book is not None:
                model.book.note(run, _of(model, loans))

    def take_over(self, run: int, paths: Sequence[str]) -> list[Loan]:
        """Take down as ours what libvirt has lent to a run. Blocking."""
        books = (model.book for model in self.models)
        return [loan for book in books if book is not None for loan in book.take_over(run, paths)]


class Guard:
    """What confines one run. All its methods but `words` and the properties may block."""

    def __init__(self, models: Sequence[Model] = (), guest: Guest | None = None) -> None:
        self._models = models
        self.guest = guest or Guest()

    @property
    def user(self) -> QemuUser | None:
        """Whom QEMU runs as; None for the daemon's own user."""
        return self.guest.user

    def find_again(self) -> None:
        """Have a guest that was found again know this daemon. Raises QvirtError."""
        for model in self._models:
            model.find_again(self.guest)

    def words(self) -> list[str]:
        """Return the launcher's words for the labels."""
        return [word for model in self._models for word in model.words(self.guest)]

    def helper_words(self, name: str, program: str) -> list[str]:
        """Return the launcher's words for the labels of a process beside QEMU. Raises QvirtError."""
        return [word for model in self._models for word in model.helper_words(self.guest, name, program)]

    @property
    def takes_no_new_privs(self) -> bool:
        """Whether QEMU can be kept from gaining rights before it is executed."""
        return all(model.takes_no_new_privs for model in self._models)

    def obstacles(self, resource: FileResource, path: str) -> Iterator[Obstacle]:
        """Yield what keeps QEMU from a file that exists."""
        for model in self._models:
            yield from model.obstacles(self.guest, resource, path)

    def plan(self, resource: FileResource, path: str) -> list[Loan]:
        """Return what lending a file is, by each model."""
        plans = (model.plan(self.guest, resource, path) for model in self._models)
        return [loan for loan in plans if loan is not None]

    def give(self, loans: Sequence[Loan], resources: Sequence[Resource]) -> None:
        """Open files to QEMU, all or none; their loans are in the status file. Raises QvirtError."""
        with contextlib.ExitStack() as undo:
            for model in reversed(self._models):
                mine = _of(model, loans)
                model.give(self.guest, mine, resources)
                undo.callback(model.take_back, self.guest, mine, resources, ())
            undo.pop_all()

    def holds(self, loans: Iterable[Loan]) -> bool:
        """Tell whether the run uses any of these files."""
        run, asked = self.guest.run, list(loans)
        return any(
            model.book is not None and model.book.holds(run, _of(model, asked)) for model in self._models
        )

    def take_back(
        self, loans: Sequence[Loan], gone: Sequence[Resource] = (), kept: Sequence[Resource] = ()
    ) -> list[str]:
        """Close files to QEMU that ``gone`` was about and ``kept`` is not; returns what went wrong."""
        return [
            failure
            for model in self._models
            for failure in model.take_back(self.guest, _of(model, loans), gone, kept)
        ]

    def node(self, resource: FileResource, node: Node) -> Node:
        """Return what a file's node is like in a /dev of the guest's own."""
        for model in self._models:
            node = model.node(self.guest, resource, node)
        return node

    def own(self, path: str, *, stays: bool = False) -> None:
        """Label what was made for the guest alone. stays: it outlives the run. Raises OSError."""
        for model in self._models:
            model.own(self.guest, path, stays=stays)

    def fence(self, folder: str) -> None:
        """Have a folder that a helper works on be out of other guests' reach. Raises SystemError_."""
        try:
            for model in self._models:
                model.fence(self.guest, folder)
        except OSError as error:
            raise SystemError_(f"unable to label '{folder}' for guest '{self.guest.name}'", error) from error

    def unfence(self, folder: str) -> None:
        """Undo it. Raises OSError."""
        for model in self._models:
            model.unfence(self.guest, folder)

    @contextlib.contextmanager
    def making(self, *, ours: bool = False, helper: str = "") -> Iterator[None]:
        """Have the sockets that this thread makes inside labelled: QEMU's, or the daemon's end, ``ours``.

        helper: the program of the one that accepts on it in QEMU's place.
        """
        with contextlib.ExitStack() as stack:
            for model in self._models:
                stack.enter_context(model.making(self.guest, ours=ours, helper=helper))
            yield

    def read(self, pid: int) -> list[tuple[str, bool]]:
        """Return the labels of its process, and whether each is enforced. Raises SystemError_."""
        try:
            return [model.read(self.guest, pid) for model in self._models]
        except OSError as error:
            raise SystemError_(f"unable to get the security label of process {pid}", error) from error

    def watch(self) -> Watch:
        """See what the kernel refuses from now on, where a model has it keep records."""
        asked = [model for model in self._models if model.records and model.words(self.guest)]
        labels = [label.label for model in asked if (label := self.guest.label_of(model.name)) is not None]
        return Watch([label for label in labels if label])

    async def refusals(self, watch: Watch, about: str = "") -> list[str]:
        """Return what was refused to the guest meanwhile, with what would allow it, a sentence each.

        about: QEMU's words; what they name comes alone, as a QEMU does without much that it is refused.
        """
        found = await watch.denials(lambda denial: self._model_of(denial, about) is not None)
        said = []
        for denial in ([one for one in found if one.path and one.path in about] or found)[:_MOST_REFUSALS]:
            model = self._model_of(denial, about)
            remedy = model.remedy(self.guest, denial) if model is not None else ""
            said.append(f"{denial}: {remedy}" if remedy else str(denial))
        return said

    def _model_of(self, denial: Denial, about: str) -> Model | None:
        """Return the model a refusal of this guest's is of, one that did it harm; None where it is none."""
        for model in self._models:
            if model.is_about(self.guest, denial) and not model.is_harmless(self.guest, denial, about):
                return model
        return None

    def suspicions(self, said: str) -> list[str]:
        """Return what of a model's may have made something fail. said: the error, with what QEMU said."""
        return [found for model in self._models for found in model.suspicions(self.guest, said)]

    def end(self, loans: Sequence[Loan]) -> list[str]:
        """Take everything back when the guest has ended; returns what went wrong."""
        failures = self.take_back(loans)
        for model in self._models:
            failures += model.end(self.guest)
        return failures


def _guest(run: int, definition: Domain, folder: str) -> Guest:
    return Guest(
        run,
        definition.name,
        definition.uuid or "",
        folder,
        definition.seclabels,
        type=str(definition.type or ""),
    )


def _of(model: Model, loans: Iterable[Loan]) -> list[Loan]:
    return [loan for loan in loans if loan.model == model.name]


def _asked(name: str, drivers: Sequence[Driver]) -> Model:
    if name == "none":
        return Nothing()
    driver = next((driver for driver in drivers if driver.name == name), None)
    if driver is None:
        raise InternalError(f"Security driver {name} not found")
    reason = driver.probe()
    if reason is not None:
        raise InternalError(f"Security driver {name} not enabled: {reason}")
    return driver.make()
