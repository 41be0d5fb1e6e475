"""What titles, descriptions and applications' elements may be, of domains and of networks alike."""

import re
from typing import Final

from qvirt.api.flags import PlainInvalidArg
from qvirt.constants.domain import DomainMetadataType as Kind
from qvirt.constants.error import ErrorDomain

_PREFIX: Final = re.compile(r"[^\W\d][\w.-]*")
_URI: Final = re.compile(r"[^\s<>\"'{}|\\^`\x00-\x1f\x7f]+")

_RESERVED: Final = ("http://www.w3.org/XML/1998/namespace", "http://www.w3.org/2000/xmlns/")

#: what has metadata, as libvirt's functions call it -> the domain of its errors
_OWNERS: Final = {"Domain": ErrorDomain.DOMAIN, "Network": ErrorDomain.NETWORK}


def check_set(owner: str, type: int, metadata: str | None, key: str | None, uri: str | None) -> None:
    """Check the arguments of virDomainSetMetadata or virNetworkSetMetadata. Raises InvalidArg.

    owner: ``Domain`` or ``Network``; type: of DomainMetadataType, whose values networks have, too.
    """
    call = f"vir{owner}SetMetadata"
    if type == Kind.ELEMENT:
        if uri is None:
            raise _refusal(owner, f"uri in {call} must not be NULL")
        if metadata is not None:
            _check_namespace(owner, call, key, uri)
        return
    if type == Kind.TITLE and metadata and "\n" in metadata:
        raise _refusal(owner, "metadata title can't contain newlines")
    for name, value in (("uri", uri), ("key", key)):
        if value is not None:
            raise _refusal(owner, f"{name} in {call} must be NULL")


def _check_namespace(owner: str, call: str, key: str | None, uri: str) -> None:
    """Refuse a prefix or a namespace with which the document could not be read again."""
    if key is None:
        raise _refusal(owner, f"key in {call} must not be NULL")
    if _PREFIX.fullmatch(key) is None or key in ("xml", "xmlns"):
        raise _refusal(owner, f"key '{key}' in {call} is no prefix of a namespace")
    if _URI.fullmatch(uri) is None or uri in _RESERVED:
        raise _refusal(owner, f"uri '{uri}' in {call} is no namespace")


def check_get(owner: str, type: int, uri: str | None) -> None:
    """Check the arguments of a call that reads metadata, as `check_set`."""
    if type == Kind.ELEMENT and uri is None:
        raise _refusal(owner, f"uri in vir{owner}GetMetadata must not be NULL")
    if type != Kind.ELEMENT and uri is not None:
        raise _refusal(owner, f"uri in vir{owner}GetMetadata must be NULL")


def _refusal(owner: str, sentence: str) -> PlainInvalidArg:
    return PlainInvalidArg(sentence, domain=_OWNERS[owner])
