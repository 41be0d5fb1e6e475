"""Command lines as people write them: what each rule of the importer makes of them, in words of our own."""

import pytest

from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.disk import DiskBus
from qvirt.model.storage_source import SourceType
from qvirt.qemu.importer.devices import READERS
from tests.unit.qemu.importer.lines import imported, words


def test_a_machine_without_ide_gets_a_controller_for_its_drives() -> None:
    made = imported(
        "qemu-system-aarch64 -M virt -nodefaults -device ide-cd,bus=ide.1,unit=0,id=cd"
        " -drive if=none,id=d,file=/a,format=raw -device ide-hd,drive=d"
    )
    disks = made.domain.devices.disks
    assert [disk.target.bus for disk in disks] == [DiskBus.SATA, DiskBus.SATA]
    assert [disk.name for disk in disks] == ["sdb", "sdf"]
    assert made.domain.devices.controllers[0].type == ControllerType.SATA
    assert "this machine has no IDE" in " ".join(made.account.notes)


def test_a_drive_that_a_device_names_is_that_devices() -> None:
    made = imported(
        "qemu-system-x86_64 -M q35 -nodefaults -drive file=/a,id=d -device ide-hd,bus=ide.0,drive=d"
    )
    assert [disk.name for disk in made.domain.devices.disks] == ["sda"]


@pytest.mark.parametrize("driver", ["ide-drive", "ide-hd", "scsi-cd"])
def test_a_disk_that_is_a_device_keeps_the_empty_drive_away(driver: str) -> None:
    bus = "-device lsi" if driver == "scsi-cd" else ""
    made = imported(
        f"qemu-system-x86_64 -net none {bus} -drive if=none,id=d,file=/a,format=raw -device {driver},drive=d"
    )
    assert [disk.device for disk in made.domain.devices.disks if disk.source is None] == ["floppy"]


def test_an_image_of_ceph_says_who_asks() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -drive if=virtio,format=raw,"
        "file='rbd:p/i:id=me:key=QUJD:conf=/c.conf:mon_host=m\\:1'"
    )
    source = made.domain.devices.disks[0].source
    assert source is not None
    assert source.auth is not None
    assert source.auth.username == "me"
    assert source.config is not None
    assert source.config.file == "/c.conf"
    assert "secret" in " ".join(made.account.notes)
    assert "QUJD" not in made.domain.to_xml()


@pytest.mark.parametrize(
    "file",
    [
        "rbd:p/i:conf=/c:id=admin:keyring=/k",
        "rbd:p/i:id=admin",
        "ssh://me@host/a.img",
        "fat:32:rw:/x",
        "fat:rw:/x",
    ],
)
def test_what_the_way_to_an_image_says_is_not_lost(file: str) -> None:
    made = imported(f"qemu-system-x86_64 -nodefaults -drive file={file},format=raw,if=virtio")
    assert words(made)[:2] == ["-drive", f"file={file},format=raw,if=virtio"]
    assert not made.domain.devices.disks


def test_a_folder_is_a_disk_that_cannot_be_written_to() -> None:
    disk = imported("qemu-system-x86_64 -nodefaults -drive file=fat:/x,if=virtio").domain.devices.disks[0]
    assert disk.type == SourceType.DIR
    assert disk.readonly
    assert disk.driver.type == "fat"
    # an IDE disk has to be writable: what is written is forgotten, as it was
    assert "snapshot=on" in " ".join(words(imported("qemu-system-x86_64 -nodefaults -hda fat:/x")))


def test_a_drive_that_is_handed_on_keeps_its_place() -> None:
    made = imported("qemu-system-x86_64 -nodefaults -hda /a -drive file=fat:rw:/x,format=raw")
    assert words(made)[:2] == ["-drive", "file=fat:rw:/x,format=raw,bus=0,unit=1"]


def test_boards_keep_their_boot_order() -> None:
    assert "order=d" in words(imported("qemu-system-ppc64 -M mac99 -boot d -cdrom /a"))


def test_a_power_host_keeps_its_slots() -> None:
    handed = words(imported("qemu-system-ppc64 -M powernv9 -device e1000e,bus=pcie.1"))
    assert handed.index("pnv-phb-root-port,bus=pnv-phb4-root.1") < handed.index("e1000e,bus=pcie.1")


