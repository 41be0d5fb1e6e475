"""Flags, typed parameters, CPU maps, URIs, quoting: what calls do before and after the work."""

import pytest

from qvirt.api import typed_params
from qvirt.api.connect import driver_of
from qvirt.api.domain_cpu import cpu_map
from qvirt.api.domain_xml import command_text
from qvirt.api.flags import check_exclusive, check_flags
from qvirt.api.handle import uuid_bytes, uuid_text
from qvirt.constants.common import TypedParameterType
from qvirt.constants.error import ErrorNumber
from qvirt.errors import ArgumentUnsupported, InternalError, InvalidArg, NoConnect, RpcError
from qvirt.runtime.records import Param

PARAMS = [
    Param("count", TypedParameterType.UINT, 3),
    Param("name", TypedParameterType.STRING, "x"),
    Param("share", TypedParameterType.DOUBLE, 0.5),
]


def test_flags_are_refused_in_libvirts_words() -> None:
    check_flags(3, 7, "qemuDomainX")
    with pytest.raises(InvalidArg) as caught:
        check_flags(0x18, 8, "qemuDomainX")
    assert caught.value.message == "unsupported flags (0x10) in function qemuDomainX"
    assert caught.value.code == ErrorNumber.INVALID_ARG
    check_exclusive(1, ("A", 1), ("B", 2), "qemuDomainX")
    with pytest.raises(InvalidArg, match="'A' and 'B' in function 'qemuDomainX' are mutually exclusive"):
        check_exclusive(3, ("A", 1), ("B", 2), "qemuDomainX")


def test_strings_only_for_those_who_take_them() -> None:
    assert [name for name, _ in typed_params.encode(PARAMS, 0)] == ["count", "share"]
    assert typed_params.encode(PARAMS, 4)[1] == ("name", (7, "x"))


def test_counts_of_parameters() -> None:
    assert typed_params.encode_counted(PARAMS, 0, 4, 16) == ([], 3)
    assert typed_params.encode_counted(PARAMS, 0, 0, 16) == ([], 2)
    some, count = typed_params.encode_counted(PARAMS, 2, 4, 16)
    assert ([name for name, _ in some], count) == (["count", "name"], 2)
    assert typed_params.encode_counted(PARAMS, 16, 4, 16)[1] == 3
    for nparams in (-1, 17):
        with pytest.raises(RpcError, match="nparams too large"):
            typed_params.encode_counted(PARAMS, nparams, 4, 16)


def test_parameters_from_clients() -> None:
    known = {"count": int(TypedParameterType.UINT)}
    assert typed_params.decode([("count", (2, 5))], known) == {"count": 5}
    with pytest.raises(ArgumentUnsupported, match="parameter 'cuont' not supported"):
        typed_params.decode([("cuont", (2, 5))], known)
    with pytest.raises(InvalidArg, match="invalid type 'int' for parameter 'count', expected 'uint'"):
        typed_params.decode([("count", (1, 5))], known)
    with pytest.raises(InvalidArg, match="occurs multiple times"):
        typed_params.decode([("count", (2, 5)), ("count", (2, 6))], known)


def test_cpu_maps() -> None:
    assert cpu_map([], 0) == b""
    assert cpu_map([0, 3, 8], 2) == b"\x09\x01"
    assert cpu_map([0, 99], 1) == b"\x01", "what does not fit is cut off, as libvirt does"


@pytest.mark.parametrize(
    ("uri", "privileged", "driver"),
    [
        ("qemu:///system", True, "QEMU"),
        ("qemu:///session", True, "QEMU"),
        ("qemu:///session?x=/a/b", False, "QEMU"),
        ("qemu:///system#part", True, "QEMU"),
        ("qemu:///system?x=1#part?", True, "QEMU"),
        ("network:///system", True, "network"),
        ("nodedev:///session", False, "nodedev"),
    ],
)
def test_uris_that_are_taken(uri: str, privileged: bool, driver: str) -> None:
    assert driver_of(uri, privileged=privileged) == driver


@pytest.mark.parametrize(
    ("uri", "privileged", "error", "message"),
    [
        ("qemu:///system", False, InternalError, "unexpected qemu URI path '/system', try qemu:///session"),
        ("qemu:///", True, InternalError, "unexpected qemu URI path '/', try qemu:///system"),
        ("network:///session", True, InternalError, "try network:///system"),
        ("qemu://host/system", True, NoConnect, "no connection driver available for qemu://host/system"),
        ("QEMU:///system", True, NoConnect, "QEMU:///system"),
        ("nonsense", True, NoConnect, "nonsense"),
    ],
)
def test_uris_that_are_not(uri: str, privileged: bool, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        driver_of(uri, privileged=privileged)


def test_command_lines_are_quoted_for_the_shell() -> None:
    words = ["A=b", "-name", "guest=x,y", '{"a":1}', "it's", "", "a b", "über"]
    text = """A=b -name guest=x,y '{"a":1}' 'it'\\''s' '' 'a b' über"""
    assert command_text(words) == text


def test_uuids_both_ways() -> None:
    text = "c7a5fdbd-cdaf-9455-926a-d65c16db1809"
    assert uuid_text(uuid_bytes(text)) == text
