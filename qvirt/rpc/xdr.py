"""XDR: structures of the protocol tables compiled to Python functions.

A structure is compiled when it is first encoded or decoded: source text is generated from its type
nodes and executed, with adjacent fixed-size fields merged into one `struct.Struct`. Nothing but our own
tables reaches the generated text. Values on our side:

    structure  a NamedTuple with the table's field names (a Python keyword gets a trailing underscore);
               any sequence of the right length encodes
    union      (discriminant, value)
    T<N>       list; T? None or the value; string str, bytes that are not UTF-8 as surrogate escapes
    opaque and arrays of char   bytes
"""

import keyword
from collections import namedtuple
from collections.abc import Callable, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, NoReturn

from qvirt.errors import RpcError
from qvirt.rpc.types import Chars, Fields, Items, Maybe, Number, Opaque, Text, Type, Union

Value = Any
"""What a structure holds; the table, not Python's type system, knows its shape."""

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class XdrStruct:
    """A structure of the tables and its compiled codec.

    encode: a sequence of field values -> bytes; raises RpcError when a value breaks the table.
    decode: bytes, offset -> NamedTuple, ignoring what follows; raises RpcError when malformed.
    """

    __slots__ = ("_resolve", "_type", "decode", "encode", "name")

    encode: Callable[[Sequence[Value]], bytes]
    decode: Callable[..., tuple[Value, ...]]

    def __init__(self, name: str, resolve: Callable[[str], Fields]) -> None:
        self.name = name
        self._resolve = resolve
        self._type: type[tuple[Value, ...]] | None = None
        self.encode = self._encode_first
        self.decode = self._decode_first

    @property
    def type(self) -> "type[tuple[Value, ...]]":
        """The NamedTuple class of decoded values."""
        if self._type is None:
            self._compile()
            assert self._type is not None  # noqa: S101
        return self._type

    @property
    def fields(self) -> tuple[str, ...]:
        """Field names in wire order, as attributes of the NamedTuple."""
        names: tuple[str, ...] = self.type._fields  # type: ignore[attr-defined]
        return names

    @property
    def layout(self) -> Fields:
        """The structure's type nodes."""
        return self._resolve(self.name)

    def _encode_first(self, values: Sequence[Value]) -> bytes:
        self._compile()
        return self.encode(values)

    def _decode_first(self, data: bytes, offset: int = 0) -> tuple[Value, ...]:
        self._compile()
        return self.decode(data, offset)

    def _compile(self) -> None:
        if self._type is None:
            layout = self.layout
            decoder = _Decoder(layout)
            self._type = decoder.types[layout.name]
            self.encode = _Encoder(layout).function()
            self.decode = decoder.function()


def attribute(name: str) -> str:
    """Give the attribute name of a table's field."""
    return name + "_" if keyword.iskeyword(name) else name


def _refuse_encode(name: str, cause: Exception | None = None) -> NoReturn:
    detail = f" ({name}: {cause})" if cause else f" ({name}: a value is over the protocol's limit)"
    raise RpcError("Unable to encode message payload" + detail) from cause


def _refuse_decode(cause: Exception | None = None) -> NoReturn:
    raise RpcError("Unable to decode message payload") from cause


