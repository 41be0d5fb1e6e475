"""Two machines with nearly every kind of device: they start, and what they say of themselves holds."""

import re
import xml.etree.ElementTree as ET

import pytest

from tests.functional.guests.machines import make_image, make_qcow2, write
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

COMMON = """
<serial type='pty'/><serial type='file'><source path='{dir}/serial.log'/></serial><serial type='null'/>
<serial type='tcp'><source mode='bind' host='127.0.0.1' service='0'/><protocol type='telnet'/></serial>
<parallel type='null'/><console type='pty'/><console type='null'><target type='virtio'/></console>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<channel type='pty'><target type='virtio' name='a.pty'/></channel>
<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
<channel type='spiceport'><source channel='org.spice.webdav.0'/>
  <target type='virtio' name='org.spice.webdav.0'/></channel>
<input type='tablet' bus='usb'/><input type='mouse' bus='usb'/><input type='keyboard' bus='usb'/>
<input type='keyboard' bus='virtio'/><input type='tablet' bus='virtio'/>
<graphics type='vnc' port='-1' passwd='secret' sharePolicy='ignore'/>
<graphics type='spice' autoport='yes'><clipboard copypaste='no'/></graphics>
<redirdev bus='usb' type='spicevmc'/>
<rng model='virtio'><rate bytes='1024' period='1000'/><backend model='random'>/dev/urandom</backend></rng>
<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='5'/></memballoon>
<panic model='isa'/>
<interface type='user'><model type='e1000'/><link state='down'/></interface>
<interface type='user'><model type='virtio'/><driver rx_queue_size='512'/></interface>
"""

PC = """
<controller type='usb' index='0' model='ich9-ehci1'/><controller type='usb' index='0' model='ich9-uhci1'/>
<controller type='usb' index='0' model='ich9-uhci2'/><controller type='usb' index='0' model='ich9-uhci3'/>
<controller type='usb' index='1' model='qemu-xhci' ports='8'/>
<controller type='scsi' index='0' model='lsilogic'/>
<controller type='scsi' index='1' model='virtio-scsi'><driver iothread='1' queues='1'/></controller>
<controller type='pci' index='1' model='pci-bridge'/><controller type='sata' index='0'/>
<hub type='usb'/>
<video><model type='qxl' primary='yes' heads='1'/></video><video><model type='qxl'/></video>
<sound model='ich6'><codec type='micro'/></sound><sound model='ac97'/><sound model='es1370'/>
<sound model='sb16'/><sound model='usb'/>
<watchdog model='i6300esb' action='poweroff'/>
<interface type='user'><model type='ne2k_pci'/></interface>
<interface type='user'><model type='pcnet'/></interface>
<interface type='user'><model type='rtl8139'/></interface>
"""

Q35 = """
<controller type='pci' model='pcie-root'/>
<controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
<controller type='pci' model='pcie-switch-upstream-port'/>
<controller type='pci' model='pcie-switch-downstream-port'/><controller type='pci' model='dmi-to-pci-bridge'/>
<controller type='pci' model='pci-bridge'/><controller type='pci' model='pcie-to-pci-bridge'/>
<controller type='usb' model='qemu-xhci'/>
<controller type='scsi' index='0' model='virtio-scsi'/><controller type='scsi' index='1' model='lsisas1068'/>
<controller type='virtio-serial' index='0' ports='16' vectors='4'/>
<video><model type='virtio' heads='2' primary='yes'/></video><video><model type='virtio'/></video>
<sound model='ich9'/><watchdog model='i6300esb' action='dump'/>
<interface type='user'><model type='e1000e'/></interface>
<interface type='user'><model type='vmxnet3'/></interface>
<iommu model='intel'/>
<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>
"""


