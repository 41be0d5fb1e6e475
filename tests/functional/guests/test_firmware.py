"""UEFI: firmware chosen from QEMU's descriptors, its variable store made, kept and removed."""

import re
from pathlib import Path

import pytest

from tests.functional.guests.machines import booted, linux_xml, write
from tests.support.daemon import Daemon
from tests.support.guest import Guest

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.skipif(not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists(), reason="needs ovmf"),
]


def efi(name: str, more: str = "", os: str = "firmware='efi'") -> str:
    """Make a document of an UEFI machine with nothing to boot."""
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
      <os {os}><type arch='x86_64' machine='q35'>hvm</type>{more}</os>
      <features><acpi/></features><devices/></domain>"""


def store(daemon: Daemon, name: str) -> Path:
    """Return where a domain's variables are kept when its document does not say."""
    return daemon.root / f"var/lib/libvirt/qemu/nvram/{name}_VARS.fd"


def test_the_life_of_a_variable_store(daemon: Daemon) -> None:
    daemon.virsh("define", write(daemon, "efi", efi("efi")))
    assert "<os firmware='efi'>" in daemon.virsh("dumpxml", "efi", "--inactive")
    assert not store(daemon, "efi").exists()
    daemon.virsh("start", "efi", "--paused")
    live = daemon.virsh("dumpxml", "efi")
    assert re.search("<loader readonly='yes' .*type='pflash'>/usr/share/OVMF/OVMF_CODE_4M", live)
    template = re.search(f"<nvram template='(.*)'>{store(daemon, 'efi')}</nvram>", live)
    assert template is not None
    assert "firmware='efi'" not in live  # it has been chosen
    assert store(daemon, "efi").read_bytes() == Path(template[1]).read_bytes()
    daemon.virsh("destroy", "efi")
    # what the guest has written stays, and is used again
    with store(daemon, "efi").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    daemon.virsh("start", "efi", "--paused")
    daemon.virsh("destroy", "efi")
    assert store(daemon, "efi").read_bytes().endswith(b"\x55")
    daemon.virsh("start", "efi", "--paused", "--reset-nvram")
    daemon.virsh("destroy", "efi")
    assert not store(daemon, "efi").read_bytes().endswith(b"\x55")
    refused = daemon.virsh_run("undefine", "efi")
    assert "cannot undefine domain with nvram" in refused.stderr
    daemon.virsh("undefine", "efi", "--nvram")
    assert not store(daemon, "efi").exists()
    assert "efi" not in daemon.virsh("list", "--all", "--name").split()


def test_a_store_that_is_kept(daemon: Daemon) -> None:
    daemon.virsh("define", write(daemon, "kept", efi("kept")))
    daemon.virsh("start", "kept", "--paused")
    daemon.virsh("destroy", "kept")
    daemon.virsh("undefine", "kept", "--keep-nvram")
    assert store(daemon, "kept").exists()


def test_loader_and_store_by_name(daemon: Daemon) -> None:
    own = daemon.root / "own_VARS.fd"
    more = f"""<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
      <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{own}</nvram>"""
    daemon.virsh("create", write(daemon, "named", efi("named", more, "")), "--paused")
    try:
        assert own.exists()
    finally:
        daemon.virsh("destroy", "named")
    assert own.exists()
    none = efi("none", more.replace("OVMF_VARS_4M", "no_such").replace("own_", "other_"), "")
    refused = daemon.virsh_run("create", write(daemon, "none", none))
    assert "Failed to open file '/usr/share/OVMF/no_such.fd': No such file or directory" in refused.stderr
    assert not (daemon.root / "other_VARS.fd").exists()


def test_features_choose(daemon: Daemon) -> None:
    secure = """<firmware><feature enabled='yes' name='secure-boot'/>
      <feature enabled='yes' name='enrolled-keys'/></firmware>"""
    text = efi("secure", secure).replace("<acpi/>", "<acpi/><smm state='on'/>")
    daemon.virsh("create", write(daemon, "secure", text), "--paused")
    try:
        live = daemon.virsh("dumpxml", "secure")
        assert "secure='yes'" in live
        assert "/usr/share/OVMF/OVMF_CODE_4M.ms.fd</loader>" in live
        assert "template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd'" in live
    finally:
        daemon.virsh("destroy", "secure")


def test_a_guest_boots_by_it(daemon: Daemon, linux: Guest) -> None:
    text = linux_xml(linux, "uefi", machine="q35", firmware=" firmware='efi'", memory=256)
    with booted(daemon, "uefi", text) as guest:
        assert "config_table" in guest.ask("ls /sys/firmware/efi")
