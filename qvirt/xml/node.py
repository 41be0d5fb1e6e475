"""Node: an XML element as a typed Python object, read and written by its field lines.

Reading never fills in what the document leaves out; it only refuses what cannot be read. Elements and
attributes that no field names are left out, and reported to the Reader, which the validate flag shows.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias, cast

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg, QvirtError, XmlError
from qvirt.xml import fields as f
from qvirt.xml.codecs import Unfit, cpuset, positive
from qvirt.xml.fields import escape, quoted


class Unknown:
    """Something in a document that nobody here knows: an element or an attribute."""

    __slots__ = ("is_attribute", "known", "line", "name", "owner")

    def __init__(self, name: str, owner: str, line: int, known: tuple[str, ...], is_attribute: bool) -> None:
        self.is_attribute = is_attribute
        self.name = name
        self.owner = owner
        self.line = line
        self.known = known


class Reader:
    """What one reading of a document gathers: the things nobody knows.

    names_only: the document is about something that is there already, and has to say no more than which.
    """

    __slots__ = ("names_only", "unknown")

    def __init__(self, *, names_only: bool = False) -> None:
        self.names_only = names_only
        self.unknown: list[Unknown] = []


class Raw:
    """An element kept as it stands."""

    __slots__ = ("element",)

    def __init__(self, element: etree._Element) -> None:
        self.element = element

    @property
    def tag(self) -> str:
        return str(self.element.tag)

    @property
    def namespace(self) -> str:
        """The URI of the element's namespace, '' without."""
        return self.tag[1:].partition("}")[0] if self.tag.startswith("{") else ""

    @property
    def line(self) -> int:
        """The line of the source document the element began on."""
        return line_of(self.element)

    def write(self, out: list[str], indent: str) -> None:
        """Write the element, indented afresh where it holds no text of its own, as libvirt does."""
        _write_raw(self.element, out, indent, None)

    def copy(self) -> "Raw":
        return self  # never changed once read

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raw) and etree.tostring(self.element, method="c14n") == etree.tostring(
            other.element, method="c14n"
        )

    __hash__ = None  # type: ignore[assignment]  # equality is by content


def _qname(tag: str, nsmap: dict[str | None, str]) -> str:
    if not tag.startswith("{"):
        return tag
    uri, local = tag[1:].split("}")
    if uri == "http://www.w3.org/XML/1998/namespace":
        return f"xml:{local}"
    prefixes = [prefix for prefix, known in nsmap.items() if known == uri]
    if None in prefixes:
        return local
    return f"{prefixes[0]}:{local}"


def _write_raw(el: etree._Element, out: list[str], indent: str, outer: dict[str | None, str] | None) -> None:
    tag = _qname(str(el.tag), el.nsmap)
    parts = [tag]
    for prefix, uri in el.nsmap.items():
        if outer is None:
            used = prefix is not None and prefix == (tag.split(":")[0] if ":" in tag else None)
            inherited = el.getparent() is not None and el.getparent().nsmap.get(prefix) == uri  # type: ignore[union-attr]
            if inherited and not used and not _uses_prefix(el, uri):
                continue
        elif outer.get(prefix) == uri:
            continue
        said = quoted(uri)
        parts.append(f'xmlns:{prefix}="{said}"' if prefix else f'xmlns="{said}"')
    for name, value in el.attrib.items():
        shown = _qname(str(name), {p: u for p, u in el.nsmap.items() if p is not None})
        parts.append(f'{shown}="{escape_raw(str(value), quote=True)}"')
    head = " ".join(parts)
    kids = list(el)
    text = el.text or ""
    if not kids and not text:
        out.append(f"{indent}<{head}/>\n")
        return
    mixed = bool(text.strip()) or any((kid.tail or "").strip() for kid in kids)
    if not kids or mixed:
        inner = escape_raw(text)
        for kid in kids:
            inner += _inline(kid, el.nsmap)
        out.append(f"{indent}<{head}>{inner}</{tag}>\n")
        return
    out.append(f"{indent}<{head}>\n")
    for kid in kids:
        if isinstance(kid.tag, str):
            _write_raw(kid, out, indent + "  ", el.nsmap)
        else:
            out.append(f"{indent}  {etree.tostring(kid, encoding='unicode', with_tail=False)}\n")
    out.append(f"{indent}</{tag}>\n")


