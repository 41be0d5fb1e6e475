"""Which models are in use, and what they are asked."""

from collections.abc import Iterable, Sequence

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, OperationFailed
from qvirt.host.config import QemuConfig, QemuUser
from qvirt.model.domain import Domain, parse_domain
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import Resource
from qvirt.record import replace
from qvirt.security.loans import Loan
from qvirt.security.model import Guest, Model
from qvirt.security.stack import Driver, Stack

USER = QemuUser(64055, 64055, (64055,))


class Spy(Model):
    """A primary model that writes down what it is asked; refuses what it is told to."""

    name = "spy"
    doi = "7"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.refuses = False

    def label(self, guest: Guest, wanted: SecLabel | None, others: Iterable[Guest]) -> SecLabel | None:
        made = wanted or SecLabel(type="dynamic", model=self.name, relabel=True)
        if made.type == "dynamic":
            made.label = made.imagelabel = f"{guest.name}-{sum(1 for _ in others)}"
        return made

    def words(self, guest: Guest) -> Sequence[str]:
        label = guest.label_of(self.name)
        return [f"--spy={label.label}"] if label is not None and label.label else []

    def give(self, guest: Guest, loans: Sequence[Loan], resources: Iterable[Resource]) -> None:
        if self.refuses:
            raise OperationFailed("no")
        self.said.append(f"give {[loan.path for loan in loans]}")

    def take_back(
        self, guest: Guest, loans: Sequence[Loan], gone: Iterable[Resource], kept: Iterable[Resource]
    ) -> list[str]:
        self.said.append(f"take {[loan.path for loan in loans]}")
        return []

    def end(self, guest: Guest) -> list[str]:
        self.said.append("end")
        return ["left"]


class Other(Spy):
    name = "other"


def drivers(**reasons: str | None) -> list[Driver]:
    makes = {"spy": Spy, "other": Other}
    return [
        Driver(name, (lambda said: lambda: said)(reason), makes[name]) for name, reason in reasons.items()
    ]


def document(labels: str = "", disk: str = "") -> Domain:
    return parse_domain(
        "<domain type='qemu'><name>a</name><os><type>hvm</type></os>"
        f"<devices>{disk}</devices>{labels}</domain>"
    )


def test_the_first_that_the_kernel_has_is_primary_and_dac_is_last() -> None:
    plain = QemuConfig()
    assert Stack.open(plain, USER, "w", drivers(spy=None, other=None)).names == ("spy", "dac")
    assert Stack.open(plain, USER, "w", drivers(spy="off", other=None)).names == ("other", "dac")
    assert Stack.open(plain, USER, "w", drivers(spy="off", other="off")).names == ("none", "dac")
    assert Stack.open(plain, None, "w").names == ("none",)


def test_what_is_asked_for_must_be_there() -> None:
    asked = replace(QemuConfig(), security_drivers=("spy",))
    assert Stack.open(asked, USER, "w", drivers(other=None, spy=None)).names == ("spy", "dac")
    with pytest.raises(InternalError, match="Security driver spy not enabled: the kernel has none"):
        Stack.open(asked, USER, "w", drivers(other=None, spy="the kernel has none"))
    with pytest.raises(InternalError, match="Security driver spy not found"):
        Stack.open(asked, USER, "w", drivers(other=None))
    none = replace(QemuConfig(), security_drivers=("none",))
    assert Stack.open(none, USER, "w", drivers(spy=None)).names == ("none", "dac")
    both = replace(QemuConfig(), security_drivers=("other", "spy"))
    assert Stack.open(both, USER, "w", drivers(spy=None, other=None)).names == ("other", "spy", "dac")


def stack(config: QemuConfig | None = None) -> Stack:
    return Stack.open(config or QemuConfig(), USER, "w", drivers(spy=None))


def shown(definition: Domain) -> list[tuple[str | None, str | None, str | None]]:
    return [(label.model, label.type, label.label) for label in definition.seclabels]