class _Source:
    """Lines of one function being generated, the names they use, and fixed-size fields not yet written."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {"PADDING": _PADDING, "StructError": StructError}
        self.lines: list[str] = []
        self.depth = 2
        self.pending: list[tuple[str, str]] = []
        self._serial = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fresh(self) -> str:
        self._serial += 1
        return f"v{self._serial}"

    def bind(self, stem: str, thing: object) -> str:
        self._serial += 1
        name = f"{stem}{self._serial}"
        self.names[name] = thing
        return name

    def layout(self) -> Struct:
        return Struct(">" + "".join(format_ for format_, _ in self.pending))


class _Encoder(_Source):
    def __init__(self, layout: Fields) -> None:
        super().__init__()
        self.root = layout
        self.names |= {"refuse": _refuse_encode}

    def function(self) -> Callable[[Sequence[Value]], bytes]:
        self.fields(self.root, "values")
        self.flush()
        head = ["def encode(values):", "    try:"]
        adds = [line for line in self.lines if line.lstrip().startswith("add(")]
        if len(adds) == 1 and self.lines[-1] == adds[0]:
            self.lines[-1] = adds[0].replace("add(", "return (", 1)
        else:
            head += ["        parts = []", "        add = parts.append"]
            self.line("return b''.join(parts)")
        tail = [
            "    except (StructError, ValueError, TypeError, AttributeError, OverflowError) as error:",
            f"        refuse({self.root.name!r}, error)",
        ]
        exec("\n".join(head + self.lines + tail), self.names)  # noqa: S102 - text made from our own tables
        return self.names["encode"]  # type: ignore[return-value]

    def flush(self) -> None:
        if self.pending:
            pack = self.bind("pack", self.layout().pack)
            self.line(f"add({pack}({', '.join(value for _, value in self.pending)}))")
            self.pending.clear()

    def limit(self, condition: str) -> None:
        self.line(f"if {condition}: refuse({self.root.name!r})")

    def fields(self, layout: Fields, value: str) -> None:
        names = [self.fresh() for _ in layout.fields]
        self.line(f"({', '.join(names)},) = {value}")
        for name, (_, type_) in zip(names, layout.fields, strict=True):
            self.value(type_, name)

    def value(self, type_: Type, value: str) -> None:
        match type_:
            case Number():
                if type_.narrow:
                    low, high = (-128, 127) if type_.signed else (0, (1 << type_.narrow) - 1)
                    self.limit(f"not {low} <= {value} <= {high}")
                self.pending.append((type_.format, value))
            case Text():
                data = self.fresh()
                self.line(f"{data} = {value}.encode('utf-8', 'surrogateescape')")
                self.limit(f"len({data}) > {type_.most} or 0 in {data}")
                self.counted(data)
            case Opaque(most, True):
                self.limit(f"len({value}) != {most}")
                self.pending.append((f"{most}s{-most % 4}x", value))
            case Opaque(most, False):
                self.limit(f"len({value}) > {most}")
                self.counted(value)
            case Chars():
                self.chars(type_, value)
            case Items():
                self.items(type_, value)
            case Maybe(item):
                self.pending.append(("I", f"{value} is not None"))
                self.flush()
                self.line(f"if {value} is not None:")
                self.block(item, value)
            case Fields():
                self.fields(type_, value)
            case Union():
                self.union(type_, value)

    def counted(self, data: str) -> None:
        size = self.fresh()
        self.line(f"{size} = len({data})")
        self.pending.append(("I", size))
        self.flush()
        self.line(f"add({data})")
        self.line(f"if {size} & 3: add(PADDING[{size} & 3])")

    def block(self, type_: Type, value: str) -> None:
        self.depth += 1
        self.value(type_, value)
        self.flush()
        self.depth -= 1

    def chars(self, type_: Chars, value: str) -> None:
        self.names["widen"] = _widen
        wide = self.fresh()
        self.limit(f"len({value}) > {type_.most}")
        self.line(f"{wide} = widen({value})")
        if type_.fixed:
            # struct fills a short value with zeros, as libvirt's strings in fixed arrays are.
            self.pending.append((f"{type_.most * 4}s", wide))
        else:
            self.pending.append(("I", f"len({value})"))
            self.flush()
            self.line(f"add({wide})")

    def items(self, type_: Items, value: str) -> None:
        size = self.fresh()
        self.line(f"{size} = len({value})")
        self.limit(f"{size} {'!=' if type_.fixed else '>'} {type_.most}")
        if not type_.fixed:
            self.pending.append(("I", size))
        self.flush()
        if isinstance(type_.item, Number) and not type_.item.narrow:
            self.names["Struct"] = Struct
            self.line(f"add(Struct('>%d{type_.item.format}' % {size}).pack(*{value}))")
            return
        item = self.fresh()
        self.line(f"for {item} in {value}:")
        self.block(type_.item, item)

    def union(self, type_: Union, value: str) -> None:
        kind, arm = self.fresh(), self.fresh()
        self.line(f"{kind}, {arm} = {value}")
        self.flush()
        word = "if"
        for number, arm_type in type_.arms:
            self.line(f"{word} {kind} == {number}:")
            self.pending.append(("i", kind))
            self.block(arm_type, arm)
            word = "elif"
        self.line("else:")
        self.line(f"    raise ValueError('{type_.name} has no arm %r' % ({kind},))")


class _Decoder(_Source):
    def __init__(self, layout: Fields) -> None:
        super().__init__()
        self.root = layout
        self.types: dict[str, type[tuple[Value, ...]]] = {}
        self.after: list[str] = []
        self.names |= {"refuse": _refuse_decode, "new": tuple.__new__}
        self.bind_type(layout)

    def function(self) -> Callable[..., tuple[Value, ...]]:
        result = self.fields(self.root)
        self.flush()
        head = ["def decode(data, at=0):", "    end = len(data)", "    try:"]
        tail = [
            f"        return {result}",
            # RecursionError and MemoryError cannot come from these tables: no type contains itself.
            "    except (StructError, ValueError) as error:",
            "        refuse(error)",
        ]
        exec("\n".join(head + self.lines + tail), self.names)  # noqa: S102 - text made from our own tables
        return self.names["decode"]  # type: ignore[return-value]

    def bind_type(self, layout: Fields) -> str:
        if layout.name not in self.types:
            made = namedtuple(layout.name, [attribute(name) for name, _ in layout.fields])  # type: ignore[misc]
            self.types[layout.name] = made
            self.names["T_" + layout.name] = made
        return "T_" + layout.name

    def flush(self) -> None:
        """Write the read of all pending fixed-size fields, then what must follow it."""
        if self.pending:
            layout = self.layout()
            unpack = self.bind("unpack", layout.unpack_from)
            self.line(f"({', '.join(name for _, name in self.pending)},) = {unpack}(data, at)")
            self.line(f"at += {layout.size}")
            self.pending.clear()
        for line in self.after:
            self.line(line)
        self.after.clear()

    def limit(self, condition: str) -> None:
        self.line(f"if {condition}: refuse()")

    def fields(self, layout: Fields) -> str:
        """Write the read of every field; give the expression that makes the structure."""
        type_name = self.bind_type(layout)
        parts = [self.value(type_) for _, type_ in layout.fields]
        return f"new({type_name}, ({', '.join(parts)},))"

    def value(self, type_: Type) -> str:
        """Write the read of one value; give the expression for it, valid after the next flush."""
        name = self.fresh()
        match type_:
            case Number():
                self.pending.append((type_.format, name))
                if type_.signed:
                    self.after.append(f"{name} = (({name} + 128) & 255) - 128")
                elif type_.narrow:
                    self.after.append(f"{name} &= {(1 << type_.narrow) - 1}")
            case Text():
                self.counted(name, type_.most)
                self.limit(f"0 in {name}")
                self.line(f"{name} = {name}.decode('utf-8', 'surrogateescape')")
            case Opaque(most, True):
                self.pending.append((f"{most}s{-most % 4}x", name))
            case Opaque(most, False):
                self.counted(name, most)
            case Chars(most, True):
                # Only the low byte of each sign-extended integer says anything.
                self.pending.append((f"{most * 4}s", name))
                self.after.append(f"{name} = {name}[3::4]")
            case Chars(most, False):
                self.count(name, most)
                self.line(f"stop = at + {name} * 4")
                self.limit("stop > end")
                self.line(f"{name} = data[at + 3:stop:4]")
                self.line("at = stop")
            case Items():
                self.items(type_, name)
            case Maybe(item):
                self.pending.append(("I", name))
                self.flush()
                self.line(f"if {name}:")
                self.block(item, f"{name} = %s")
                self.line("else:")
                self.line(f"    {name} = None")
            case Fields():
                return self.fields(type_)
            case Union():
                self.union(type_, name)
        return name

    def count(self, name: str, most: int) -> None:
        self.pending.append(("I", name))
        self.flush()
        self.limit(f"{name} > {most}")

    def counted(self, name: str, most: int) -> None:
        self.count(name, most)
        self.line(f"stop = at + {name}")
        self.line(f"{name} = data[at:stop]")
        self.line("at = stop + (at - stop) % 4")
        self.limit("at > end")

    def block(self, type_: Type, statement: str) -> None:
        self.depth += 1
        result = self.value(type_)
        self.flush()
        self.line(statement % result)
        self.depth -= 1

    def items(self, type_: Items, name: str) -> None:
        size = str(type_.most)
        if type_.fixed:
            self.flush()
        else:
            size = self.fresh()
            self.count(size, type_.most)
        if isinstance(type_.item, Number) and not type_.item.narrow:
            self.names["Struct"] = Struct
            width = Struct(">" + type_.item.format).size
            self.limit(f"at + {size} * {width} > end")
            self.line(f"{name} = [*Struct('>%d{type_.item.format}' % {size}).unpack_from(data, at)]")
            self.line(f"at += {size} * {width}")
            return
        self.line(f"{name} = []")
        self.line(f"for _ in range({size}):")
        self.block(type_.item, f"{name}.append(%s)")

    def union(self, type_: Union, name: str) -> None:
        kind = self.fresh()
        self.pending.append(("i", kind))
        self.flush()
        word = "if"
        for number, arm_type in type_.arms:
            self.line(f"{word} {kind} == {number}:")
            self.block(arm_type, f"{name} = ({kind}, %s)")
            word = "elif"
        self.line("else:")
        self.line("    refuse()")


def _widen(data: bytes) -> bytes:
    """Encode chars as XDR integers: four bytes each, sign-extended."""
    wide = bytearray(len(data) * 4)
    wide[3::4] = data
    high = data.translate(_SIGN)
    wide[0::4] = wide[1::4] = wide[2::4] = high
    return bytes(wide)


_SIGN = bytes(0xFF if byte & 0x80 else 0 for byte in range(256))
