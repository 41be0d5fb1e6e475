"""Fixtures: daemons for our client and command, the system's libvirtd and our own."""

from collections.abc import Iterator

import pytest

from tests.support.daemon import running_daemon
from tests.wire import libvirtd


@pytest.fixture(scope="session")
def libvirtd_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a private libvirtd once for all tests."""
    reason = libvirtd.missing()
    if reason:
        pytest.skip(reason)
    with libvirtd.private_libvirtd(tmp_path_factory.mktemp("libvirtd")) as uri:
        yield uri


@pytest.fixture(scope="session")
def qvirtd_uri() -> Iterator[str]:
    """Run a private qvirtd once for all tests."""
    with running_daemon() as daemon:
        yield daemon.uri


@pytest.fixture(scope="session", params=["libvirtd", "qvirtd"])
def daemon_uri(request: pytest.FixtureRequest) -> str:
    """Both, one after the other: whoever talks to one talks to the other."""
    uri: str = request.getfixturevalue(f"{request.param}_uri")
    return uri