def test_machine_properties_of_a_newer_emulator_are_left_out() -> None:
    made = imported("qemu-system-riscv64 -M virt,acpi=off,aclint=on")
    assert "-machine" in words(made)
    assert "acpi=off" not in words(made)
    assert "has no acpi=off" in " ".join(made.account.notes)


def test_the_beeper() -> None:
    made = imported("qemu-system-x86_64 -M pc,pcspk-audiodev=s -audiodev none,id=s")
    assert [sound.model for sound in made.domain.devices.sounds] == ["pcspk"]
    assert not any("pcspk" in word for word in words(made))


def test_a_switch_that_became_a_device() -> None:
    made = imported("qemu-system-x86_64 -M q35,accel=tcg,iommu=on")
    assert [iommu.model for iommu in made.domain.devices.iommus] == ["intel"]


def test_what_is_written_down_of_a_network() -> None:
    made = imported("qemu-system-i386 -net nic -net user -net dump,file=/p,len=100")
    assert "filter-dump,id=dump2,netdev=net0.0,file=/p,maxlen=100" in words(made)


def test_memory_in_files_is_said_once() -> None:
    made = imported("qemu-system-x86_64 -mem-path /dev/hugepages -m 64")
    assert made.domain.memory_backing.hugepages is not None
    assert "-mem-path" not in words(made)
    made = imported("qemu-system-x86_64 -mem-path /mnt/ram -m 64")
    assert made.domain.memory_backing.source is not None
    assert made.domain.memory_backing.source.type == "file"


@pytest.mark.parametrize(
    ("target", "name", "becomes"),
    [
        ("x86_64", "ranchu", "pc-i440fx-7.2"),
        ("arm", "goldfish", "virt-7.2"),
    ],
)
def test_boards_that_went(target: str, name: str, becomes: str) -> None:
    assert imported(f"qemu-system-{target} -M {name}").domain.os.type.machine == becomes


def test_what_is_handed_on_boots_in_its_turn() -> None:
    nvme = "-drive if=none,id=n,file=/n -device nvme,drive=n,serial=1,bootindex={}"
    disk = "-drive if=none,id=v,file=/v,format=raw -device virtio-blk-pci,drive=v,bootindex=5"
    made = imported(f"qemu-system-x86_64 -nodefaults {nvme.format(9)} {disk}")
    boot = made.domain.devices.disks[0].boot
    assert boot is not None
    assert boot.order == 1
    assert any(word.startswith("nvme,drive=n,serial=1,bootindex=2") for word in words(made))
    # a disk without a word would be the first, as in any document
    made = imported(
        f"qemu-system-x86_64 -nodefaults {nvme.format(0)} -drive if=virtio,file=/v,format=raw -boot c"
    )
    boot = made.domain.devices.disks[0].boot
    assert boot is not None
    assert boot.order == 2
    assert made.domain.os.boots == []
    assert "bootindex" not in " ".join(words(imported(f"qemu-system-x86_64 {nvme.format(-1)}")))


def test_a_display_that_a_board_cannot_have_is_handed_on() -> None:
    handed = words(imported("qemu-system-ppc64 -M pseries -vnc :3 -device usb-kbd"))
    assert handed[handed.index("-vnc") + 1] == ":3"


def test_a_mainframes_screen() -> None:
    made = imported("qemu-system-s390x -M s390-ccw-virtio -device virtio-gpu-ccw -vnc :5")
    assert [video.model.type for video in made.domain.devices.videos] == ["virtio"]


def test_properties_of_one_thing_stay_together() -> None:
    made = imported("qemu-system-x86_64 -M q35,cxl=on -M cxl-fmw.0.targets.0=c,cxl-fmw.0.size=4G -nodefaults")
    assert "cxl-fmw.0.targets.0=c,cxl-fmw.0.size=4G" in words(made)


def test_what_sits_on_a_device_that_comes_late_comes_later() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -device usb-ehci,id=e -device usb-uas,id=uas,bus=e.0"
        " -drive file=/b,if=none,id=y,format=raw -device scsi-hd,bus=uas.0,drive=y"
    )
    assert sum(word.startswith('{"driver":"usb-uas"') for word in words(made)) == 1
    assert sum(word.startswith('{"driver":"scsi-hd"') for word in words(made)) == 1