def disks(daemon: Daemon, machine: str) -> str:
    """Make images, and a disk on each bus the machine has."""
    folder = daemon.root
    base = make_image(folder / f"{machine}-base.img", b"base")
    raw = make_image(folder / f"{machine}-raw.img", b"raw")
    qcow2 = make_qcow2(folder / f"{machine}.qcow2", backing=base)
    floppy = make_image(folder / f"{machine}-floppy.img", b"floppy", 1474560)
    bus, letter = ("ide", "h") if machine == "pc" else ("sata", "s")
    return f"""
    <disk type='file'><driver name='qemu' type='qcow2' cache='none' io='native' iothread='1' queues='1'/>
      <source file='{qcow2}'/><target dev='vda' bus='virtio'/><serial>one</serial><boot order='1'/>
      <iotune><total_bytes_sec>1048576</total_bytes_sec><read_iops_sec>100</read_iops_sec>
      <write_iops_sec>50</write_iops_sec><write_iops_sec_max>60</write_iops_sec_max></iotune></disk>
    <disk type='file'><driver name='qemu' type='raw' error_policy='stop' rerror_policy='report'
      copy_on_read='on'/>
      <source file='{raw}'/><target dev='sdx' bus='scsi'/><wwn>5000c50015ea71ac</wwn></disk>
    <disk type='file' device='cdrom'><target dev='{letter}da' bus='{bus}'/><readonly/></disk>
    <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{floppy}'/>
      <target dev='fda' bus='fdc'/></disk>
    <disk type='file'><driver name='qemu' type='raw'/><source file='{base}'/><target dev='sdz' bus='usb'/>
      <readonly/></disk>"""


