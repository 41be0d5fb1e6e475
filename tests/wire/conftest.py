"""Fixtures: daemons for our client and command, the system's libvirtd and our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import running_daemon
from tests.wire import libvirtd, takeover


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


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[libvirtd.Tree]:
    """Give a tree, with a network of its own, that Debian's libvirtd and ours serve by turns."""
    reason = libvirtd.missing()
    if reason:
        pytest.skip(reason)
    with libvirtd.private_tree(tmp_path, own_network=True) as tree:
        try:
            yield tree
        finally:
            takeover.end_all(tmp_path)
