"""Clients' expressions for names of events: what is taken matches in no time, whatever the names are."""

import contextlib
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvirt.api.events import RAW_MAX, EventHub, Subscriptions
from qvirt.api.patterns import NAME_MAX, pattern
from qvirt.constants.qemu import ConnectDomainQemuMonitorEventRegisterFlags as Flags
from qvirt.errors import InvalidArg, OperationFailed, QvirtError
from qvirt.runtime.events import EventBus


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fits(text: str, name: str, *, case: bool = False) -> bool:
    return pattern(text, is_regex=True, ignores_case=case).fits(name)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "BLOCK_.*",
            "^(VNC|SPICE)_.*",
            "RESET|SHUTDOWN|STOP",
            "JOB_[A-Z]+_CHANGE$",
            ".*",
            "A{2,3}B?",
            "^RTC",
        ),
        *("(?i:stop)", "(?:BLOCK|DEVICE)_.*_(ERROR|DELETED)", r"\w+_\w+", ""),
    ],
)
def test_what_people_ask_for_is_taken(text: str) -> None:
    pattern(text, is_regex=True, ignores_case=False)


@pytest.mark.parametrize(
    "text",
    [
        *("(A+)*#", "(_?[A-Z]+_?)*#", "(A|A)*#", "(A|AA)+#", "(A?A?)*#", "((A)*)*", "(.*)*", "(?:A*B*)+#"),
        *(
            ".*.*.*.*#",
            "A?" * 40 + "A" * 40,
            "(?=(A+)+#)A",
            "((A{1,30}){1,30}){1,30}#",
            "x" * 2000,
            "(AB|BA)" * 30,
        ),
        *("(", "[", "*", "(?P<a>", "(" * 5000 + ")" * 5000, "A{99999999999999999999}"),
    ],
)
def test_what_takes_long_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArg, match="failed to compile regex"):
        pattern(text, is_regex=True, ignores_case=False)


def test_names_are_whole_and_expressions_anywhere() -> None:
    assert fits("SHUT", "SHUTDOWN")
    assert not fits("shut", "SHUTDOWN")
    assert fits("shut", "SHUTDOWN", case=True)
    assert not fits(".*", "A" * (NAME_MAX + 1))
    exact = pattern("RTC.CHANGE", is_regex=False, ignores_case=True)
    assert exact.fits("rtc.change")
    assert not exact.fits("RTC_CHANGE")
    assert not pattern("STOP", is_regex=False, ignores_case=False).fits("STOPPED")


_PIECES = st.sampled_from(
    ["A", "B", ".", "[AB]", "A*", "A+", ".*", "A?", "(A|BA)", "(A*)", "(A|B*)", "A{1,9}"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_PIECES | st.lists(_PIECES, max_size=3).map(lambda it: f"({''.join(it)})*"), max_size=8))
def test_whatever_is_taken_ends_soon(pieces: list[str]) -> None:
    try:
        taken = pattern("".join(pieces) + "#", is_regex=True, ignores_case=False)
    except QvirtError:
        return
    with within(30):  # where a price is no upper bound, it is hours
        assert not taken.fits("A" * NAME_MAX)


def test_a_connection_cannot_register_without_end() -> None:
    hub = EventHub(EventBus())
    many = Subscriptions(hub, lambda *_: None)
    for _ in range(RAW_MAX):
        many.register_raw(None, "STOP", 0)
    with pytest.raises(OperationFailed):
        many.register_raw(None, None, 0)
    costly = Subscriptions(hub, lambda *_: None)
    for _ in range(2):
        costly.register_raw(None, ".*A.*B.*C", Flags.REGEX)
    with pytest.raises(OperationFailed):
        costly.register_raw(None, ".*A.*B.*C", Flags.REGEX)
    costly.register_raw(None, "RESET", 0)
