"""Fixtures: a foreign daemon for our client."""

from collections.abc import Iterator

import pytest

from tests.wire import libvirtd


@pytest.fixture(scope="session")
def libvirtd_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a private libvirtd once for all tests."""
    reason = libvirtd.missing()
    if reason:
        pytest.skip(reason)
    with libvirtd.private_libvirtd(tmp_path_factory.mktemp("libvirtd")) as uri:
        yield uri
