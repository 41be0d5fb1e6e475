"""libvirt's constants: each enumeration has one home, and the package finds it there."""

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import qvirt.constants
from qvirt.constants.domain import DomainState


def _homes() -> list[tuple[str, str]]:
    """Give (enumeration, module) of everything there is."""
    return [
        (name, area.name)
        for area in iter_modules(qvirt.constants.__path__)
        for name, value in vars(import_module(f"qvirt.constants.{area.name}")).items()
        if isinstance(value, type)
    ]


def test_an_enumeration_has_one_home() -> None:
    names = [name for name, _ in _homes()]
    assert len(names) > 150
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "area"), _homes())
def test_the_package_finds_every_enumeration(name: str, area: str) -> None:
    found = getattr(qvirt.constants, name)
    assert found is getattr(import_module(f"qvirt.constants.{area}"), name)
    assert found.__module__ == f"qvirt.constants.{area}"


def test_members_are_plain_integers() -> None:
    assert type(DomainState.RUNNING) is int


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DomainStat'"):
        _ = qvirt.constants.DomainStat  # type: ignore[attr-defined]


def test_the_errors_numbers_load_nothing_of_domains() -> None:
    script = (
        "import sys, qvirt.errors; print([name for name in sys.modules if name.startswith('qvirt.const')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "['qvirt.constants', 'qvirt.constants.error']"