def _uses_prefix(el: etree._Element, uri: str) -> bool:
    start = f"{{{uri}}}"
    return any(
        str(node.tag).startswith(start) or any(str(name).startswith(start) for name in node.attrib)
        for node in el.iter(etree.Element)
    )


def _inline(el: etree._Element, outer: dict[str | None, str]) -> str:
    """Write an element of mixed content on one line, its tail included."""
    if isinstance(el.tag, str):
        pieces: list[str] = []
        _write_raw(el, pieces, "", outer)
        shown = "".join(pieces).rstrip("\n")
    else:
        shown = etree.tostring(el, encoding="unicode", with_tail=False)
    return shown + escape_raw(el.tail or "")


def escape_raw(value: str, quote: bool = False) -> str:
    """Escape kept content the way an XML library does: apostrophes stay."""
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    if quote:
        value = value.replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
    return value


class _Empty:
    """Class attribute of a list or part: makes the value at first use and keeps it in the object."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[[], object]) -> None:
        self.name = name
        self.make = make

    def __get__(self, node: "Node | None", owner: type) -> object:
        if node is None:
            return self
        value = node.__dict__[self.name] = self.make()
        return value


Complaints: TypeAlias = Mapping[str, tuple[type[QvirtError], str]]


def complain(sentences: Complaints) -> Complaints:
    """Declare libvirt's own sentences for values that cannot be read; see `Node.complaints`."""
    return MappingProxyType(dict(sentences))


_CHILD, _CHILDREN, _TEXT, _FLAG = 1, 2, 3, 4
_KINDS: dict[type[f.Field], int] = {f.Child: _CHILD, f.Children: _CHILDREN}
_READ_KINDS: dict[type[f.Field], int] = {**_KINDS, f.Text: _TEXT, f.Flag: _FLAG}


