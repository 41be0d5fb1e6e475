"""Audit records of a real guest's life, and a daemon on a kernel that keeps no audit log."""

import os
import re
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.daemon.audit import Audit
from qvirt.errors import QvirtError
from qvirt.host.audit import VIRT_CONTROL, VIRT_MACHINE_ID, VIRT_RESOURCE, AuditSocket, encode
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import document, instance, run, until
from tests.support.daemon import Daemon, make_root

USB = "<controller type='usb' index='0' model='qemu-xhci'/>"
NO_USB = "<controller type='usb' model='none'/>"
DISK = "<disk type='file' device='disk'><source file='{0}'/><target dev='{1}' bus='{2}'/></disk>"


@pytest.mark.qemu
def test_a_guests_life_is_recorded() -> None:
    records: list[tuple[int, str]] = []

    async def live() -> None:
        with instance() as it:
            first, second = it.image("one.img"), it.image("two.img")
            async with it.serve() as hv:
                audit = Audit(hv, lambda kind, text: records.append((kind, text)))
                text = document("audited", DISK.format(first, "vda", "virtio"), USB)
                domain = await hv.create(text.replace(NO_USB, ""), paused=True)
                await hotplug.attach(domain, DISK.format(second, "sda", "usb"), Modify.LIVE)
                await hotplug.detach(domain, DISK.format(second, "sda", "usb"), Modify.LIVE)
                await until(lambda: any("reason=detach" in words for _, words in records), "it is detached")
                await domain.destroy()
                broken = text.replace(str(first), f"{it.root}/not-there.img").replace("audited", "broken")
                with pytest.raises(QvirtError):
                    await hv.create(broken)
                await audit.close()
                known = {"first": encode(str(first)), "second": encode(str(second))}
            told = [(kind, _short(words)) for kind, words in records]
            assert (VIRT_RESOURCE, f'resrc=disk reason=start old-disk="?" new-disk={known["first"]}') in told
            assert (VIRT_RESOURCE, "resrc=vcpu reason=start old-vcpu=0 new-vcpu=1") in told
            assert any(words.startswith("resrc=mem reason=start old-mem=0 new-mem=") for _, words in told)
            assert (
                VIRT_RESOURCE,
                f'resrc=disk reason=attach old-disk="?" new-disk={known["second"]}',
            ) in told
            assert (
                VIRT_RESOURCE,
                f'resrc=disk reason=detach old-disk={known["second"]} new-disk="?"',
            ) in told
            control = [words for kind, words in told if kind == VIRT_CONTROL]
            assert re.match(r"op=start reason=booted vm-pid=\d+$", control[0])
            assert control[1] == "op=stop reason=destroyed vm-pid=0"
            if os.geteuid() == 0:
                assert any(kind == VIRT_MACHINE_ID for kind, _ in told)

    run(live())


def _short(words: str) -> str:
    """Leave out what all records have, once it is seen to be there."""
    match = re.fullmatch(
        r'virt=(?:qemu|kvm) (.*) exe="[^"]+" hostname=\? addr=\? terminal=\? res=(success|failed)', words
    )
    assert match, words
    rest = re.sub(r'vm="\w+" uuid=[0-9a-f-]{36} ?', "", match[1])
    assert rest != match[1]
    return rest.strip()


def test_names_that_quotes_would_not_hold() -> None:
    assert encode("web-1") == '"web-1"'
    assert encode('a"b c') == "6122622063"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_daemon_may_insist_on_an_audit_log() -> None:
    def enabled() -> bool:
        try:
            sock = AuditSocket()
        except OSError:
            return False
        try:
            return sock.enabled()
        except OSError:
            return False
        finally:
            sock.close()

    if enabled():
        pytest.skip("this kernel keeps an audit log")
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    settings = Path(root / "etc/libvirt/libvirtd.conf")
    settings.write_text("audit_level = 2\n")
    daemon = Daemon(root)
    try:
        done = daemon.run_to_the_end()
        assert done.returncode
        assert "audit_level is 2, and the kernel keeps no audit log" in done.stderr
        settings.write_text("audit_level = 1\nlog_level = 2\n")
        daemon.start()
        daemon.virsh("list")
    finally:
        daemon.clean()
