"""Beside libvirt 9.0 under AppArmor. A file for each machine: they boot at the same time."""

import pytest

from tests.support import testbed
from tests.support.beside import compare

pytestmark = [pytest.mark.qemu, pytest.mark.root]

#: what compiles in no time: rules are compared, and need not keep anything away here
_APPARMOR = """
cat > /etc/apparmor.d/libvirt/TEMPLATE.qemu <<'END'
#include <tunables/global>
profile LIBVIRT_TEMPLATE flags=(attach_disconnected) {
  capability,
  network,
  unix,
  signal,
  ptrace,
  /{usr,bin,lib,lib64}/** rmix,
  /{etc,sys,proc}/** r,
  /proc/*/task/*/comm rw,
  /dev/{null,zero,full,random,urandom,ptmx,net/tun,vhost-net} rw,
  /dev/pts/* rw,
}
END
echo Optimize=no-expr-simplify >> /etc/apparmor/parser.conf
# libvirt uses AppArmor where its own profile is loaded
printf 'profile libvirtd flags=(complain) {\\n}\\n' | apparmor_parser -r
"""


def test_what_differs_is_listed() -> None:
    qvirtd = f"{testbed.ROOT}/.venv/bin/python -m qvirt.daemon.main"
    compare("apparmor", _APPARMOR, qvirtd)
