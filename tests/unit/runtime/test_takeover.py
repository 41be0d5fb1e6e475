"""What of a guest of libvirt's is not for us, and what libvirt needs of ours."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.cli import changeover
from qvirt.drivers.network import plug
from qvirt.errors import OperationInvalid
from qvirt.model.domain import parse_live
from qvirt.runtime.foreign import handback, takeover
from qvirt.runtime.paths import Paths
from qvirt.runtime.state import Written, read_status
from qvirt.xml.document import parse_element

DISK = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
  <source file='/a' index='2'/><backingStore type='file' index='7'><format type='raw'/><source file='/b'/>
  <backingStore/></backingStore><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>%s</disk>"""
JOB = "<blockjobs active='yes'><blockjob name='copy-vda' type='copy' state='running'/></blockjobs>"
HOSTDEV = """<hostdev mode='subsystem' type='pci' managed='yes'>
  <source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>"""


@pytest.fixture
def process() -> Iterator[int]:
    """Run a process whose command line names the domain, as QEMU's does."""
    child = subprocess.Popen(["sh", "-c", "echo; read x", "-name", "guest=a,,b,debug-threads=on"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout
    assert child.stdin
    child.stdout.readline()
    yield child.pid
    child.stdin.close()
    child.stdout.close()
    child.wait()


def _status(folder: Path, pid: int, *, beside: str = "", devices: str = "", name: str = "a,b") -> str:
    (folder / "monitor.sock").touch()
    (folder / "master-key.aes").touch()
    return f"""<domstatus state='running' reason='booted' pid='{pid}'>
  <monitor path='{folder}/monitor.sock' type='unix'/>{beside}<libDir path='{folder}'/>
  <domain type='qemu' id='3'><name>{name}</name><uuid>9c29e425-7c92-4e95-85fb-9f1696d047bb</uuid>
  <memory>1024</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>/bin/true</emulator>{devices}</devices></domain></domstatus>"""


@pytest.mark.parametrize(
    ("beside", "devices", "said"),
    [
        (JOB, "", "block job 'copy-vda'"),
        ("<job type='none' async='migration out'/>", "", "migration out"),
        ("<dbusDaemon/>", "", "message bus"),
        ("", HOSTDEV, "PCI device is managed"),
        ("", DISK % "<mirror type='file' file='/c'/>", "is being mirrored"),
        ("<blockjobs active='no'/><namespaces><mount/></namespaces>", DISK % "", None),
    ],
)
def test_what_stands_in_the_way(
    tmp_path: Path, process: int, beside: str, devices: str, said: str | None
) -> None:
    found = takeover.examine(
        read_status(_status(tmp_path, process, beside=beside, devices=devices), "s"), ("none", "dac")
    )
    if said is None:
        assert found.obstacles == []
        assert found.notes == []
    else:
        assert len(found.obstacles) == 1
        assert said in found.obstacles[0]


@pytest.mark.parametrize("model", ["apparmor", "selinux"])
def test_labels_are_spoken_of_where_their_model_is_not_in_use_here(
    tmp_path: Path, process: int, model: str
) -> None:
    devices = f"</devices><seclabel model='{model}' relabel='yes'><label>x</label></seclabel><devices>"
    status = read_status(_status(tmp_path, process, devices=devices), "s")
    assert takeover.examine(status, (model, "dac")).notes == []
    (note,) = takeover.examine(status, ("none", "dac")).notes
    assert f"confined by {model}, which this daemon does not use here" in note


def test_the_check_knows_the_models_that_the_daemon_would_use(
    tmp_path: Path, process: int, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Paths.root(tmp_path)
    for folder in (paths.conf.parent, paths.run):
        folder.mkdir(parents=True, exist_ok=True)
    devices = "</devices><seclabel model='apparmor'><label>x</label></seclabel><devices>"
    (paths.run / "a.xml").write_text(_status(tmp_path, process, devices=devices))
    paths.conf.write_text('security_driver = "none"\n')
    assert takeover.models_here(paths) == ("none", "dac")
    assert changeover.main(["--check", "--root", str(tmp_path)]) == 0
    assert "note: it is confined by apparmor" in capsys.readouterr().out
    paths.conf.write_text('security_driver = "smack"\n')
    assert changeover.main(["--check", "--root", str(tmp_path)]) == 1
    assert "qvirtd would not start: Security driver smack not found" in capsys.readouterr().err


def test_another_process_and_no_monitor_stand_in_the_way(tmp_path: Path, process: int) -> None:
    status = read_status(_status(tmp_path, process, name="a"), "s")
    (tmp_path / "monitor.sock").unlink()
    assert len(takeover.examine(status, ()).obstacles) == 2
    assert not takeover.is_of(read_status(_status(tmp_path, os.getpid()), "s"))


def test_a_guest_left_to_libvirt_is_not_started_twice(tmp_path: Path, process: int) -> None:
    status = read_status(_status(tmp_path, process), "s")
    takeover.refuse_untaken({"a,b": status}, "other", "0" * 36)
    with pytest.raises(OperationInvalid, match="runs under libvirt"):
        takeover.refuse_untaken({"a,b": status}, "renamed", "9c29e425-7c92-4e95-85fb-9f1696d047bb")


def test_libvirt_is_told_the_names_of_nodes_and_the_highest_number(tmp_path: Path) -> None:
    status = read_status(_status(tmp_path, 1, devices=DISK % ""), "s")
    definition = parse_live(status.xml)
    told = parse_element(handback.domain_text(definition, status.folder, Written()), "s")
    names = [el.get("name") for el in told.iter("nodename")]
    assert names == ["libvirt-2-storage", "libvirt-2-format", "libvirt-7-storage", "libvirt-7-format"]
    assert [el.get("name") for el in told.iter("qom")] == ["/machine/peripheral/virtio-disk0/virtio-backend"]
    for before, highest in (
        (["<fdset index='4'/>"], 7),
        (["<nodename index='9'/>", "<fdset index='4'/>"], 9),
    ):
        beside = list(handback.elements(definition, before, status.folder, "/channels", remembers=True))
        assert f"<nodename index='{highest}'/>" in beside
        assert f"<channelTargetDir path='/channels/{tmp_path.name}'/>" in beside
        assert "<fdset index='4'/>" in beside


def test_guests_of_which_libvirt_would_not_know_enough_are_not_given_back(
    tmp_path: Path, process: int
) -> None:
    assert "what its emulator can" in str(
        takeover.examine_ours(read_status(_status(tmp_path, process), "s")).obstacles
    )
    caps = "<qemuCaps><flag name='iothread'/></qemuCaps>"
    assert not takeover.examine_ours(read_status(_status(tmp_path, process, beside=caps), "s")).obstacles


def test_lists_that_have_not_changed_are_not_written_again(tmp_path: Path) -> None:
    status = read_status(_status(tmp_path, 1, devices=DISK % "" + "<input type='tablet' bus='usb'/>"), "s")
    definition = parse_live(status.xml)
    written = Written()
    first = handback.domain_text(definition, status.folder, written)
    definition.devices.inputs[0].type = "mouse"
    definition.devices.disks[0].readonly = True
    assert handback.domain_text(definition, status.folder, written) == first
    written.forget({"disks"})
    second = handback.domain_text(definition, status.folder, written)
    assert "<readonly/>" in second
    assert "tablet" in second
    written.forget(set())
    assert "mouse" in handback.domain_text(definition, status.folder, written)


def test_devices_with_a_guests_address_have_their_own_where_libvirt_notes_it(tmp_path: Path) -> None:
    nic = "<interface type='direct'><mac address='52:54:00:0:0:1'/><source dev='%s' mode='%s'/></interface>"
    status = read_status(
        _status(
            tmp_path,
            1,
            devices=nic % ("a", "passthrough") + nic % ("b", "bridge") + nic % ("c", "passthrough"),
        ),
        "s",
    )
    plug.save_mac(tmp_path, "a", "02:00:00:00:00:0a")
    plug.save_mac(tmp_path, "b", "02:00:00:00:00:0b")
    (tmp_path / "c").write_text("no JSON")
    assert takeover.saved_macs(tmp_path, parse_live(status.xml)) == {"a": "02:00:00:00:00:0a"}
