"""Text <-> Node: safe parsing with limits, and errors that say line and column."""

import difflib
import re
from typing import TypeVar

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import QvirtError, XmlDetail, XmlError, XmlInvalidSchema
from qvirt.xml.node import Node, Reader, Unknown, at

N = TypeVar("N", bound=Node)

#: bytes; the longest string the wire carries (REMOTE_STRING_MAX)
MAX_LENGTH = 4 * 1024 * 1024
#: attributes of one element: the time to read them grows with their square
MAX_ATTRIBUTES = 1000
#: characters; a document below cannot hold as many attributes as would be felt
LARGE = 64 * 1024

#: numbers in all lists of CPUs and nodes: a few letters, ``0-16383``, are a megabyte of ours
MAX_LISTED = 1 << 20
#: lists; fewer cannot be as much
FEW_LISTS = 64
_LISTS = ("cpuset", "cpus", "nodeset", "vcpus", "iothreads")
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")

#: the part of libvirt that complains of a document that is not well formed, where it is not the domain's
_DOMAINS = {"(CPU_definition)": ErrorDomain.CPU, "(definition_of_secret)": ErrorDomain.SECRET}


def _parser() -> etree.XMLParser:
    # huge_tree=False keeps libxml2's own limits: depth 256, 10 MB text nodes, entity amplification
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=False
    )


def parse_element(text: str, source: str) -> etree._Element:
    """Parse a document and return its root.

    source: how messages call the document, such as ``(domain_definition)``.
    Raises XmlDetail when it is not well formed, XmlError when it is too long or brings entities of its own.
    """
    if len(text) > MAX_LENGTH:
        raise XmlError(f"document {source} is {len(text)} characters long, the limit is {MAX_LENGTH}")
    if "<!DOCTYPE" in text and "<!ENTITY" in text:
        raise XmlError(f"document {source} defines entities, which are not taken")
    try:
        root = etree.fromstring(text.encode("utf-8", "surrogateescape"), _parser())
    except etree.XMLSyntaxError as error:
        line, column = error.position
        lines = text.split("\n")
        shown = lines[line - 1] if 0 < line <= len(lines) else ""
        reason = re.sub(r", line \d+, column \d+.*$", "", error.msg or "not well formed")
        begin = max(0, column - 1 - 60)
        raise XmlDetail(
            f"{source}:{line}: {reason}\n{shown[begin : begin + 120]}\n{'-' * max(0, column - 1 - begin)}^",
            domain=_DOMAINS.get(source, ErrorDomain.DOMAIN),
        ) from None
    if len(text) > LARGE:
        for element in root.iter(etree.Element):
            if len(element.attrib) > MAX_ATTRIBUTES:
                raise XmlError(
                    f"element '{element.tag}' of document {source} has {len(element.attrib)} attributes, the "
                    f"limit is {MAX_ATTRIBUTES}{at(element)}"
                )
    if sum(text.count(name) for name in _LISTS) > FEW_LISTS:
        _check_lists(root, source)
    return root


def _check_lists(root: etree._Element, source: str) -> None:
    listed = 0
    for element in root.iter(etree.Element):
        for text in filter(None, map(element.get, _LISTS)):
            listed += sum(int(last) - int(first) + 1 for first, last in _RANGE.findall(text))
            if listed > MAX_LISTED:
                raise XmlError(
                    f"the lists of CPUs and nodes of document {source} have more than {MAX_LISTED} numbers"
                    f"{at(element)}"
                )


def parse(text: str, cls: type[N], source: str, *, validate: bool = False) -> N:
    """Read a document of the class.

    validate: refuse elements and attributes nobody here knows, with line, column and the nearest known name.
    Raises XmlDetail, XmlError, XmlInvalidSchema.
    """
    root = parse_element(text, source)
    if root.tag != cls.tag:
        raise XmlError(f"expecting root element of '{cls.tag}', not '{root.tag}'", domain=ErrorDomain.XML)
    reader = Reader()
    node = read(root, cls, source, reader)
    if validate and reader.unknown:
        raise XmlInvalidSchema("; ".join(_describe(text, item) for item in reader.unknown[:5]))
    return node


def read(root: etree._Element, cls: type[N], source: str, reader: Reader | None = None) -> N:
    """Read an element of a document of the class.

    What it says wrong is an error of libvirt's common code, not of its QEMU driver. Raises as `parse` does.
    """
    try:
        return cls.from_xml(root, reader)
    except QvirtError as error:
        if error.domain == ErrorDomain.QEMU:
            error.domain = _DOMAINS.get(source, ErrorDomain.DOMAIN)
        raise


def _describe(text: str, item: Unknown) -> str:
    lines = text.split("\n")
    column = 0
    local = item.name.rpartition("}")[2]
    if 0 < item.line <= len(lines):
        found = re.search(rf"(?<![\w.-]){re.escape(local)}(?![\w.-])", lines[item.line - 1])
        column = found.start() + 1 if found else 0
    kind = "attribute" if item.is_attribute else "element"
    near = difflib.get_close_matches(local, [name for name in item.known if not name.startswith("{")], 1, 0.6)
    hint = f", did you mean '{near[0]}'?" if near else ""
    where = f"line {item.line}, column {column}" if column else f"line {item.line}"
    return f"unknown {kind} '{local}' in element '{item.owner}' ({where}){hint}"
