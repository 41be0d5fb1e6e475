"""Completion asks each device once, and forgets none."""

import gc
import weakref

from qvirt.qemu.complete import _device_defaults
from tests.support.pure import context
from tests.unit.qemu.addresses.documents import guest


def test_a_dropped_device_does_not_leave_its_identity_to_a_new_one() -> None:
    domain = guest("<sound model='ich6'/>")
    seen = _device_defaults(context(domain), {})
    dropped = weakref.ref(domain.devices.sounds.pop())
    gc.collect()
    held = dropped()
    assert held is not None
    assert seen[id(held)] is held
