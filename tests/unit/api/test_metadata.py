"""What metadata may be: the same rules for domains and networks, in the words and domain of each."""

import pytest

from qvirt.api.metadata import check_get, check_set
from qvirt.constants.domain import DomainMetadataType as Kind
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg

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
