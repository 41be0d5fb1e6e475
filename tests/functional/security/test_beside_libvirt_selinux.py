"""Beside libvirt 9.0 under SELinux. A file for each machine: they boot at the same time."""

import sysconfig

import pytest

from tests.support import testbed
from tests.support.beside import compare

pytestmark = [pytest.mark.qemu, pytest.mark.root]


def test_what_differs_is_listed() -> None:
    """The policy only logs: enforced, Debian's keeps libvirtd from starting anything in its own /dev."""
    script = f"SITE={sysconfig.get_path('platlib')}\n{testbed.LABELLED}"
    compare("selinux", script, "/usr/local/sbin/qvirtd", "--context", testbed.INIT, "--permissive")