class Node:
    """Base of every bound element.

    tag: the element's name; ``{namespace}name`` with ``prefix`` set in the class for other namespaces.
    line: where the element began in the document it was read from; 0 for one made in memory.
    """

    tag: ClassVar[str] = ""
    #: where libvirt has a sentence of its own: XML name of the field ("" for the content, "!name" when it is
    #: missing) -> the error and its text, in which {} is the value
    complaints: ClassVar[Complaints] = MappingProxyType({})
    fields: ClassVar[tuple[f.Field, ...]] = ()
    # what reading goes through for every element, laid out flat
    _attrs: ClassVar[dict[str, tuple[str, Callable[[str], object], f.Attr]]] = {}
    _kids: ClassVar[dict[str, tuple[int, str, f.Field]]] = {}
    _checks: ClassVar[bool] = False
    _content: ClassVar[f.Content | None] = None
    _required: ClassVar[tuple[f.Field, ...]] = ()
    _opening: ClassVar[tuple[f.Attr, ...]] = ()
    _body: ClassVar[tuple[f.Field, ...]] = ()
    _has_body: ClassVar[bool] = False
    _names: ClassVar[frozenset[str]] = frozenset()
    # what writing goes through for every element, laid out flat: dumping a domain is a common call
    _out_attrs: ClassVar[tuple[tuple[str, object, object, Callable[[Any], str], str], ...]] = ()
    _out_body: ClassVar[tuple[tuple[str, int, f.Field], ...]] = ()
    _has_extra: ClassVar[bool] = False
    # the fields whose values can change themselves
    _changing: ClassVar[tuple[str, ...]] = ()
    line: int = 0

    def __init_subclass__(cls, tag: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if tag is not None:
            cls.tag = tag
        own: list[f.Field] = []
        for name, value in list(vars(cls).items()):
            if isinstance(value, f.Field):
                value.bind(name)
                own.append(value)
                setattr(cls, name, _class_default(value))
        redefined = {field.name for field in own}
        cls._bind((*(x for x in cls.fields if x.name not in redefined), *own))

    @classmethod
    def _bind(cls, fields: tuple[f.Field, ...]) -> None:
        """Take the fields, in the order of output, and make the tables that reading and writing use."""
        cls.fields = fields
        cls._attrs = {x.wire: (x.name, x.codec.parse, x) for x in cls.fields if type(x) is f.Attr}
        cls._content = next((x for x in cls.fields if isinstance(x, f.Content)), None)
        cls._opening = tuple(x for x in cls.fields if type(x) is f.Attr)
        cls._body = tuple(x for x in cls.fields if type(x) not in (f.Attr, f.Content))
        cls._has_body = bool(cls._body) or cls.write_body is not Node.write_body
        cls._has_extra = cls.extra_attributes is not Node.extra_attributes
        cls._names = frozenset(x.name for x in cls.fields)
        cls._out_attrs = tuple(
            (x.name, x.fallback, x.omit, x.codec.format, f" {x.wire}='") for x in cls._opening
        )
        plain = cls.write_field is Node.write_field
        cls._out_body = tuple((x.name, _KINDS.get(type(x), 0) if plain else 0, x) for x in cls._body)
        cls._kids = {x.wire: (_READ_KINDS.get(type(x), 0), x.name, x) for x in cls._body}
        own = [x.name for x in cls._body if not isinstance(x, (f.Text, f.Flag))]
        # what a class leaves out may be in the object all the same, by its bases' defaults
        left_out = [name for base in cls.__bases__ for name in getattr(base, "_changing", ())]
        cls._changing = tuple(dict.fromkeys([*own, *left_out]))
        cls._checks = cls.check is not Node.check
        cls._required = tuple(x for x in cls.fields if x.required)

    def __init__(self, **values: object) -> None:
        if values:
            if not self._names.issuperset(values):
                raise TypeError(f"{type(self).__name__} has no field {(values.keys() - self._names).pop()!r}")
            self.__dict__ = values  # the call's own

    # ------------------------------------------------------------ reading

    @classmethod
    def from_xml(cls, el: etree._Element, reader: Reader | None = None) -> Self:
        """Read the element.

        Raises XmlError, with the line, for a value that cannot be read or is required and missing.
        """
        node = cls.__new__(cls)
        node._read(el, reader or Reader())
        return node

    def _read(self, el: etree._Element, reader: Reader) -> None:
        # Every element of every document comes through here: no call is made that can be spared.
        values: dict[str, Any] = {"line": el.sourceline or 0}
        self.__dict__ = values
        cls = type(self)
        attrs = cls._attrs
        text: Any
        node: Any
        for name, text in el.items():
            known = attrs.get(name)  # type: ignore[arg-type]  # the stubs know bytes, too
            if known is None:
                reader.unknown.append(Unknown(str(name), str(el.tag), self.line, tuple(attrs), True))
                continue
            try:
                values[known[0]] = known[1](text)
            except ValueError as error:
                raise self._bad_attr(el, known[2], text, error) from None
        kids, new = cls._kids, object.__new__
        for kid in el:
            tag = kid.tag
            if tag.__class__ is not str:
                continue
            found = kids.get(tag)
            if found is None:
                reader.unknown.append(Unknown(tag, str(el.tag), line_of(kid), tuple(kids), False))
                continue
            kind, key, field = found
            if kind == _CHILDREN:
                node = new(field.target)  # type: ignore[attr-defined]
                node._read(kid, reader)
                if key in values:
                    values[key].append(node)
                else:
                    values[key] = [node]
            elif kind == _FLAG:
                values[key] = True
            elif not kind:
                self._read_kid(field, kid, values, reader)
            elif key in values:
                continue  # libvirt takes the first of several
            elif kind == _CHILD:
                node = values[key] = new(field.target)  # type: ignore[attr-defined]
                node._read(kid, reader)
            else:
                text = kid.text or ""
                try:
                    values[key] = field.codec.parse(text)  # type: ignore[attr-defined]
                except ValueError as error:
                    raise self._bad_text(kid, field, text, error) from None  # type: ignore[arg-type]
        content = cls._content
        if content is not None:
            text = el.text or ""
            if text if not content.required else text.strip():
                try:
                    values[content.name] = content.codec.parse(text)
                except ValueError as error:
                    raise self._bad_text(el, content, text, error) from None
        for required in cls._required:
            if required.name not in values:
                raise self._missing(el, required)
        if cls._checks:
            self.check()

    def _read_kid(self, field: f.Field, kid: etree._Element, values: dict[str, Any], reader: Reader) -> None:
        if isinstance(field, f.Texts):
            try:
                self._list(field).append(field.codec.parse(kid.text or ""))
            except ValueError as error:
                raise self._bad_text(kid, field, kid.text or "", error) from None
        elif isinstance(field, f.Choice):
            if field.name not in values:
                word = kid.get(field.by)
                target = field.classes.get(word or "")
                if target is None:
                    raise self._bad_choice(kid, field, word)
                values[field.name] = target.from_xml(kid, reader)
        else:
            self._list(field).append(Raw(kid))

    def _list(self, field: f.Field) -> list[Any]:
        value: list[Any] = getattr(self, field.name)
        return value

    def check(self) -> None:
        """Refuse combinations that cannot be read; called after each reading. Raises XmlError."""

    def _bad_attr(self, el: etree._Element, field: f.Attr, text: str, error: ValueError) -> QvirtError:
        complaint = self.complaints.get(field.wire)
        if complaint is not None:
            return complaint[0](complaint[1].format(text) + at(el, field.codec.expects))
        if field.codec is cpuset:
            return InvalidArg(f"Failed to parse bitmap '{text}'{at(el, field.codec.expects)}")
        sentence = error.sentence if isinstance(error, Unfit) else field.codec.sentence
        said = f"'{text}'.{sentence}"
        if field.codec is positive and re.fullmatch(r"[+-]?0+", text.strip()):
            said = "Zero is not permitted"
        return XmlError(
            f"Invalid value for attribute '{field.wire}' in element '{local_name(el)}': {said}"
            f"{at(el, field.codec.expects)}",
            domain=ErrorDomain.XML,
        )

    def _bad_text(
        self, el: etree._Element, field: f.Attr | f.Texts, text: str, error: ValueError
    ) -> QvirtError:
        complaint = self.complaints.get("" if field is self._content else field.wire)
        if complaint is not None:
            return complaint[0](complaint[1].format(text) + at(el, field.codec.expects))
        return XmlError(
            f"Invalid value for element '{local_name(el)}': '{text}'.{at(el, field.codec.expects)}"
        )

    def _bad_choice(self, el: etree._Element, field: f.Choice, word: str | None) -> QvirtError:
        if word is None:
            return XmlError(f"Missing required attribute '{field.by}' in element '{field.wire}'{at(el)}")
        return XmlError(
            f"Invalid value for attribute '{field.by}' in element '{field.wire}': '{word}'."
            f"{at(el, 'one of ' + ', '.join(field.classes))}"
        )

    def _missing(self, el: etree._Element, field: f.Field) -> QvirtError:
        complaint = self.complaints.get("!" if field is self._content else f"!{field.wire}")
        if complaint is not None:
            return complaint[0](complaint[1] + at(el))
        kind = "attribute" if type(field) is f.Attr else "element"
        return XmlError(
            f"Missing required {kind} '{field.wire}' in element '{local_name(el)}'{at(el)}",
            domain=ErrorDomain.XML,
        )

    # ------------------------------------------------------------ writing

    def to_xml(self, indent: str = "") -> str:
        """Write the element as libvirt writes it: two spaces a level, single quotes, a trailing newline."""
        out: list[str] = []
        self.write(out, indent)
        return "".join(out)

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        """Append the element to ``out``; without ``force`` an element that says nothing is left out."""
        cls = type(self)
        tag = tag or cls.tag
        values = self.__dict__
        head = f"{indent}<{tag}"
        bare = len(head)
        for name, fallback, omit, format, key in cls._out_attrs:
            value = values.get(name, fallback)
            if value is not None and value != omit:
                text = format(value)
                head += f"{key}{text if text.isalnum() else quoted(text)}'"
        if cls._has_extra:
            head += self.extra_attributes()
        inner = cls._content
        if inner is not None:
            value = values.get(inner.name)
            if value is not None:
                text = escape(inner.codec.format(value))
                out.append(f"{head}>{text}</{tag}>\n")
                return
        mark = len(out)
        out.append("")
        if cls._has_body:
            self.write_body(out, indent + "  ")
        if len(out) > mark + 1:
            out[mark] = head + ">\n"
            out.append(f"{indent}</{tag}>\n")
        elif force or len(head) > bare:
            out[mark] = head + "/>\n"
        else:
            del out[mark]

    def extra_attributes(self) -> str:
        """Return what the opening tag says beyond the fields (namespace declarations)."""
        return ""

    def write_body(self, out: list[str], indent: str) -> None:
        """Write the children in the order of the fields."""
        values = self.__dict__
        for name, kind, field in type(self)._out_body:
            value = values.get(name)
            if kind == _CHILD:
                if value is not None:
                    value.write(out, indent, field.wire, not field.part)  # type: ignore[attr-defined]
            elif kind == _CHILDREN:
                if value:
                    wire = field.wire
                    for node in value:
                        node.write(out, indent, wire)
            else:
                self.write_field(field, value, out, indent)

    def write_field(self, field: f.Field, value: Any, out: list[str], indent: str) -> None:
        """Write one child field; ``value`` is what the object holds of it, None when it holds nothing."""
        kind = type(field)
        if kind is f.Text:
            value = field.fallback if value is None else value  # type: ignore[attr-defined]
            if value is not None and value != field.omit:  # type: ignore[attr-defined]
                text = escape(field.codec.format(value))  # type: ignore[attr-defined]
                out.append(f"{indent}<{field.wire}>{text}</{field.wire}>\n")
        elif value is None:
            return
        elif kind is f.Children:
            for node in value:
                node.write(out, indent, field.wire)
        elif kind is f.Child:
            value.write(out, indent, field.wire, not field.part)  # type: ignore[attr-defined]
        elif kind is f.Flag:
            if value:
                out.append(f"{indent}<{field.wire}/>\n")
        elif isinstance(field, f.Texts):
            for item in value:
                out.append(f"{indent}<{field.wire}>{escape(field.codec.format(item))}</{field.wire}>\n")
        elif isinstance(field, f.Choice):
            value.write(out, indent, field.wire)
        else:
            for raw in value:
                raw.write(out, indent)

    # ------------------------------------------------------------ using

    def says(self, name: str) -> bool:
        """Tell whether the field holds a value of its own, not a default."""
        value = self.__dict__.get(name)
        return not (value is None or value is False or value == [])

    def is_empty(self) -> bool:
        """Tell whether the element would be written without attributes, children or text."""
        out: list[str] = []
        self.write(out, "", force=False)
        return not out

    def copy(self) -> Self:
        """Return a copy that shares nothing that can change."""
        cls = type(self)
        twin = cls.__new__(cls)
        into = twin.__dict__ = self.__dict__.copy()
        for name in cls._changing:
            value = into.get(name)
            if value is None:
                continue
            if value.__class__ is list:
                into[name] = [item.copy() if isinstance(item, Node) else item for item in value]
            else:
                into[name] = value.copy()
        return twin

    def walk(self) -> Iterator["Node"]:
        """Yield this node and every node below it, in document order."""
        yield self
        for field in type(self)._body:
            value = self.__dict__.get(field.name)
            if isinstance(value, Node):
                yield from value.walk()
            elif isinstance(value, list):
                for item in value:
                    if isinstance(item, Node):
                        yield from item.walk()

    def __eq__(self, other: object) -> bool:
        """Compare by what the two say; where they were read does not count."""
        if type(other) is not type(self):
            return NotImplemented
        return self.to_xml() == cast(Node, other).to_xml()

    __hash__ = None  # type: ignore[assignment]  # nodes change

    def __repr__(self) -> str:
        return self.to_xml().strip()


def local_name(el: etree._Element) -> str:
    """Return an element's name without its namespace."""
    return str(el.tag).rpartition("}")[2]


def line_of(el: etree._Element) -> int:
    """Return the line an element began on, 0 when it was made in memory."""
    return cast("int | None", el.sourceline) or 0


def at(el: etree._Element, expects: str = "") -> str:
    """Return the tail of an error message: where it stands, and what would be right."""
    where = f" (line {el.sourceline}" if el.sourceline else ""
    if not where:
        return f" (expected {expects})" if expects else ""
    return f"{where}; expected {expects})" if expects else f"{where})"


def _class_default(field: f.Field) -> object:
    if isinstance(field, (f.Children, f.Texts, f.Opaque)):
        return _Empty(field.name, list)
    if isinstance(field, f.Child) and field.part:
        target = field.target
        # a class without a constructor of its own is spared the call of the one that takes nothing
        plain = target.__init__ is Node.__init__
        return _Empty(field.name, partial(object.__new__, target) if plain else target)
    return field.default()
