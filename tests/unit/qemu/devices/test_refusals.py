"""What libvirt refuses is refused, in libvirt's sentence; ours may go on after it."""

import re
from pathlib import Path

import pytest

from qvirt.errors import QvirtError
from tests.support.pure import completed

DATA = Path(__file__).parents[3] / "data" / "refusals"
DOCUMENT = """<domain type='qemu'><name>guest</name><memory>262144</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{}<memballoon model='none'/></devices></domain>"""
DOMAIN = """<domain type='qemu'><name>guest</name><memory>262144</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>{}
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/></devices></domain>"""


def cases(kind: str) -> list[tuple[str, str]]:
    """Return the devices of a kind that libvirt refuses, with its answers."""
    lines = (DATA / f"{kind}.txt").read_text().splitlines()[1:]
    return [(device, answer.strip()) for device, answer in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.parametrize(("device", "answer"), [*cases("disk"), *cases("interface"), *cases("device")])
def test_refused(device: str, answer: str) -> None:
    with pytest.raises(QvirtError) as caught:
        completed(DOCUMENT.format(device))
    check(caught.value, answer)


@pytest.mark.parametrize(("elements", "answer"), cases("domain"))
def test_refused_for_its_own_elements(elements: str, answer: str) -> None:
    with pytest.raises(QvirtError) as caught:
        completed(DOMAIN.format(elements))
    check(caught.value, answer)


@pytest.mark.parametrize(("device", "kept"), cases("kept"))
def test_left_out(device: str, kept: str) -> None:
    """What says nothing of an element of its kind is left out, neither kept nor refused."""
    written = re.sub(r"\n\s*", "", completed(DOCUMENT.format(device)).to_xml())
    assert kept in written


def check(error: QvirtError, answer: str) -> None:
    """Check that libvirt's sentence comes first, and nothing but where and what would be right after it."""
    said = re.sub(r"52:54:00(:[0-9a-f]{2}){3}", "@MAC@", error.message)
    assert said.startswith(answer)
    assert said == answer or said[len(answer) :].startswith((" (line ", " (expected "))
