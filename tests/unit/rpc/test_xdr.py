"""XDR: round trips of every structure, limits, hostile input, bytes worked out by hand."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvirt.errors import RpcError
from qvirt.rpc import protocol
from qvirt.rpc.types import Schema
from qvirt.rpc.xdr import XdrStruct
from tests.unit.rpc.values import values

PROGRAMS = [protocol.REMOTE, protocol.QEMU, protocol.LXC, protocol.ADMIN]
STRUCTS = [
    protocol.program(number).structs[name] for number in PROGRAMS for name in protocol.program(number).structs
]
FEW = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def struct(*fields: tuple[str, str], **unions: dict[str, str]) -> XdrStruct:
    return XdrStruct(
        "sample", Schema({"sample": fields, "pair": (("a", "i32"), ("b", "string<4>"))}, unions=unions).struct
    )


@pytest.mark.parametrize("sample", STRUCTS, ids=lambda sample: sample.name)
def test_every_structure_survives_encoding_and_decoding(sample: XdrStruct) -> None:
    @FEW
    @given(values(sample.layout), st.binary(max_size=5))
    def check(value: Any, trailing: bytes) -> None:
        data = sample.encode(value)
        assert len(data) % 4 == 0
        decoded = sample.decode(data + trailing)
        assert decoded == value
        assert sample.encode(decoded) == data
        for cut in {0, len(data) // 2, len(data) - 1} if data else ():
            with pytest.raises(RpcError, match="Unable to decode message payload"):
                sample.decode(data[:cut])

    check()


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(STRUCTS), st.binary(max_size=200), st.data())
def test_hostile_input_raises_nothing_but_rpc_errors(
    sample: XdrStruct, data: bytes, more: st.DataObject
) -> None:
    if more.draw(st.booleans()):
        valid = bytearray(sample.encode(more.draw(values(sample.layout))))
        for position, byte in more.draw(
            st.lists(st.tuples(st.integers(0, len(valid) - 1), st.integers(0, 255)))
        ):
            valid[position] = byte
        data = bytes(valid)
    try:
        decoded = sample.decode(data)
    except RpcError as error:
        assert str(error) == "Unable to decode message payload"  # noqa: PT017
    else:
        sample.decode(sample.encode(decoded))


def test_decoded_structures_have_named_fields() -> None:
    procedure = protocol.remote().by_name["DOMAIN_LOOKUP_BY_NAME"]
    data = bytes.fromhex("00000003 61626300") + bytes(range(16)) + b"\xff\xff\xff\xff"
    ret = procedure.decode_ret(data)
    assert ret == (("abc", bytes(range(16)), -1),)
    assert ret[0].name == "abc"
    assert ret[0].id == -1
    assert procedure.encode_ret(ret) == data


def test_a_field_named_like_a_keyword_gets_an_underscore() -> None:
    assert protocol.remote().structs["remote_domain_restore_args"].fields == ("from_",)


def test_void_is_nothing() -> None:
    procedure = protocol.remote().by_name["CONNECT_CLOSE"]
    assert procedure.encode_args() == b""
    assert procedure.decode_args(b"junk") == ()


@pytest.mark.parametrize(
    ("type_", "value", "wire"),
    [
        ("i32", -2, "fffffffe"),
        ("u64", 1 << 40, "0000010000000000"),
        ("f64", 1.5, "3ff8000000000000"),
        ("i8", -2, "fffffffe"),
        ("u8", 200, "000000c8"),
        ("string<5>", "grün", "00000005 6772c3bc 6e000000"),
        ("string<5>", "a\udcff", "00000002 61ff0000"),
        ("opaque<6>", b"\0\1\2", "00000003 00010200"),
        ("opaque[5]", b"abcde", "61626364 65000000"),
        ("i8<3>", b"a\xc3", "00000002 00000061 ffffffc3"),
        ("i8[2]", b"a\xff", "00000061 ffffffff"),
        ("u32<3>", [1, 2], "00000002 00000001 00000002"),
        ("u64[1]", [7], "0000000000000007"),
        ("u8<2>", [255], "00000001 000000ff"),
        ("pair<2>", [(1, "a"), (2, "")], "00000002 00000001 00000001 61000000 00000002 00000000"),
        ("pair?", None, "00000000"),
        ("pair?", (1, ""), "00000001 00000001 00000000"),
        ("string<4>?", "", "00000001 00000000"),
        ("choice", (2, "x"), "00000002 00000001 78000000"),
    ],
)
def test_wire_form(type_: str, value: object, wire: str) -> None:
    sample = struct(("before", "u32"), ("it", type_), ("after", "u32"), choice={"1": "i32", "2": "string<4>"})
    data = bytes.fromhex("00000009" + wire.replace(" ", "") + "00000008")
    assert sample.encode((9, value, 8)) == data
    assert sample.decode(data) == (9, value, 8)


def test_short_text_in_a_fixed_char_array_is_filled_with_zeros() -> None:
    sample = struct(("model", "i8[4]"))
    assert sample.decode(sample.encode((b"ab",))) == (b"ab\0\0",)


def test_unsigned_form_of_chars_is_accepted() -> None:
    assert struct(("data", "i8<3>")).decode(bytes.fromhex("00000001 000000c3")) == (b"\xc3",)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("string<3>", "four"),
        ("string<3>", "gr\xfcn"),
        ("string<3>", "a\0b"),
        ("string<3>", b"a"),
        ("string<3>", None),
        ("string<9>", "\ud800"),
        ("opaque<3>", b"four"),
        ("opaque<3>", "a"),
        ("opaque[3]", b"ab"),
        ("opaque[3]", b"abcd"),
        ("i8<3>", b"four"),
        ("i8[3]", b"four"),
        ("i8", 128),
        ("u8", 256),
        ("u8", -1),
        ("u16", 65536),
        ("u32", -1),
        ("u32", 2**32),
        ("i32", "1"),
        ("i32", None),
        ("u32<2>", [1, 2, 3]),
        ("u32[2]", [1]),
        ("pair<1>", [(1, ""), (2, "")]),
        ("pair", (1,)),
        ("pair", 1),
        ("choice", (3, 1)),
        ("choice", None),
    ],
)
def test_a_value_that_breaks_the_table_is_not_sent(type_: str, value: object) -> None:
    sample = struct(("it", type_), choice={"1": "i32", "2": "string<4>"})
    with pytest.raises(RpcError, match="Unable to encode message payload"):
        sample.encode((value,))


@pytest.mark.parametrize(
    ("type_", "wire"),
    [
        ("string<3>", "00000004 61626364"),
        ("string<9>", "ffffffff 61626364"),
        ("string<9>", "00000003 616263"),
        ("string<9>", "00000003 61006300"),
        ("opaque<3>", "00000004 61626364"),
        ("i8<1>", "00000002 00000000 00000000"),
        ("u32<1>", "00000002 00000000 00000000"),
        ("u32<900>", "00000384 00000000"),
        ("pair<1>", "00000002 00000000 00000000 00000000 00000000"),
        ("choice", "00000003 00000000"),
        ("i32", "000000"),
        ("i32", ""),
    ],
)
def test_what_breaks_the_table_is_not_taken(type_: str, wire: str) -> None:
    sample = struct(("it", type_), choice={"1": "i32", "2": "string<4>"})
    with pytest.raises(RpcError, match=r"^Unable to decode message payload$"):
        sample.decode(bytes.fromhex(wire.replace(" ", "")))


def test_wrong_number_of_fields_is_an_encoding_error() -> None:
    with pytest.raises(RpcError, match="sample"):
        struct(("a", "i32"), ("b", "i32")).encode((1,))


def test_a_limit_of_the_real_tables_holds_both_ways() -> None:
    args = protocol.remote().structs["remote_domain_send_key_args"]
    dom = ("d", bytes(16), 1)
    most = args.encode((dom, 0, 0, list(range(16)), 0))
    assert args.decode(most)[3] == list(range(16))
    with pytest.raises(RpcError):
        args.encode((dom, 0, 0, list(range(17)), 0))


def test_encode_kept_from_before_compilation_still_works() -> None:
    sample = struct(("a", "i32"))
    encode, decode = sample.encode, sample.decode
    assert decode(encode((5,))) == decode(encode((5,))) == (5,)
