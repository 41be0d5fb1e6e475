"""What holds for every guest: places are unique, given ones are kept, a saved guest comes back the same."""

from collections import Counter

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qvirt.errors import QvirtError
from qvirt.model.devices.address import PciAddress, UsbAddress, VirtioSerialAddress
from qvirt.model.domain import Domain
from tests.unit.qemu.addresses.documents import document, guest, parse_domain, reread

MODELS = {
    "usb": ("piix3-uhci", "ehci", "ich9-ehci1", "pci-ohci", "nec-xhci", "qemu-xhci"),
    "scsi": ("virtio-scsi", "lsilogic", "lsisas1078", "virtio-transitional"),
    "virtio-serial": ("virtio", "virtio-transitional"),
}


def pci_address(slots: tuple[int, int]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.just(""),
        st.just("<address type='pci'/>"),
        st.builds(
            "<address type='pci' domain='0' bus='{}' slot='{}' function='{}'/>".format,
            st.sampled_from((0, 0, 0, 1, 2)),
            st.integers(*slots),
            st.sampled_from((0, 0, 0, 1, 7)),
        ),
    )


def usb_address() -> st.SearchStrategy[str]:
    return st.sampled_from(
        ("", "", "", "<address type='usb' bus='0' port='1'/>", "<address type='usb' bus='0'/>")
    )


NICS = st.builds(
    "<interface type='user'><model type='{}'/>{}</interface>".format,
    st.sampled_from(("virtio", "e1000", "e1000e", "virtio-transitional")),
    pci_address((0, 31)),
)
CONTROLLERS = st.sampled_from(tuple((type, model) for type in MODELS for model in MODELS[type])).flatmap(
    lambda kind: st.builds(
        f"<controller type='{kind[0]}' model='{kind[1]}'{{}}>{{}}</controller>".format,
        st.sampled_from(("", "", " index='0'", " index='1'", " index='3'")),
        pci_address((3, 9)),
    )
)
INPUTS = st.builds("<input type='tablet' bus='usb'>{}</input>".format, usb_address())
CHANNELS = st.just("<channel type='pty'><target type='virtio' name='c'/></channel>")
OTHERS = st.sampled_from(
    (
        "<hub type='usb'/>",
        "<sound model='ich9'/>",
        "<video><model type='qxl'/></video>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<controller type='pci' model='pci-bridge'/>",
        "<input type='mouse' bus='virtio'/>",
    )
)
DEVICES = st.lists(st.one_of(NICS, NICS, CONTROLLERS, INPUTS, INPUTS, CHANNELS, OTHERS), max_size=24)
MACHINES = st.sampled_from(("pc", "q35"))
relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def completed(devices: list[str], machine: str) -> Domain:
    try:
        return guest("".join(devices), machine)
    except QvirtError:
        assume(False)
        raise


def places(domain: Domain) -> Counter[tuple[object, ...]]:
    found: Counter[tuple[object, ...]] = Counter()
    for dev in domain.devices.all():
        where = dev.address
        if isinstance(where, PciAddress):
            found["pci", where.domain, where.bus, where.slot, where.function] += 1
        elif isinstance(where, UsbAddress):
            found["usb", where.bus, where.port] += 1
        elif isinstance(where, VirtioSerialAddress):
            found["port", where.controller, where.bus, where.port] += 1
    return found


@given(DEVICES, MACHINES)
@relaxed
def test_no_two_devices_share_a_place(devices: list[str], machine: str) -> None:
    shared = {place for place, count in places(completed(devices, machine)).items() if count > 1}
    assert shared == set()


@given(DEVICES, MACHINES)
@relaxed
def test_a_saved_guest_comes_back_the_same(devices: list[str], machine: str) -> None:
    once = reread(completed(devices, machine))
    assert reread(once) == once


@given(DEVICES, MACHINES)
@relaxed
def test_saving_and_reading_moves_nothing(devices: list[str], machine: str) -> None:
    domain = completed(devices, machine)
    assert places(reread(domain)) == places(domain)


@given(DEVICES, MACHINES)
@relaxed
def test_given_addresses_are_kept(devices: list[str], machine: str) -> None:
    domain = completed(devices, machine)
    said = parse_domain(document("".join(devices), machine))
    # buses are not compared: one that must become a bridge's port moves its device to the next
    for name in ("interfaces", "inputs"):
        for before, after in zip(getattr(said.devices, name), getattr(domain.devices, name), strict=False):
            where = before.address
            if isinstance(where, PciAddress) and (where.bus or where.slot):
                assert isinstance(after.address, PciAddress)
                assert (after.address.slot, after.address.function) == (where.slot, where.function)
            if isinstance(where, UsbAddress) and where.port:
                assert after.address == where


@given(DEVICES, MACHINES)
@relaxed
def test_every_bus_has_its_controller(devices: list[str], machine: str) -> None:
    domain = completed(devices, machine)
    buses = {c.index for c in domain.devices.controllers if c.type == "pci"}
    for dev in domain.devices.all():
        if isinstance(dev.address, PciAddress):
            assert dev.address.bus in buses
