"""Fixtures for all tests: a private daemon, a guest to boot; what is missing skips with a reason."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.guest import Guest, MissingGuest, full_guest, guest

PR_SET_CHILD_SUBREAPER = 36
SHARED = Path(__file__).parent.parent.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; review the diff")


def pytest_configure() -> None:
    """Let no daemon of a test meet the host's systemd, which would make machines of its guests."""
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nonexistent"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = {
        "qemu": (shutil.which("qemu-system-x86_64"), "needs qemu-system-x86_64"),
        "virsh": (
            shutil.which("virsh") and Path("/usr/lib/python3/dist-packages/libvirt.py").exists(),
            "needs Debian's libvirt-clients and python3-libvirt",
        ),
        "root": (os.geteuid() == 0, "needs root"),
    }
    for item in items:
        for name, (there, reason) in needs.items():
            if item.get_closest_marker(name) and not there:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def no_reaper_for_others() -> Iterator[None]:
    """Let orphans go to process 1 again after a test that ran a hypervisor in this process.

    A real libvirtd that is started later waits for its orphans to be reaped, and this process would not.
    """
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A qvirtd that the tests of one module share."""
    with running_daemon() as it:
        yield it


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """A qvirtd of the test's own, to be killed and restarted."""
    with running_daemon() as it:
        yield it


@pytest.fixture(scope="session")
def linux() -> Guest:
    """Kernel and initrd of a guest that really boots."""
    try:
        return guest()
    except MissingGuest as reason:
        pytest.skip(f"no guest to boot: {reason}")


@pytest.fixture(scope="session")
def full_linux() -> Guest:
    """The same guest on a kernel with more drivers."""
    try:
        return full_guest()
    except MissingGuest as reason:
        pytest.skip(f"no guest to boot: {reason}")


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder of libvirt's recorded answers."""
    folder = SHARED / "conformance"
    if not folder.is_dir():
        pytest.skip("the conformance corpus is not beside the project")
    return folder
