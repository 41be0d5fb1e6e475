"""The field kinds: one line in a Node class reads and writes one piece of its element.

A helper returns, for the type checker, the value's own type; at run time it leaves a Field in the class,
which ``Node`` replaces by the default. ``None`` means the document does not say. The order of the lines is
the order of output.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from qvirt.xml.codecs import Codec

if TYPE_CHECKING:
    from qvirt.xml.node import Node, Raw

T = TypeVar("T")
N = TypeVar("N", bound="Node")

_SPECIAL = re.compile("[&<>\"'\r]").search
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;", "\r": "&#13;"}
)
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]").search
_SPECIAL_IN_ATTRIBUTES = re.compile("[&<>\"'\r\n\t]").search
_ESCAPES_IN_ATTRIBUTES = _ESCAPES | str.maketrans({"\n": "&#10;", "\t": "&#9;"})


def escape(text: str) -> str:
    """Escape content as libvirt does, and a carriage return, which would be read as another line."""
    return text.translate(_ESCAPES) if _SPECIAL(text) else text


def quoted(text: str) -> str:
    """Escape an attribute's value. What is a line or a tab there would be read as a blank: another path."""
    return text.translate(_ESCAPES_IN_ATTRIBUTES) if _SPECIAL_IN_ATTRIBUTES(text) else text


def fits(text: str) -> bool:
    """Tell whether a document can hold a text at all; names of files may have any bytes."""
    return _UNFIT(text) is None


class Field:
    """One line of a Node class: what it is called in Python and in XML, and how it is read and written."""

    __slots__ = ("name", "required", "wire")
    name: str
    wire: str
    required: bool

    def __init__(self, wire: str | None, required: bool = False) -> None:
        self.wire = wire or ""
        self.required = required

    def bind(self, name: str) -> None:
        """Take the attribute's name in the class; the XML name follows from it unless it was given."""
        self.name = name
        self.wire = self.wire or name.rstrip("_")

    def default(self) -> object:
        """Return what the class attribute holds while the document does not say."""
        return None


class Attr(Field):
    """An XML attribute."""

    __slots__ = ("codec", "fallback", "nonempty", "omit")

    def __init__(
        self, codec: Codec[Any], wire: str | None, fallback: object, required: bool, omit: object
    ) -> None:
        super().__init__(wire, required)
        self.codec = codec
        self.fallback = fallback
        self.omit = omit

    def default(self) -> object:
        return self.fallback


class Content(Attr):
    """The element's own text."""

    __slots__ = ()


class Text(Attr):
    """The text of a child element that holds nothing else."""

    __slots__ = ()


class Texts(Field):
    """Any number of child elements that hold text and nothing else."""

    __slots__ = ("codec",)

    def __init__(self, codec: Codec[Any], wire: str | None) -> None:
        super().__init__(wire)
        self.codec = codec


class Flag(Field):
    """An empty child element: there or not."""

    __slots__ = ()

    def default(self) -> object:
        return False


class Child(Field):
    """A child element of one class; ``part``: never None, written only when it says something."""

    __slots__ = ("_target", "part")

    def __init__(
        self, target: "type[Node] | Callable[[], type[Node]]", wire: str | None, required: bool, part: bool
    ) -> None:
        super().__init__(wire, required)
        self._target = target
        self.part = part

    def bind(self, name: str) -> None:
        self.name = name
        if not self.wire:
            self.wire = getattr(self._target, "tag", "") or name.rstrip("_")

    @property
    def target(self) -> "type[Node]":
        """The class of the child; a function stands for a class that is defined later."""
        if not isinstance(self._target, type):
            self._target = self._target()
        return self._target


class Children(Child):
    """Any number of child elements of one class."""

    __slots__ = ()


class Choice(Field):
    """A child element whose class depends on one of its attributes."""

    __slots__ = ("by", "classes")

    def __init__(self, classes: "Mapping[str, type[Node]]", by: str, wire: str, required: bool) -> None:
        super().__init__(wire, required)
        self.classes = classes
        self.by = by


class Opaque(Field):
    """Child elements kept word for word: what we do not model, and what is not ours to model."""

    __slots__ = ()


@overload
def attr(codec: Codec[T], name: str | None = None, *, required: bool) -> T: ...
@overload
def attr(codec: Codec[T], name: str | None = None, *, default: T, omit: T | None = None) -> T: ...
@overload
def attr(codec: Codec[T], name: str | None = None, *, omit: T | None = None) -> T | None: ...
def attr(
    codec: Codec[T],
    name: str | None = None,
    *,
    default: T | None = None,
    required: bool = False,
    omit: T | None = None,
) -> T | None:
    """Declare an attribute. ``omit``: a value that is not written."""
    return cast("T | None", Attr(codec, name, default, required, omit))


@overload
def content(codec: Codec[T], *, required: bool) -> T: ...
@overload
def content(codec: Codec[T]) -> T | None: ...
def content(codec: Codec[T], *, required: bool = False) -> T | None:
    """Declare the element's own text."""
    return cast("T | None", Content(codec, None, None, required, None))


@overload
def text(codec: Codec[T], name: str | None = None, *, required: bool) -> T: ...
@overload
def text(codec: Codec[T], name: str | None = None, *, default: T, omit: T | None = None) -> T: ...
@overload
def text(codec: Codec[T], name: str | None = None, *, omit: T | None = None) -> T | None: ...
def text(
    codec: Codec[T],
    name: str | None = None,
    *,
    default: T | None = None,
    required: bool = False,
    omit: T | None = None,
) -> T | None:
    """Declare a child element that holds text only: ``<serial>…</serial>``."""
    return cast("T | None", Text(codec, name, default, required, omit))


def texts(codec: Codec[T], name: str) -> list[T]:
    """Declare repeated child elements that hold text only."""
    return cast("list[T]", Texts(codec, name))


def flag(name: str | None = None) -> bool:
    """Declare an empty child element, there or not: ``<readonly/>``."""
    return cast(bool, Flag(name))


@overload
def child(target: type[N], name: str | None = None, *, required: bool) -> N: ...
@overload
def child(target: type[N] | Callable[[], type[N]], name: str | None = None) -> N | None: ...
def child(
    target: type[N] | Callable[[], type[N]], name: str | None = None, *, required: bool = False
) -> N | None:
    """Declare a child element whose presence means something."""
    return cast("N | None", Child(target, name, required, part=False))


def part(target: type[N], name: str | None = None) -> N:
    """Declare a child element that only groups attributes: never None, written when it says something."""
    return cast(N, Child(target, name, required=False, part=True))


def children(target: type[N] | Callable[[], type[N]], name: str | None = None) -> list[N]:
    """Declare repeated child elements."""
    return cast("list[N]", Children(target, name, required=False, part=False))


def choice(classes: Mapping[str, type[N]], name: str, *, by: str = "type") -> N | None:
    """Declare a child element whose class follows from its attribute ``by``."""
    return cast("N | None", Choice(classes, by, name, required=False))


def opaque(name: str) -> "list[Raw]":
    """Declare child elements that are kept as they stand; ``name`` may be ``{namespace}tag``."""
    return cast("list[Raw]", Opaque(name))
