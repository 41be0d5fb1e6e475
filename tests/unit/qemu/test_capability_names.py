"""Abilities of an emulator that the user overrules."""

import pytest

from qvirt.errors import InternalError
from qvirt.qemu.capability_names import overrule
from tests.support.pure import caps


def test_types_commands_properties_and_answers() -> None:
    changed = overrule(
        caps(), ["vhost-user-fs", "machine-hpet"], ["spice", "virtio-vga", "screenshot-format-png"]
    )
    assert changed.has_device("vhost-user-fs-ccw")
    assert changed.machine_has("pc-i440fx-7.2", "hpet")
    assert not changed.has_command("query-spice")
    assert not changed.has_device("virtio-vga")
    assert not changed.schema_has("screendump/arg-type/format/^png")
    assert caps().has_device("virtio-vga")


def test_a_name_that_means_nothing_here_changes_nothing() -> None:
    assert overrule(caps(), ["vnc-colon"], []).has_device("virtio-vga")


def test_a_name_of_nothing() -> None:
    with pytest.raises(InternalError, match="invalid qemu namespace capability 'x'"):
        overrule(caps(), [], ["x"])
