"""The fuzzer's targets over SASL, from bytes that make sense; `test_sasl.py` has some that make none."""

import shutil

import pytest

from tests.fuzz.targets import TARGETS, negotiated, seeds

pytestmark = pytest.mark.skipif(shutil.which("saslpasswd2") is None, reason="sasl2-bin is not installed")


@pytest.mark.parametrize("name", ["words", "layer"])
def test_what_makes_sense(name: str) -> None:
    for data in (b"", *seeds(name)):
        TARGETS[name](data)


def test_the_ends_of_the_layers_target_understand_each_other() -> None:
    """Else it could find nothing."""
    ours, theirs = negotiated()
    assert ours.unwrap(theirs.wrap(b"hello")) == b"hello"
