"""vDPA cards that are plugged into running guests: the descriptor's set, memory to lock, undoing."""

import resource

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import SystemError_
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import JsonValue
from qvirt.runtime.domain import Domain
from qvirt.runtime.plugging import hotplug, unplug
from tests.functional.runtime.instance import document, instance, run, until
from tests.functional.runtime.test_hotplug import Refusing, everything
from tests.functional.runtime.vdpa import LOCKABLE, fdsets, prlimit, stand_in, vdpa_card, vdpa_node

pytestmark = pytest.mark.qemu

MIB = 1 << 20
#: the daemon's own limit
OWN = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "PATIENCE", 0.05)
    monkeypatch.setattr(resource, "prlimit", prlimit)


def lockable(domain: Domain) -> int | None:
    """Return how much memory a guest's QEMU was said that it may lock, bytes."""
    return LOCKABLE.get(domain.need_running().pid)


async def detach(domain: Domain, card: str) -> None:
    """Unplug a card from a guest without a system, which lets go of it when it is reset."""
    count = len(domain.live.devices.interfaces)
    await hotplug.detach(domain, card, Modify.LIVE)
    await domain.reset()
    await until(lambda: len(domain.live.devices.interfaces) < count, "card is gone")


def test_cards_come_and_go() -> None:
    """Each has a set of its own, beside one that somebody else made; QEMU may lock the memory of each."""

    async def scenario() -> None:
        with instance() as it:
            first, second = (vdpa_node(it.root, number) for number in (0, 1))
            async with it.serve() as hv:
                domain = await hv.create(document("vdpa"))
                with first.open("rb") as somebody:
                    theirs: dict[str, JsonValue] = {"fdset-id": 0, "opaque": "theirs"}
                    await domain.need_running().execute("add-fd", theirs, fds=[somebody.fileno()])
                before = await everything(domain)
                asked = stand_in(domain).asked
                await hotplug.attach(domain, vdpa_card(it.root, 0), Modify.LIVE)
                assert lockable(domain) == (32 + 1024) * MIB
                await hotplug.attach(domain, vdpa_card(it.root, 1), Modify.LIVE)
                assert lockable(domain) == (64 + 1024) * MIB
                assert [one["vhostdev"] for one in asked] == ["/dev/fdset/1", "/dev/fdset/2"]
                assert await fdsets(domain) == {"theirs": 0, str(first): 1, str(second): 2}
                assert f"<source dev='{second}'/>" in await domain.xml_desc()
                await detach(domain, vdpa_card(it.root, 0))
                assert await fdsets(domain) == {"theirs": 0, str(second): 2}
                await hotplug.attach(domain, vdpa_card(it.root, 0), Modify.LIVE)
                assert (await fdsets(domain))[str(first)] == 1
            async with it.serve() as hv:
                domain = hv.domains.by_name("vdpa")
                stand_in(domain)
                for number in (1, 0):
                    await detach(domain, vdpa_card(it.root, number))
                assert await fdsets(domain) == {}  # QEMU drops what nobody uses when a monitor goes
                assert await everything(domain) == before
                assert lockable(domain) == OWN

    run(scenario())


def test_every_step_refused() -> None:
    async def scenario() -> None:
        with instance() as it:
            card = vdpa_card(it.root)
            async with it.serve() as hv:
                domain = await hv.create(document("refuses"))
                before = await everything(domain)
                monitor = stand_in(domain)
                running = domain.need_running()
                refused = []
                for number in range(3):
                    refusing = Refusing(monitor, number)  # type: ignore[arg-type]
                    running.link = refusing  # type: ignore[assignment]
                    with pytest.raises(QmpError, match="does not feel like it"):
                        await hotplug.attach(domain, card, Modify.LIVE)
                    running.link = monitor  # type: ignore[assignment]
                    refused.append(refusing.refused)
                    assert (await everything(domain), await fdsets(domain)) == (before, {})
                    assert lockable(domain) == OWN
                assert refused == ["add-fd", "netdev_add", "device_add"]
                vdpa_node(it.root).unlink()
                with pytest.raises(SystemError_, match=r"Unable to open '.*vhost-vdpa-0' for vdpa device"):
                    await hotplug.attach(domain, card, Modify.LIVE)
                assert (await everything(domain), lockable(domain)) == (before, OWN)

    run(scenario())


def test_what_is_no_vdpa_device_is_refused_by_qemu() -> None:
    """QEMU itself is asked for its backend of the set's descriptor, and all is as it was."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("is-none"))
                before = await everything(domain)
                with pytest.raises(QmpError, match=r"(?i)vhost|vdpa"):
                    await hotplug.attach(domain, vdpa_card(it.root), Modify.LIVE)
                assert (await everything(domain), await fdsets(domain)) == (before, {})

    run(scenario())
