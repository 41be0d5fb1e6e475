"""Labels of a device's source, as libvirt keeps and refuses them."""

import pytest

from qvirt.errors import QvirtError
from qvirt.model.domain import parse_domain
from qvirt.qemu.devices.base import device_labels

DOMAIN = (
    "<domain type='qemu'><name>a</name><memory>1</memory><os><type>hvm</type></os>"
    "<devices>{}</devices></domain>"
)
DISK = "<disk type='file'><source file='/a'>{}</source><target dev='vda'/></disk>"
SERIAL = "<serial type='file'><source path='/a'>{}</source></serial>"


@pytest.mark.parametrize("device", [DISK, SERIAL])
@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("<seclabel model='dac'/>", []),
        ("<seclabel model='dac' relabel='yes'/>", []),
        ("<seclabel/>", []),
        ("<seclabel model='dac' labelskip='yes'/>", []),
        ("<seclabel model='dac' relabel='yes'><label></label></seclabel>", []),
        ("<seclabel model='dac'><label>x:y</label></seclabel>", [("dac", True, "x:y")]),
        ("<seclabel model='dac' labelskip='yes' relabel='no'/>", [("dac", False, None)]),
        (
            "<seclabel relabel='no'/><seclabel model='dac' relabel='no'/>",
            [(None, False, None), ("dac", False, None)],
        ),
    ],
)
def test_what_says_something_is_kept(
    device: str, said: str, kept: list[tuple[str | None, bool, str | None]]
) -> None:
    domain = parse_domain(DOMAIN.format(device.format(said)))
    labels = [label for dev in domain.devices.all() for label in device_labels(dev)]
    assert [(label.model, label.relabel, label.label) for label in labels] == kept
    assert [label.labelskip for label in labels] == [None] * len(kept)


@pytest.mark.parametrize("device", [DISK, SERIAL])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("<seclabel model='dac' relabel='no'/>" * 2, "seclabel for model dac is already provided"),
        (
            "<seclabel model='dac' relabel='no'><label>x</label></seclabel>",
            "Cannot specify a label if relabelling is turned off. model=dac",
        ),
    ],
)
def test_what_cannot_be_is_refused(device: str, said: str, message: str) -> None:
    with pytest.raises(QvirtError, match=message):
        parse_domain(DOMAIN.format(device.format(said)))
