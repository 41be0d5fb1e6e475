import pytest

from qvirt.errors import InvalidArg, NumericalOverflow, XmlDetail, XmlError
from qvirt.model.domain import parse_domain
from qvirt.model.memory import kib

DOMAIN = "<domain type='qemu'><name>a</name>{}<os><type>hvm</type></os></domain>"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1, "b", 1),
        (1024, "bytes", 1),
        (1025, "byte", 2),
        (7, None, 7),
        (1, "KB", 1),
        (1, "MB", 977),
        (1, "M", 1024),
        (2, "gib", 2 << 20),
        (1, "TB", 976562500),
        (0, "EiB", 0),
    ],
)
def test_sizes_are_kept_in_kib_rounded_up(value: int, unit: str | None, expected: int) -> None:
    assert kib(value, unit) == expected


def test_what_is_no_size() -> None:
    with pytest.raises(InvalidArg, match="unknown suffix 'xB'"):
        kib(1, "xB")
    with pytest.raises(NumericalOverflow, match="value too large: 9EiB"):
        kib(9, "EiB")
    with pytest.raises(XmlError, match=r"Invalid value 'x' for element or attribute './memory\[1\]'"):
        parse_domain(DOMAIN.format("<memory>x</memory>"))


def test_an_empty_memory_element_says_nothing() -> None:
    memory = parse_domain(DOMAIN.format("<memory/>")).memory
    assert memory is not None
    assert memory.value == 0


def test_the_ceiling_needs_size_and_slots() -> None:
    for text in ("<maxMemory>5</maxMemory>", "<maxMemory slots='3'/>", "<maxMemory slots='0'>5</maxMemory>"):
        with pytest.raises(XmlError, match="both maximum memory size and memory slot count"):
            parse_domain(DOMAIN.format(text))


def test_a_page_has_a_size() -> None:
    text = "<memoryBacking><hugepages><page size='0'/></hugepages></memoryBacking>"
    with pytest.raises(XmlDetail, match="hugepage size can't be zero"):
        parse_domain(DOMAIN.format(text))


def test_no_limit_is_not_kept() -> None:
    text = "<memtune><hard_limit>9007199254740991</hard_limit><soft_limit unit='M'>1</soft_limit></memtune>"
    tune = parse_domain(DOMAIN.format(text)).memtune
    assert tune.hard_limit is None
    assert tune.soft_limit is not None
    assert tune.soft_limit.value == 1024
