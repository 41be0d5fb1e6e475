"""Records: classes that are nothing but their fields, declared as with `dataclasses` but made in no time.

`dataclasses` compiles up to six functions for every class it decorates, half a millisecond that each start
of the program pays for some hundred and fifty classes. A record compiles only its constructor, and only when
it is first called.

    class Place(Record):
        bus: int
        slot: int = 0
        names: list[str] = field(default_factory=list)

A record has slots, compares and hashes by its fields, and is not changed once made; the type checkers see to
the last. `frozen=False` after the base makes one that may change and has no hash, `eq=False` one that is only
equal to itself, `slots=False` one that can have cached properties.
"""

import sys
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, Final, TypeVar, dataclass_transform, get_origin, overload

T = TypeVar("T")

_ABSENT: Final[Any] = type("_Absent", (), {"__slots__": (), "__repr__": lambda self: "<absent>"})()


_NOTHING: Final = ("__class__",)
"""Stands in where no field is compared: records of one class are equal then."""


class Field:
    """What is known of a field. default: of the constructor; factory: makes the default anew each time."""

    __slots__ = ("compare", "default", "factory", "kw_only", "repr")

    def __init__(
        self,
        default: Any = _ABSENT,
        factory: Callable[[], Any] | None = None,
        *,
        kw_only: bool = False,
        compare: bool = True,
        repr: bool = True,
    ) -> None:
        self.default = default
        self.factory = factory
        self.kw_only = kw_only
        self.compare = compare
        self.repr = repr


@overload
def field(*, default: T, kw_only: bool = False, compare: bool = True, repr: bool = True) -> T: ...
@overload
def field(
    *, default_factory: Callable[[], T], kw_only: bool = False, compare: bool = True, repr: bool = True
) -> T: ...
@overload
def field(*, kw_only: bool = False, compare: bool = True, repr: bool = True) -> Any: ...
def field(
    *,
    default: Any = _ABSENT,
    default_factory: Callable[[], Any] | None = None,
    kw_only: bool = False,
    compare: bool = True,
    repr: bool = True,
) -> Any:
    """Describe a field whose default is made anew, that is given by name only, or that does not count.

    compare: it counts in comparisons and in the hash. repr: it is shown.
    """
    return Field(default, default_factory, kw_only=kw_only, compare=compare, repr=repr)


def _annotations(namespace: dict[str, Any]) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        annotate = annotationlib.get_annotate_from_class_namespace(namespace)
        if annotate is not None:
            return annotationlib.call_annotate_function(annotate, annotationlib.Format.FORWARDREF)
    found: Mapping[str, Any] = namespace.get("__annotations__", {})
    return found


def _first_init(cls: "RecordType") -> Callable[..., None]:
    """Return the constructor that makes the real one, puts it in its own place and calls it."""

    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        made = _compile_init(cls)
        type.__setattr__(cls, "__init__", made)
        made(self, *args, **kwargs)

    return __init__


def _compile_init(cls: "RecordType") -> Callable[..., None]:
    names: dict[str, Any] = {"_absent": _ABSENT}
    parameters = ["self"]
    named: list[str] = []
    body: list[str] = []
    for key, field in cls._fields.items():
        parameter, value = key, key
        if field.factory is not None:
            names[f"_make_{key}"] = field.factory
            parameter, value = f"{key}=_absent", f"_make_{key}() if {key} is _absent else {key}"
        elif field.default is not _ABSENT:
            names[f"_default_{key}"] = field.default
            parameter = f"{key}=_default_{key}"
        (named if field.kw_only else parameters).append(parameter)
        body.append(f"    self.{key} = {value}\n")
    if named:
        parameters += ["*", *named]
    # The names are those of a class statement, so nothing foreign is compiled.
    source = f"def __init__({', '.join(parameters)}):\n{''.join(body) or '    pass'}"
    exec(source, names)  # noqa: S102
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


class RecordType(type):
    """What makes a class a record: its annotations become slots, their values defaults."""

    _fields: Mapping[str, Field]
    _compared: "attrgetter[Any]"

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        frozen: bool = True,
        eq: bool = True,
        slots: bool = True,
    ) -> "RecordType":
        own: dict[str, Field] = {}
        for key, annotation in _annotations(namespace).items():
            if annotation is not ClassVar and get_origin(annotation) is not ClassVar:
                value = namespace.pop(key, _ABSENT)
                own[key] = value if isinstance(value, Field) else Field(value)
        fields: dict[str, Field] = {}
        for base in reversed(bases):
            fields.update(getattr(base, "_fields", {}))
        if slots:
            namespace["__slots__"] = tuple(key for key in own if key not in fields)
        fields.update(own)
        namespace["_fields"] = fields
        namespace["__match_args__"] = tuple(key for key, field in fields.items() if not field.kw_only)
        compared = [key for key, field in fields.items() if field.compare]
        namespace["_compared"] = attrgetter(*(compared or _NOTHING))
        if not eq:
            namespace.setdefault("__eq__", object.__eq__)
            namespace.setdefault("__hash__", object.__hash__)
        elif not frozen:
            namespace.setdefault("__hash__", None)
        made = super().__new__(cls, name, bases, namespace)
        if "__init__" not in namespace:
            type.__setattr__(made, "__init__", _first_init(made))
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: bool) -> None:
        super().__init__(name, bases, namespace)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record(metaclass=RecordType):
    """Base of all records."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        compared = type(self)._compared
        return bool(compared(self) == compared(other))

    def __hash__(self) -> int:
        return hash(type(self)._compared(self))

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}" for name, field in type(self)._fields.items() if field.repr
        )
        return f"{type(self).__qualname__}({shown})"


R = TypeVar("R", bound=Record)


def replace(record: R, **changes: Any) -> R:
    """Return a copy with other values for some fields; raises TypeError for a name that is no field."""
    values = {name: getattr(record, name) for name in type(record)._fields}
    return type(record)(**(values | changes))


def fields(record: Record | type[Record]) -> Mapping[str, Field]:
    """Return the fields of a record, or of its class, by name and in order."""
    return (record if isinstance(record, type) else type(record))._fields


def asdict(record: Record) -> dict[str, Any]:
    """Return the fields by name, and those of records in them or in their lists, tuples and mappings."""
    return {name: _plain(getattr(record, name)) for name in type(record)._fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
