"""Targets of the kernel's vhost-scsi, given to guests; a stand-in answers for the kernel."""

from pathlib import Path

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import OperationInvalid, SystemError_
from qvirt.qemu.devices import hostdev
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import EMULATOR, document, instance, run, until
from tests.functional.runtime.test_between_guests import stand_in  # noqa: F401 - a fixture
from tests.functional.runtime.test_hotplug import everything

pytestmark = pytest.mark.qemu

TARGET = "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.{:016x}'/></hostdev>"


def test_targets_at_boot_and_plugged(
    stand_in: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = tmp_path / "vhost-scsi"
    monkeypatch.setattr(hostdev, "_VHOST_SCSI", str(node))

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                text = document("first", TARGET.format(1)).replace(EMULATOR, stand_in)
                with pytest.raises(SystemError_, match=f"Could not open '{node}': No such file"):
                    await hv.create(text)
                node.touch()
                first = await hv.create(text)
                assert "hostdev0" in (await everything(first))["devices"]

                second = await hv.create(document("second").replace(EMULATOR, stand_in))
                before = await everything(second)
                with pytest.raises(OperationInvalid, match=r"SCSI_host device .*in use by .*, domain first"):
                    await hotplug.attach(second, TARGET.format(1), Modify.LIVE)
                assert await everything(second) == before
                await hotplug.attach(second, TARGET.format(2), Modify.LIVE)
                assert "hostdev0" in (await everything(second))["devices"]
                await hotplug.detach(second, TARGET.format(2), Modify.LIVE)
                await second.need_running().execute("system_reset")
                await until(lambda: not second.live.devices.hostdevs, "the guest lets go")
                assert (await everything(second))["devices"] == before["devices"]
                for domain in (first, second):
                    await domain.destroy()
            assert it.traces() == []

    run(scenario())