def test_qemus_helper_plugs_into_a_bridge() -> None:
    card = "-device virtio-net-pci,netdev=n"
    for said, bridge in (("helper=/h", "br0"), ("helper=/h,br=br7", "br7")):
        (nic,) = imported(f"qemu-system-x86_64 -netdev tap,id=n,{said} {card}").domain.devices.interfaces
        assert nic.source is not None
        assert (nic.type, nic.source.bridge) == ("bridge", bridge)


def test_cpus_and_links_of_nodes() -> None:
    made = imported(
        "qemu-system-x86_64 -M q35,hmat=on -m 2G -smp 4,sockets=2,cores=2 -nodefaults"
        " -object memory-backend-ram,size=1G,id=m0 -object memory-backend-ram,size=1G,id=m1"
        " -numa node,nodeid=0,memdev=m0 -numa node,nodeid=1,memdev=m1,initiator=0"
        " -numa cpu,node-id=0,socket-id=0 -numa cpu,node-id=1,socket-id=1,core-id=0"
        " -numa cpu,node-id=1,core-id=1,socket-id=1"
        " -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=9"
        " -numa hmat-lb,initiator=0,target=1,hierarchy=first-level,data-type=read-bandwidth,bandwidth=1M"
        " -numa hmat-cache,node-id=1,size=10K,level=1,associativity=direct,policy=write-back,line=8"
    )
    assert made.domain.cpu is not None
    numa = made.domain.cpu.numa
    assert numa is not None
    assert [sorted(cell.cpus or ()) for cell in numa.cells] == [[0, 1], [2, 3]]
    assert numa.interconnects is not None
    assert [(one.target, one.value) for one in numa.interconnects.latencies] == [(1, 9)]
    assert [(one.cache, one.value) for one in numa.interconnects.bandwidths] == [(1, 1024)]
    assert [(one.level, one.policy) for one in numa.cells[1].caches] == [(1, "writeback")]
    assert not any(word.startswith("-numa") for word in words(made))


def test_an_emulated_power_cpu_has_one_thread() -> None:
    cpu = imported("qemu-system-ppc64 -M pseries -smp 8,threads=8", offers_kvm=False).domain.cpu
    assert cpu is not None
    assert cpu.topology is not None
    assert (cpu.topology.cores, cpu.topology.threads) == (8, 1)


def test_a_document_that_is_refused_hands_one_device_on() -> None:
    line = "qemu-system-x86_64 -M q35 -device intel-iommu,intremap=on -hda /a"
    made = imported(line, offers_kvm=False)
    assert "intel-iommu,intremap=on" in words(made)
    assert [disk.device for disk in made.domain.devices.disks] == ["disk", "cdrom"]


def test_the_part_that_is_refused_is_found_among_many() -> None:
    disks = " ".join(
        f"-drive if=none,id=d{number},file=/x,format=raw -device virtio-blk-pci,drive=d{number}"
        for number in range(12)
    )
    others = "-device intel-iommu,intremap=on -device virtio-rng-pci"
    made = imported(f"qemu-system-x86_64 -M q35 -nodefaults {disks} {others}", offers_kvm=False)
    assert [word for word in words(made) if "virtio" in word] == []
    assert len(made.domain.devices.disks) == 12
    assert len(made.domain.devices.rngs) == 1


def test_a_usb_bus_keeps_its_name_for_its_companions() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -device ich9-usb-ehci1,id=ehci,addr=1d.7,multifunction=on"
        " -device ich9-usb-uhci1,masterbus=ehci.0,firstport=0,addr=1d.0,multifunction=on"
    )
    assert [one.alias.name for one in made.domain.devices.controllers] == ["ua-ehci", None]


def test_a_mainframes_numbers_count_what_is_handed_on() -> None:
    made = imported(
        "qemu-system-s390x -nodefaults -device virtio-rng-ccw -device virtio-crypto-ccw,cryptodev=c"
        " -object cryptodev-backend-builtin,id=c -device virtio-balloon-ccw"
    )
    assert "virtio-crypto-ccw,cryptodev=c,devno=fe.0.0001" in words(made)
    assert "devno='0x0002'" in made.domain.devices.memballoons[0].to_xml()


@pytest.mark.parametrize(
    "machine", ["x86_64 -M q35", "aarch64 -M virt", "s390x -M s390-ccw-virtio", "ppc64 -M pseries"]
)
def test_any_device_is_read_or_handed_on(machine: str) -> None:
    for driver in READERS:
        imported(f"qemu-system-{machine} -nodefaults -device {driver},id=x")