def test_labels_of_a_run_come_in_the_models_order_behind_the_documents() -> None:
    definition = document()
    guard = stack().guard(4, definition, [Guest(), Guest()])
    assert shown(definition) == [("spy", "dynamic", "a-2"), ("dac", "dynamic", "+64055:+64055")]
    assert (guard.user, guard.words()) == (USER, ["--spy=a-2"])
    definition = document("<seclabel type='static' model='dac' relabel='no'><label>+5:+6</label></seclabel>")
    guard = stack().guard(4, definition)
    assert shown(definition) == [("dac", "static", "+5:+6"), ("spy", "dynamic", "a-0")]
    assert guard.user is not None
    assert (guard.user.uid, guard.guest.lends) == (5, False)
    definition = document("<seclabel type='none' model='spy'/>")
    assert stack().guard(4, definition).words() == []
    assert shown(definition) == [("spy", "none", None), ("dac", "dynamic", "+64055:+64055")]


@pytest.mark.parametrize(
    ("said", "label", "imagelabel"),
    [
        ("type='static' relabel='yes'><label>root:root</label>", "root:root", "root:root"),
        ("type='static' relabel='no'><label>root:root</label>", "root:root", None),
        ("type='dynamic'><label>+1:+1</label>", "+64055:+64055", "+64055:+64055"),
        ("type='dynamic'><baselabel>+1:+1</baselabel>", "+64055:+64055", "+64055:+64055"),
    ],
)
def test_dac_labels_of_a_run_are_libvirts(said: str, label: str, imagelabel: str | None) -> None:
    definition = document(f"<seclabel model='dac' {said}</seclabel>")
    stack().guard(4, definition)
    assert (definition.seclabels[0].label, definition.seclabels[0].imagelabel) == (label, imagelabel)


def test_without_confinement_by_default_only_what_is_asked_for_is_labelled() -> None:
    loose = replace(QemuConfig(), security_default_confined=False)
    definition = document()
    guard = stack(loose).guard(4, definition)
    assert (shown(definition), guard.user, guard.words()) == ([], USER, [])
    definition = document(
        "<seclabel type='dynamic' model='spy' relabel='yes'><baselabel>b</baselabel></seclabel>"
    )
    assert stack(loose).guard(4, definition).words() == ["--spy=a-0"]


@pytest.mark.parametrize("model", ["none", "spy", "dac"])
def test_all_guests_are_confined_where_that_is_required(model: str) -> None:
    strict = replace(QemuConfig(), security_require_confined=True)
    stack(strict).guard(4, document())
    config = replace(strict, security_drivers=("none",)) if model == "none" else strict
    with pytest.raises(ConfigUnsupported, match="Unconfined guests are not allowed on this host"):
        stack(config).guard(4, document(f"<seclabel type='none' model='{model}'/>"))
    with pytest.raises(ConfigUnsupported, match="Unconfined guests are not allowed on this host"):
        stack(replace(strict, security_default_confined=False)).guard(4, document())


@pytest.mark.parametrize(
    ("labels", "disk"),
    [
        ("<seclabel type='dynamic' model='selinux'/>", ""),
        ("", "<disk type='file'><source file='/a'><seclabel model='selinux' relabel='no'/></source>"
             "<target dev='vda'/></disk>"),
        ("", "<serial type='file'><source path='/a'><seclabel model='selinux' relabel='no'/></source>"
             "</serial>"),
    ],
)  # fmt: skip
def test_labels_of_a_model_that_is_not_in_use_are_refused(labels: str, disk: str) -> None:
    said = r"Security driver model 'selinux' is not available \(<seclabel> in line 1; in use: spy, dac\)"
    with pytest.raises(ConfigUnsupported, match=said):
        stack().guard(4, document(labels, disk))


def test_a_model_sees_its_own_loans_and_a_refusal_undoes_the_others() -> None:
    first, second = Spy(), Other()
    guard = Stack((first, second)).guard(4, document())
    loans = [Loan("/one", "x", "y", "spy"), Loan("/two", "x", "y", "other")]
    guard.give(loans, [])
    assert (first.said, second.said) == (["give ['/one']"], ["give ['/two']"])
    first.refuses = True
    with pytest.raises(OperationFailed):
        guard.give(loans, [])
    assert second.said == ["give ['/two']", "give ['/two']", "take ['/two']"]
    assert guard.end(loans) == ["left", "left"]
    assert first.said == ["give ['/one']", "take ['/one']", "end"]
