"""Who decides what a client may do: the question, and the deciders that `access_drivers` names."""

from typing import Protocol

from qvirt.api.objects import Attributes
from qvirt.api.session import Identity
from qvirt.record import Record, field


class Question(Record):
    """May a client do this? object, permission: libvirt's names; attributes: which object, and the driver."""

    object: str
    permission: str
    attributes: Attributes = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The permission as rules and messages name it."""
        return f"{self.object}:{self.permission}"


class Undecided(Exception):
    """Nobody could be asked; says why. It counts as a no."""


class Policy(Protocol):
    """A decider."""

    def answer(self, who: Identity, question: Question) -> bool | None:
        """Decide without asking anybody; None where somebody has to be asked."""
        ...

    async def allows(self, who: Identity, question: Question) -> bool:
        """Decide; raises Undecided."""
        ...

    def reload(self) -> None:
        """Read again what it decides by; raises ConfigSyntax and goes on as before."""
        ...
