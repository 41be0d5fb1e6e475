"""What metadata may be: the same rules for domains and networks, in the words and domain of each."""

import pytest

from qvirt.api.metadata import check_get, check_set
from qvirt.constants.domain import DomainMetadataType as Kind
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg

NO_PREFIX = "key '{}' in vir{{}}SetMetadata is no prefix of a namespace"
OWNERS = [("Domain", ErrorDomain.DOMAIN), ("Network", ErrorDomain.NETWORK)]


@pytest.mark.parametrize(("owner", "domain"), OWNERS)
@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ((Kind.TITLE, "a\nb", None, None), "metadata title can't contain newlines"),
        ((Kind.TITLE, "a", None, "http://x"), "uri in vir{}SetMetadata must be NULL"),
        ((Kind.DESCRIPTION, "a", "k", None), "key in vir{}SetMetadata must be NULL"),
        ((Kind.ELEMENT, "<a/>", "k", None), "uri in vir{}SetMetadata must not be NULL"),
        ((Kind.ELEMENT, "<a/>", None, "http://x"), "key in vir{}SetMetadata must not be NULL"),
        (
            (Kind.ELEMENT, "<a/>", "xmlns", "http://x"),
            NO_PREFIX.format("xmlns"),
        ),
        (
            (Kind.ELEMENT, "<a/>", "a><b", "http://x"),
            NO_PREFIX.format("a><b"),
        ),
        ((Kind.ELEMENT, "<a/>", "", "http://x"), NO_PREFIX.format("")),
        ((Kind.ELEMENT, "<a/>", "a", "x' y"), "uri 'x' y' in vir{}SetMetadata is no namespace"),
        (
            (Kind.ELEMENT, "<a/>", "a", "http://www.w3.org/2000/xmlns/"),
            "uri 'http://www.w3.org/2000/xmlns/' in vir{}SetMetadata is no namespace",
        ),
    ],
)
def test_what_is_not_set(
    owner: str, domain: int, arguments: tuple[int, str | None, str | None, str | None], refusal: str
) -> None:
    with pytest.raises(InvalidArg) as caught:
        check_set(owner, *arguments)
    assert (str(caught.value), caught.value.domain) == (refusal.format(owner), domain)


@pytest.mark.parametrize(("owner", "domain"), OWNERS)
@pytest.mark.parametrize(
    ("type", "uri", "must"), [(Kind.ELEMENT, None, "must not be"), (Kind.TITLE, "http://x", "must be")]
)
def test_what_is_not_read(owner: str, domain: int, type: int, uri: str | None, must: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        check_get(owner, type, uri)
    assert str(caught.value) == f"uri in vir{owner}GetMetadata {must} NULL"
    assert caught.value.domain == domain


def test_what_may_be_said() -> None:
    for type, text, key, uri in (
        (Kind.TITLE, "a title", None, None),
        (Kind.DESCRIPTION, "two\nlines", None, None),
        (Kind.ELEMENT, "<a/>", "k", "http://x"),
        (Kind.ELEMENT, None, None, "http://x"),
    ):
        check_set("Domain", type, text, key, uri)
        check_get("Network", type, uri)
