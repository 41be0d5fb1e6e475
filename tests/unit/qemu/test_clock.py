"""Timers on the command line, for emulators of before and after ``-no-hpet``."""

import json

import pytest

from qvirt.model.domain import parse_domain
from qvirt.qemu.build import build
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.complete import complete
from qvirt.qemu.names import assign_aliases
from tests.support.pure import CAPS, context

DOCUMENT = """<domain type='qemu'><name>t</name><memory>65536</memory>
<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
<clock offset='utc'><timer name='hpet' present='no'/></clock>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>"""


@pytest.mark.parametrize("reports_acpi", [False, True])
def test_the_machine_is_told_of_its_hpet_where_it_takes_it(reports_acpi: bool) -> None:
    facts = json.loads((CAPS / "qemu-7.2-x86_64.json").read_bytes())
    if reports_acpi:
        for machine in facts["machines"]:
            machine["acpi"] = True
    domain = parse_domain(DOCUMENT)
    ctx = context(domain)
    ctx.caps = EmulatorCaps.from_json(facts)
    complete(domain, ctx)
    assign_aliases(domain, ctx)
    words = build(domain, ctx).argv()
    machine_words = words[words.index("-machine") + 1].split(",")
    assert ("hpet=off" in machine_words) is reports_acpi
    assert ("-no-hpet" in words) is not reports_acpi
