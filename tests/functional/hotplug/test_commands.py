"""Every option of virsh's commands that change devices, on one guest that has nothing to boot."""

from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import make_image, write
from tests.support.daemon import Daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

NAME = "options"
DOCUMENT = f"""<domain type='qemu'>
  <name>{NAME}</name>
  <maxMemory slots='4' unit='MiB'>512</maxMemory>
  <memory unit='MiB'>64</memory>
  <vcpu current='1'>2</vcpu>
  <iothreads>1</iothreads>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <cpu><numa><cell id='0' cpus='0-1' memory='64' unit='MiB'/></numa></cpu>
  <devices>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
    <memory model='virtio-mem'><alias name='ua-grows'/>
      <target><size unit='MiB'>128</size><node>0</node><block unit='MiB'>2</block>
      <requested unit='MiB'>0</requested></target></memory>
  </devices>
</domain>"""


@pytest.fixture(scope="module")
def guest(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, with the guest defined and held before its first instruction."""
    for name in ("a.img", "b.img"):
        make_image(daemon.root / name, name.encode())
    daemon.virsh("define", write(daemon, NAME, DOCUMENT))
    daemon.virsh("start", NAME, "--paused")
    yield daemon
    daemon.virsh("destroy", NAME)


def xml(daemon: Daemon, *words: str) -> str:
    return daemon.virsh("dumpxml", NAME, *words).replace('"', "'")


def device(daemon: Daemon, which: str, *words: str) -> str:
    return xml(daemon, "--xpath", which, *words)


def refusal(daemon: Daemon, *words: str) -> str:
    done = daemon.virsh_run(*words)
    assert done.returncode, done.stdout
    return done.stderr


NBD = ("--sourcetype", "network", "--source-protocol", "nbd", "--config")


@pytest.mark.parametrize(
    ("source", "target", "words", "parts"),
    [
        ("a.img", "sda", "--targetbus scsi --live", ["bus='scsi'", "alias name='scsi0-0-0-0'"]),
        ("a.img", "sdb", "--targetbus scsi --live --persistent --cache none --io threads", ["cache='none'"]),
        (
            "a.img",
            "sdc",
            "--type cdrom --targetbus scsi --mode readonly --live",
            ["device='cdrom'", "<readonly/>"],
        ),
        ("a.img", "sdd", "--targetbus scsi --mode shareable --live", ["<shareable/>", "cache='none'"]),
        (
            "a.img",
            "sde",
            "--driver qemu --subdriver raw --targetbus scsi --current",
            ["name='qemu' type='raw'"],
        ),
        ("a.img", "vdb", "--iothread 1 --config", ["iothread='1'"]),
        ("a.img", "vdc", "--serial abc --alias ua-c --config", ["<serial>abc</serial>", "name='ua-c'"]),
        ("a.img", "sdf", "--wwn 5000c50015ea71aa --config", ["<wwn>5000c50015ea71aa</wwn>"]),
        (
            "a.img",
            "vdd",
            "--address pci:0000.00.1e.0 --multifunction --config",
            ["slot='0x1e' function='0x0' multifunction='on'"],
        ),
        (
            "/dev/null",
            "sdg",
            "--type lun --sourcetype block --rawio --config",
            ["rawio='yes'", "device='lun'"],
        ),
        ("a.img", "fda", "--type floppy --targetbus fdc --config", ["device='floppy'"]),
        (
            "export",
            "vde",
            f"{' '.join(NBD)} --source-host-name localhost:10810 --source-host-transport tcp",
            ["protocol='nbd' name='export'", "name='localhost' port='10810'"],
        ),
        (
            "export",
            "vdf",
            f"{' '.join(NBD)} --source-host-transport unix --source-host-socket /tmp/nbd.sock",
            ["transport='unix' socket='/tmp/nbd.sock'"],
        ),
    ],
)
def test_attach_disk(guest: Daemon, source: str, target: str, words: str, parts: list[str]) -> None:
    """Each option stands in the document it is meant for, in none where it is printed; the disk goes."""
    path = str(guest.root / source) if source.endswith(".img") else source
    command = ("attach-disk", NAME, path, target, *words.split())
    which = f"//disk[target/@dev='{target}']"
    before = xml(guest), xml(guest, "--inactive")
    assert f"dev='{target}'" in guest.virsh(*command, "--print-xml").replace('"', "'")
    assert (xml(guest), xml(guest, "--inactive")) == before
    guest.virsh(*command)
    live = "--config" not in words
    kept = not live or "--persistent" in words
    for there, more in ((live, ()), (kept, ("--inactive",))):
        listed = guest.virsh("domblklist", NAME, *more)
        assert (target in [line.split()[0] for line in listed.splitlines() if line]) == there
        if there:
            assert parts[0] in device(guest, which, *more)
    shown = device(guest, which, *([] if live else ["--inactive"]))
    assert [part for part in parts if part not in shown] == []
    where = [*(["--live"] if live else []), *(["--config"] if kept else [])]
    document = guest.virsh("detach-disk", NAME, target, "--print-xml", *where)
    assert f"dev='{target}'" in document.replace('"', "'")
    guest.virsh("detach-disk", NAME, target, *where)
    assert target not in guest.virsh("domblklist", NAME) + guest.virsh("domblklist", NAME, "--inactive")


@pytest.mark.parametrize(
    ("type", "source", "words", "parts"),
    [
        (
            "bridge",
            "br0",
            "--target tap7 --model e1000 --script /etc/qemu-ifup --alias ua-n",
            [
                "<target dev='tap7'/>",
                "<model type='e1000'/>",
                "<script path='/etc/qemu-ifup'/>",
                "name='ua-n'",
            ],
        ),
        (
            "network",
            "default",
            "--inbound 100,200,300 --outbound 50",
            ["<inbound average='100' peak='200' burst='300'/>", "<outbound average='50'/>"],
        ),
        (
            "vhostuser",
            "/tmp/vhost.sock",
            "--source-mode server --model virtio",
            ["<source type='unix' path='/tmp/vhost.sock' mode='server'/>"],
        ),
        ("hostdev", "0000:00:1f.6", "--managed", ["managed='yes'", "slot='0x1f' function='0x6'"]),
    ],
)
def test_attach_interface(guest: Daemon, type: str, source: str, words: str, parts: list[str]) -> None:
    """Each option stands in the definition; the running guest is left alone."""
    mac = "52:54:00:00:00:02"
    command = ("attach-interface", NAME, type, source, "--mac", mac, *words.split(), "--config")
    before = xml(guest), xml(guest, "--inactive")
    printed = guest.virsh(*command, "--print-xml").replace('"', "'")
    assert mac in printed
    assert (xml(guest), xml(guest, "--inactive")) == before
    guest.virsh(*command)
    shown = device(guest, f"//interface[mac/@address='{mac}']", "--inactive")
    assert [part for part in parts if part not in shown] == []
    assert xml(guest) == before[0]
    assert mac in guest.virsh("domiflist", NAME, "--inactive")
    assert mac not in guest.virsh("domiflist", NAME)
    guest.virsh("detach-interface", NAME, type, "--mac", mac, "--config", "--print-xml")
    guest.virsh("detach-interface", NAME, type, "--mac", mac, "--config")
    assert xml(guest, "--inactive") == before[1]


def test_links(guest: Daemon) -> None:
    """A link goes down and up, in the guest, in its definition, printed only."""
    mac = "52:54:00:00:00:01"
    guest.virsh("domif-setlink", NAME, mac, "down", "--print-xml")
    assert guest.virsh("domif-getlink", NAME, mac).split()[-1] == "up"
    guest.virsh("domif-setlink", NAME, mac, "down")
    assert guest.virsh("domif-getlink", NAME, mac).split()[-1] == "down"
    assert guest.virsh("domif-getlink", NAME, mac, "--config").split()[-1] == "up"
    guest.virsh("domif-setlink", NAME, mac, "down", "--config")
    assert guest.virsh("domif-getlink", NAME, mac, "--config").split()[-1] == "down"
    guest.virsh("domif-setlink", NAME, mac, "up", "--config")
    guest.virsh("domif-setlink", NAME, mac, "up")
    assert guest.virsh("domif-getlink", NAME, mac).split()[-1] == "up"


@pytest.mark.parametrize(
    ("words", "live", "kept"),
    [
        (["--live"], True, False),
        (["--config"], False, True),
        (["--live", "--config"], True, True),
        ([], True, False),
    ],
)
def test_documents(guest: Daemon, words: list[str], live: bool, kept: bool) -> None:
    """attach-, update-, detach-device and detach-device-alias reach what their flags say."""
    path = guest.root / "b.img"
    text = (
        f"<disk type='file' device='disk'><source file='{path}'/><target dev='sdh' bus='scsi'/>"
        "<alias name='ua-doc'/></disk>"
    )
    document = write(guest, "device", text)

    def there() -> tuple[bool, bool]:
        return "ua-doc" in xml(guest), "ua-doc" in xml(guest, "--inactive")

    guest.virsh("attach-device", NAME, document, *words)
    assert there() == (live, kept)
    guest.virsh("update-device", NAME, document, *words)
    guest.virsh("detach-device", NAME, document, *words)
    assert there() == (False, False)
    guest.virsh("attach-device", NAME, document, *words)
    guest.virsh("detach-device-alias", NAME, "ua-doc", *words)
    wait_until(lambda: there() == (False, False), "the guest has let go of it")
    assert "device not found" in refusal(guest, "detach-device", NAME, document, *words)


def test_persistent(guest: Daemon) -> None:
    """--persistent is the guest and its definition where it runs."""
    text = f"<disk type='file'><source file='{guest.root}/b.img'/><target dev='sdi' bus='scsi'/></disk>"
    document = write(guest, "device", text)
    guest.virsh("attach-device", NAME, document, "--persistent")
    assert ("sdi" in xml(guest), "sdi" in xml(guest, "--inactive")) == (True, True)
    guest.virsh("update-device", NAME, document, "--persistent")
    guest.virsh("detach-device", NAME, document, "--persistent")
    assert ("sdi" in xml(guest), "sdi" in xml(guest, "--inactive")) == (False, False)


def test_change_media(guest: Daemon) -> None:
    """Media in the running guest, in the definition, in both; printed only; a block device."""
    path = str(guest.root / "a.img")

    def sources() -> tuple[bool, bool]:
        which = "//disk[target/@dev='hdc']"
        return "<source" in device(guest, which), "<source" in device(guest, which, "--inactive")

    change = ("change-media", NAME, "hdc")
    assert path in guest.virsh(*change, path, "--insert", "--print-xml")
    assert sources() == (False, False)
    guest.virsh(*change, path, "--insert", "--config")
    assert sources() == (False, True)
    guest.virsh(*change, path, "--insert", "--live")
    assert sources() == (True, True)
    guest.virsh(*change, "--eject", "--live", "--config")
    assert sources() == (False, False)
    guest.virsh(*change, path, "--update", "--current", "--force")
    assert sources() == (True, False)
    guest.virsh(*change, "--eject")
    guest.virsh(*change, "/dev/loop0", "--insert", "--block", "--config")
    assert "<source dev='/dev/loop0'/>" in device(guest, "//disk[target/@dev='hdc']", "--inactive")
    guest.virsh(*change, "--eject", "--config")
    assert sources() == (False, False)


def test_processors_and_memory(guest: Daemon) -> None:
    """What counts processors, threads and memory, with each way to say what is meant."""
    for words, live, kept in ((["--config"], "1", "2"), (["--live"], "2", "2")):
        guest.virsh("setvcpus", NAME, "2", *words)
        counts = [
            guest.virsh("vcpucount", NAME, "--current", where).strip() for where in ("--live", "--config")
        ]
        assert counts == [live, kept]
    for words in (["--config"], ["--live"], ["--current"]):
        guest.virsh("iothreadadd", NAME, "5", *words)
        where = ["--inactive"] if words == ["--config"] else []
        assert "<iothread id='5'/>" in xml(guest, *where)
        guest.virsh("iothreaddel", NAME, "5", *words)
        assert "<iothread id='5'/>" not in xml(guest, *where)
        guest.virsh("dommemstat", NAME, "--period", "4", *words)
        assert "<stats period='4'/>" in xml(guest, *where)
        guest.virsh("setmem", NAME, "60M", *words)
    error = refusal(guest, "setmaxmem", NAME, "64M", "--config")
    assert "initial memory size of a domain with NUMA nodes cannot be modified with this API" in error
    update = ("update-memory-device", NAME, "--alias", "ua-grows", "--requested-size", "32M")
    assert "<requested unit='KiB'>32768</requested>" in guest.virsh(*update, "--print-xml").replace('"', "'")
    guest.virsh(*update, "--live")
    assert "<requested unit='KiB'>32768</requested>" in xml(guest)
    assert "<requested unit='KiB'>0</requested>" in xml(guest, "--inactive")
    guest.virsh("update-memory-device", NAME, "--node", "0", "--requested-size", "16M", "--config")
    assert "<requested unit='KiB'>16384</requested>" in xml(guest, "--inactive")