def document(daemon: Daemon, machine: str) -> str:
    """Make the document of a machine with everything it can have."""
    devices = (COMMON + (PC if machine == "pc" else Q35)).replace("{dir}", str(daemon.root))
    return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <name>all-{machine}</name><title>Everything</title><description>One of each</description>
    <metadata><a:b xmlns:a='http://a.example/'>kept</a:b></metadata>
    <maxMemory slots='4' unit='GiB'>1</maxMemory><memory unit='MiB'>384</memory>
    <vcpu current='2'>4</vcpu><iothreads>2</iothreads>
    <sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>
    <os><type arch='x86_64' machine='{machine}'>hvm</type><bootmenu enable='yes' timeout='100'/>
      <bios useserial='yes' rebootTimeout='0'/><smbios mode='sysinfo'/></os>
    <features><acpi/><apic/><pae/><vmport state='off'/><vmcoreinfo state='on'/>
      {"<ioapic driver='qemu'/>" if machine == "q35" else ""}</features>
    <cpu mode='custom' match='exact' check='none'><model>qemu64</model>
      <topology sockets='2' dies='1' cores='2' threads='1'/>
      <feature policy='disable' name='svm'/><feature policy='require' name='ssse3'/>
      <numa><cell id='0' cpus='0-3' memory='256' unit='MiB'/></numa></cpu>
    <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/>
      <timer name='hpet' present='no'/></clock>
    <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>preserve</on_crash>
    <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
    <devices>{devices}{disks(daemon, machine)}</devices>
    <qemu:commandline><qemu:arg value='-fw_cfg'/><qemu:arg value='name=opt/x,string=y'/>
      <qemu:env name='A_VARIABLE' value='its value'/></qemu:commandline></domain>"""


#: elements of <devices> that QEMU knows no device for, or that have no alias in libvirt either
NAMELESS = {"emulator", "graphics", "audio", "panic"}


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_everything_at_once(daemon: Daemon, machine: str) -> None:
    name = f"all-{machine}"
    text = document(daemon, machine)
    if "<value>spice</value>" not in daemon.virsh("domcapabilities"):
        pytest.skip("this QEMU has no spice")
    if machine == "pc":
        text = text.replace("<memory unit='MiB'>384", "<memory unit='MiB'>256")
    daemon.virsh("define", write(daemon, name, text))
    inactive = daemon.virsh("dumpxml", name, "--security-info")
    daemon.virsh("start", name, "--paused")
    try:
        assert daemon.virsh("domstate", name, "--reason").strip() in ("paused (starting up)", "paused (user)")
        live = daemon.virsh("dumpxml", name, "--security-info")
        devices = ET.fromstring(live).find("devices")  # noqa: S314 - the daemon's own
        assert devices is not None
        aliases = [(dev.tag, dev.find("alias")) for dev in devices if dev.tag not in NAMELESS]
        assert [tag for tag, alias in aliases if alias is None] == []
        # a console shows the first serial port, USB controllers of one index are one to the guest
        twice = ("console", "controller")
        names = [alias.get("name") for tag, alias in aliases if alias is not None and tag not in twice]
        assert len(names) == len(set(names)) >= 30
        for kind in ("vnc", "spice"):
            port = re.search(rf"<graphics type='{kind}' port='(\d+)'", live)
            assert port is not None
            assert int(port[1]) >= 5900
        assert len(re.findall("<source path='/dev/pts/", live)) == 3
        # QEMU has each of them under that name
        for alias in names:
            if alias and alias.startswith(("virtio-disk", "scsi", "net", "sound", "video", "rng", "input")):
                found = daemon.virsh(
                    "qemu-monitor-command",
                    name,
                    f'{{"execute":"qom-list","arguments":{{"path":"/machine/peripheral/{alias}"}}}}',
                )
                ps2 = alias.startswith("input") and '"error"' in found
                assert '"return"' in found or ps2, alias
        for words in (
            ("dominfo", name),
            ("domstats", name),
            ("vcpuinfo", name),
            ("domblklist", name, "--details"),
            ("domiflist", name),
            ("dommemstat", name),
            ("iothreadinfo", name),
            ("domdisplay", name, "--all"),
            ("vncdisplay", name),
            ("ttyconsole", name),
            ("domblkinfo", name, "--all"),
        ):
            assert daemon.virsh(*words).strip(), words
        assert "A_VARIABLE=" in (daemon.root / f"var/log/libvirt/qemu/{name}.log").read_text()
        # the live document is a definition as good as the one it came from
        again = re.sub(f"<name>{name}</name>", "<name>again</name>", re.sub("<uuid>.*</uuid>", "", live))
        again = re.sub("<resource>.*?</resource>", "", again, flags=re.DOTALL)  # where its control groups are
        daemon.virsh("define", write(daemon, "again", again), "--validate")
        second = daemon.virsh("dumpxml", "again", "--security-info")
        (ours, our_devices), (theirs, their_devices) = plain(second), plain(inactive)
        assert ours == theirs
        assert set(our_devices) ^ set(their_devices) == set()
        assert daemon.virsh("dumpxml", name, "--inactive", "--security-info") == inactive
        native = daemon.virsh("domxml-to-native", "qemu-argv", "--domain", name)
        assert "virtio-balloon-pci" in native
    finally:
        daemon.virsh("destroy", name)
        daemon.virsh_run("undefine", "again")
        daemon.virsh("undefine", name)


def plain(text: str) -> tuple[str, list[str]]:
    """Return a document without devices, and its devices sorted, as controllers may change places.

    Without what differs in two domains, and without the chains that were found at a start.
    """
    text = re.sub(r"\s*<(name|uuid)>.*</\1>", "", text)
    text = re.sub(r"\s*<backingStore type.*?<backingStore/>\s*</backingStore>", "", text, flags=re.S)
    # what libvirt, too, keeps of a live document where the definition left it open
    for known in (
        r"<backingStore/>",
        r"<seclabel type='dynamic' model='dac' relabel='yes'/>",
        r" tls='no'",
        r" base='0x[0-9a-f]+'",
        r" (listen|address)='127\.0\.0\.1'",
    ):
        text = re.sub(known, "", text)
    root = ET.fromstring(text)  # noqa: S314 - the daemon's own
    devices = root.find("devices")
    assert devices is not None
    listed = sorted(ET.canonicalize(ET.tostring(dev, encoding="unicode"), strip_text=True) for dev in devices)
    root.remove(devices)
    # a running guest's names every feature in which it differs from its model
    root.remove(next(root.iter("cpu")))
    return ET.canonicalize(ET.tostring(root, encoding="unicode"), strip_text=True), listed
