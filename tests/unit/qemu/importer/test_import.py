"""Command lines of every age, and the documents they become."""

import pytest

from qvirt.errors import InvalidArg
from qvirt.model.devices.address import CcwAddress
from qvirt.model.domain import parse_domain
from qvirt.qemu.build import build
from qvirt.qemu.complete import complete
from qvirt.qemu.importer.account import Outcome
from tests.support import pure
from tests.unit.qemu.importer.lines import imported, words

DOCUMENTED = (
    "/usr/bin/qemu -S -M pc -m 214 -smp 1 -nographic -monitor pty -no-acpi -boot c"
    " -hda /dev/HostVG/QEMUGuest1 -net none -serial none -parallel none -usb"
)


def test_the_documented_example() -> None:
    domain = imported(DOCUMENTED).domain
    devices = domain.devices
    assert domain.type == "qemu"
    assert domain.os.type.arch == "i686"
    assert domain.memory is not None
    assert domain.memory.value == 214 * 1024
    assert [boot.dev for boot in domain.os.boots] == ["hd"]
    assert not domain.features.acpi
    assert [(disk.name, disk.device) for disk in devices.disks] == [
        ("hda", "disk"), ("hdc", "cdrom"), ("fda", "floppy"),
    ]  # fmt: skip
    assert devices.disks[0].source is not None
    assert devices.disks[0].source.dev == "/dev/HostVG/QEMUGuest1"
    assert devices.disks[0].type == "block"
    assert not devices.interfaces
    assert not devices.serials
    assert not devices.graphics
    assert [video.model.type for video in devices.videos] == ["vga"]
    assert [usb.model for usb in devices.controllers] == ["piix3-uhci"]


def test_what_qemu_adds_by_itself_is_written_out() -> None:
    devices = imported("qemu-system-x86_64 -m 1G").domain.devices
    assert [nic.mac.address for nic in devices.interfaces] == ["52:54:00:12:34:56"]
    assert [nic.model.type for nic in devices.interfaces] == ["e1000"]
    assert [disk.name for disk in devices.disks] == ["hdc", "fda"]
    assert [serial.type for serial in devices.serials] == ["vc"]
    assert [parallel.type for parallel in devices.parallels] == ["vc"]
    assert [video.model.type for video in devices.videos] == ["vga"]
    bare = imported("qemu-system-x86_64 -m 1G -nodefaults").domain.devices
    assert not bare.interfaces
    assert not bare.disks
    assert not bare.serials
    assert not bare.videos


def test_slots_are_those_qemu_gives() -> None:
    made = imported("qemu-system-x86_64 -device virtio-balloon -device virtio-rng-pci,addr=9 -net none")
    xml = made.domain.to_xml()
    assert "slot='0x03'" in made.domain.devices.memballoons[0].to_xml()
    assert "slot='0x09'" in made.domain.devices.rngs[0].to_xml()
    assert "slot='0x02'" in made.domain.devices.videos[0].to_xml()
    assert "bus='0x00'" in xml


@pytest.mark.parametrize(
    ("smp", "machine", "sockets", "cores", "threads"),
    [
        ("4", "pc", 1, 4, 1),
        ("4", "pc-i440fx-6.1", 4, 1, 1),
        ("cores=2", "pc", 1, 2, 1),
        ("8,threads=2", "q35", 1, 4, 2),
        ("8,cores=2,threads=2", "q35", 2, 2, 2),
    ],
)
def test_topology_by_age(smp: str, machine: str, sockets: int, cores: int, threads: int) -> None:
    cpu = imported(f"qemu-system-x86_64 -M {machine} -smp {smp}").domain.cpu
    assert cpu is not None
    topology = cpu.topology
    assert topology is not None
    assert (topology.sockets, topology.cores, topology.threads) == (sockets, cores, threads)


def test_user_networks_with_forwards_keep_their_netdev() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -netdev user,id=n,hostfwd=tcp::22-:22 -device e1000,netdev=n"
    )
    assert made.domain.devices.interfaces[0].type == "user"
    assert "user,id=n,hostfwd=tcp::22-:22" in words(made)
    assert made.domain.qemu_override is not None
    assert made.domain.qemu_override.devices[0].alias == made.domain.devices.interfaces[0].alias.name


def test_properties_without_xml_become_overrides() -> None:
    made = imported("qemu-system-x86_64 -nodefaults -device virtio-rng-pci,disable-legacy=on")
    override = made.domain.qemu_override
    assert override is not None
    frontend = override.devices[0].frontend
    assert frontend is not None
    assert [(x.name, x.type, x.value) for x in frontend.properties] == [("disable-legacy", "string", "on")]


def test_devices_without_xml_are_handed_on_with_what_they_name() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -drive file=a.img,if=none,id=d,format=raw"
        " -device nvme,drive=d,serial=1"
    )
    handed = words(made)
    assert "if=none,file=a.img,id=d,format=raw" in handed
    assert "nvme,drive=d,serial=1,addr=0x2" in handed


def test_formats_are_probed_or_warned_about() -> None:
    made = imported("qemu-system-x86_64 -nodefaults -hda a.img", probe=lambda path: "qcow2")
    assert made.domain.devices.disks[0].driver.type == "qcow2"
    made = imported("qemu-system-x86_64 -nodefaults -hda a.img")
    assert made.domain.devices.disks[0].driver.type is None
    assert any("raw is assumed" in note for note in made.account.notes)


def test_a_board_keeps_its_own_words_and_defaults() -> None:
    made = imported("qemu-system-aarch64 -M raspi3b -sd card.img -serial null")
    handed = words(made)
    assert handed[handed.index("-sd") : handed.index("-sd") + 2] == ["-sd", "card.img"]
    assert handed[:4] == ["-net", "nic", "-net", "user"]
    assert made.domain.memory is not None
    assert made.domain.memory.value == 1 << 20
    assert made.domain.vcpu is not None
    assert made.domain.vcpu.value == 4


def test_the_account_says_why() -> None:
    account = imported("qemu-system-x86_64 -daemonize -monitor stdio -pidfile /run/x -tdf -m 1G").account
    dropped = {entry.argument.name for entry in account.dropped() if entry.argument is not None}
    assert dropped == {"daemonize", "monitor", "pidfile", "tdf"}
    assert all(entry.text for entry in account.entries)
    assert any(entry.outcome is Outcome.XML for entry in account.entries)


def test_flash_that_xml_cannot_say_stays_flash() -> None:
    made = imported(
        "qemu-system-x86_64 -M q35 -nodefaults -drive if=pflash,format=qcow2,readonly=on,file=code.qcow2"
    )
    assert made.domain.os.loader is None
    assert "if=pflash,format=qcow2,readonly=on,file=code.qcow2,id=pflash0-0" in words(made)


def test_flash_in_both_spellings() -> None:
    for line in (
        "-drive if=pflash,format=raw,unit=0,readonly=on,file=c.fd"
        " -drive if=pflash,format=raw,unit=1,file=v.fd",
        "-blockdev driver=raw,node-name=c,read-only=on,file.driver=file,file.filename=c.fd"
        " -blockdev driver=raw,node-name=v,file.driver=file,file.filename=v.fd -machine pflash0=c,pflash1=v",
    ):
        os = imported(f"qemu-system-x86_64 -M q35 -nodefaults {line}").domain.os
        assert os.loader is not None
        assert (os.loader.type, os.loader.readonly, os.loader.path) == ("pflash", True, "c.fd")
        assert os.nvram is not None
        assert os.nvram.path == "v.fd"


def test_a_q35_without_sata_has_no_cdrom() -> None:
    assert not imported("qemu-system-x86_64 -M q35,sata=off").domain.devices.disks


@pytest.mark.parametrize("line", ["", "-net nic -net user", "-net nic,vlan=3 -net user,vlan=3"])
def test_the_hub_of_a_user_network_is_kept(line: str) -> None:
    made = imported(f"qemu-system-x86_64 {line}")
    (card,) = made.domain.devices.interfaces
    assert card.type == "user"
    assert made.domain.qemu_override is not None
    (change,) = made.domain.qemu_override.devices
    assert change.alias == card.alias.name
    assert change.frontend is not None
    assert [(one.name, one.value) for one in change.frontend.properties] == [
        ("netdev", f"hub{3 if 'vlan' in line else 0}port0")
    ]
    assert sum("hubport" in word for word in words(made)) == 2


def test_a_socket_needs_no_hub() -> None:
    made = imported("qemu-system-x86_64 -net nic -net socket,listen=127.0.0.1:1234")
    assert made.domain.devices.interfaces[0].type == "server"
    assert made.domain.qemu_override is None


def test_a_guest_that_may_not_reboot_says_so_twice() -> None:
    made = imported("qemu-system-x86_64 -no-reboot")
    assert made.domain.on_reboot == "destroy"
    assert "-no-reboot" in words(made)


def test_names_change_only_where_the_daemon_could_give_them() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -chardev socket,path=/run/tpm,id=char0"
        " -tpmdev emulator,id=tpm0,chardev=char0"
        " -netdev user,id=net0 -object filter-dump,netdev=net0,file=/tmp/dump,id=net0"
    )
    handed = " ".join(words(made))
    assert "emulator,id=tpm0,chardev=import-char0" in handed
    assert "user,id=net0" in handed
    assert "filter-dump,netdev=net0,file=/tmp/dump,id=import-net0" in handed


CONFIG = """
# as Proxmox writes it
[device "ehci"]
  driver = "ich9-usb-ehci1"
  addr = "1d.7"
[memory]
  size = "512"
[global]
  driver = "isa-fdc"
  property = "fallback"
  value = "144"
"""


def test_configuration_files_are_read() -> None:
    made = imported("qemu-system-x86_64 -readconfig /etc/vm.cfg -name kept", read={"/etc/vm.cfg": CONFIG}.get)
    assert made.domain.memory is not None
    assert made.domain.memory.value == 512 << 10
    assert any(dev.model == "ich9-ehci1" for dev in made.domain.devices.controllers)
    assert "driver=isa-fdc,property=fallback,value=144" in words(made)
    report = list(made.account.lines())
    assert report[report.index("-readconfig /etc/vm.cfg") + 1] == "    -> its sections, which follow"


def test_a_configuration_file_that_cannot_be_read_is_handed_on() -> None:
    assert "-readconfig" in words(imported("qemu-system-x86_64 -readconfig /etc/vm.cfg"))


@pytest.mark.parametrize("text", ["[nosuch]\n", "key = 1\n", "[device]\n  driver = bare\n"])
def test_what_qemu_would_not_read_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InvalidArg, match=r"/etc/vm.cfg, line [12]: "):
        imported("qemu-system-x86_64 -readconfig /etc/vm.cfg", read={"/etc/vm.cfg": text}.get)


def test_nothing_of_a_file_is_told_to_who_may_not_be_allowed_to_read_it() -> None:
    with pytest.raises(InvalidArg) as refused:
        imported("qemu-system-x86_64 -readconfig /etc/shadow", read={"/etc/shadow": "root:$y$hash:1::"}.get)
    assert "hash" not in str(refused.value)


def test_a_node_without_memory_has_no_backend() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -m 64 -smp 2 -object memory-backend-ram,id=a,size=64M"
        " -numa node,cpus=0-1,memdev=a -numa node"
    )
    assert made.domain.cpu is not None
    assert made.domain.cpu.numa is not None
    assert [cell.memory for cell in made.domain.cpu.numa.cells] == [64 << 10, 0]
    domain = parse_domain(made.domain.to_xml(), validate=True)
    ctx = pure.context(domain)
    complete(domain, ctx)
    ctx.launch.id = 1
    argv = build(domain, ctx).argv()
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "-numa"] == [
        "node,nodeid=0,cpus=0-1,memdev=ram-node0",
        "node,nodeid=1",
    ]


def test_a_host_device_of_no_pci_address_is_handed_on() -> None:
    made = imported("qemu-system-x86_64 -device vfio-pci,host=0000:f0:43.0")
    assert not made.domain.devices.hostdevs
    assert any("host=0000:f0:43.0" in word for word in words(made))


def test_an_emulated_guest_has_no_vpindex() -> None:
    made = imported("qemu-system-x86_64 -cpu qemu64,hv_relaxed,hv_vpindex")
    assert made.domain.features.hyperv is not None
    assert made.domain.features.hyperv.relaxed is not None
    assert made.domain.features.hyperv.vpindex is None
    assert any("hv-vpindex" in note for note in made.account.notes)


def test_where_kvm_is_not_offered_the_guest_is_emulated() -> None:
    assert imported("qemu-system-x86_64 -enable-kvm").domain.type == "kvm"
    made = imported("qemu-system-x86_64 -enable-kvm", offers_kvm=False)
    assert made.domain.type == "qemu"
    assert any("KVM cannot be used here" in note for note in made.account.notes)


def test_an_emulated_guest_has_no_interrupt_controller_of_the_host() -> None:
    made = imported("qemu-system-aarch64 -M virt,gic-version=host -cpu cortex-a57")
    assert made.domain.features.gic is not None
    assert made.domain.features.gic.version == "2"
    assert not any("gic-version" in word for word in words(made))


def test_a_board_keeps_no_line_of_a_monitor() -> None:
    made = imported(
        "qemu-system-aarch64 -M raspi3b -chardev socket,id=q,path=/q,server=on -mon q,mode=control"
        " -chardev file,id=log,path=/log -mon log -serial chardev:log"
    )
    assert "socket,id=q,path=/q,server=on" not in words(made)
    assert "file,id=log,path=/log" in words(made)


@pytest.mark.parametrize("word", ["on", "true", "yes"])
def test_switches_in_overrides_are_switches(word: str) -> None:
    made = imported(f"qemu-system-x86_64 -nodefaults -device virtio-rng-pci,indirect_desc={word}")
    assert made.domain.qemu_override is not None
    frontend = made.domain.qemu_override.devices[0].frontend
    assert frontend is not None
    assert [(x.name, x.type, x.value) for x in frontend.properties] == [("indirect_desc", "bool", "true")]


@pytest.mark.parametrize(
    ("asked", "machine"),
    [
        ("pc-0.12", "pc-i440fx-1.4"),
        ("pc-q35-1.3", "pc-q35-2.4"),
        ("pc-q35-99.1", "pc-q35-7.2"),
        ("pc-i440fx-rhel7.6.0", "pc-i440fx-7.2"),
        ("rhel6.5.0", "pc-i440fx-7.2"),
        ("xenfv-4.2", "pc-i440fx-4.2"),
        ("pc-i440fx-2.9", "pc-i440fx-2.9"),
    ],
)
def test_a_machine_that_is_not_there_gives_way_to_the_nearest(asked: str, machine: str) -> None:
    made = imported(f"qemu-system-x86_64 -M {asked} -nodefaults")
    assert made.domain.os.type.machine == machine
    assert any(f"'{asked}'" in note for note in made.account.notes) == (asked != machine)


def test_a_cpu_that_is_not_there_gives_way_to_all_there_is() -> None:
    made = imported("qemu-system-x86_64 -nodefaults -cpu Sapphire99,+avx", offers_kvm=False)
    assert made.domain.cpu is not None
    assert made.domain.cpu.mode == "maximum"
    assert [feature.name for feature in made.domain.cpu.features] == ["avx"]
    assert "no CPU 'Sapphire99'" in " ".join(made.account.notes)


def test_what_the_emulator_would_refuse_is_dropped_and_said() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -device from-the-future,id=f -device edu"
        " -netdev user,id=n,hostfwd=tcp::1-:1 -device virtio-net-pci,netdev=n,host_tunnel=off"
        " -cpu athlon,phys-bits=40"
    )
    assert words(made)[:2] == ["-device", "edu,addr=0x2"]
    assert "from-the-future" not in " ".join(words(made))
    assert [entry.text for entry in made.account.dropped()] == [
        "this emulator has no device 'from-the-future'"
    ]
    notes = " ".join(made.account.notes)
    assert "has no host_tunnel=off" in notes
    assert "phys-bits=40: QEMU refuses it for a CPU of 32 bits" in notes
    assert made.domain.cpu is not None
    assert made.domain.cpu.maxphysaddr is None


def test_discs_and_usb_devices_that_are_not_there_may_be_missing() -> None:
    kinds = {"/there.iso": "file", "/hd.img": "missing", "/gone.iso": "missing", "/dev/sr0": "block"}
    made = imported(
        "qemu-system-x86_64 -nodefaults -drive file=/there.iso,media=cdrom,index=1 -cdrom /gone.iso"
        " -hda /hd.img -drive file=/dev/sr0,media=cdrom,index=3 -usb -device usb-host,vendorid=1,productid=2",
        kind=lambda path: kinds[path],
    )
    policies = {
        disk.source.local_path: disk.source.startup_policy
        for disk in made.domain.devices.disks
        if disk.source is not None
    }
    assert policies == {"/there.iso": None, "/gone.iso": "optional", "/hd.img": None, "/dev/sr0": None}
    source = made.domain.devices.hostdevs[0].source
    assert source is not None
    assert source.startup_policy == "optional"


def test_the_last_value_of_a_key_counts_unless_they_add_up() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -netdev user,id=n,hostfwd=tcp::1-:1,hostfwd=tcp::2-:2"
        " -device e1000,netdev=n,driver=rtl8139"
    )
    assert [nic.model.type for nic in made.domain.devices.interfaces] == ["rtl8139"]
    assert "user,id=n,hostfwd=tcp::1-:1,hostfwd=tcp::2-:2" in words(made)


def test_memory_counts_the_modules_in() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -m 1G,slots=2,maxmem=4G -object memory-backend-ram,id=a,size=1G"
        " -numa node,memdev=a -object memory-backend-ram,id=b,size=512M -device pc-dimm,memdev=b"
    )
    assert made.domain.memory is not None
    assert made.domain.memory.value == 1536 << 10
    assert len(made.domain.devices.memory) == 1


def test_vhost_is_kept_for_where_it_can_be_used() -> None:
    for said, name in (("on", "vhost"), ("off", "qemu")):
        made = imported(
            f"qemu-system-x86_64 -nodefaults -netdev tap,id=n,ifname=t,script=no,vhost={said}"
            " -device virtio-net-pci,netdev=n",
            offers_kvm=False,
        )
        assert made.domain.devices.interfaces[0].driver.name == name


def test_riscvs_board() -> None:
    made = imported(
        "qemu-system-riscv64 -machine virt -bios none -kernel k -m 128M -nographic -net nic"
        " -global virtio-mmio.force-legacy=false -drive file=fs.img,if=none,format=raw,id=x0"
        " -device virtio-blk-device,drive=x0,bus=virtio-mmio-bus.0 -device virtio-rng-pci -device ramfb"
        " -drive if=pflash,unit=0,format=raw,file=code.fd,readonly=on -hda unused.img"
    )
    devices = made.domain.devices
    assert [(disk.name, type(disk.address).__name__) for disk in devices.disks] == [
        ("vda", "VirtioMmioAddress")
    ]
    assert made.domain.qemu_override is not None
    (override,) = (dev for dev in made.domain.qemu_override.devices if dev.alias == "ua-virtio-blk-device")
    assert override.frontend is not None
    assert [(one.name, one.value) for one in override.frontend.properties] == [("bus", "virtio-mmio-bus.0")]
    assert len(devices.rngs) == len(devices.serials) == 1
    assert [video.model.type for video in devices.videos] == ["virtio"]
    assert not devices.interfaces
    listed = words(made)
    assert {"none", "nic"} <= set(listed)
    (flash,) = (word for word in listed if "code.fd" in word)
    assert set(flash.split(",")) >= {"if=pflash", "unit=0", "format=raw", "file=code.fd", "readonly=on"}
    assert made.domain.os.loader is None


def test_riscvs_flash_by_nodes_becomes_drives() -> None:
    made = imported(
        "qemu-system-riscv64 -M virt,pflash0=p -blockdev driver=file,filename=a,,b,node-name=f,read-only=on"
        " -blockdev driver=raw,file=f,node-name=p,read-only=on"
    )
    assert "if=pflash,unit=0,format=raw,file=a,,b,readonly=on" in words(made)
    assert "-blockdev" not in words(made)
    assert "pflash0" not in " ".join(words(made))


def test_a_mainframe() -> None:
    made = imported(
        "qemu-system-s390x -m 1G -drive if=virtio,file=/a,format=raw -net nic -net user -serial null"
        " -device virtio-rng-ccw -device virtio-serial,devno=fe.0.0009 -device virtconsole,chardev=c"
        " -chardev null,id=c -virtfs local,path=/b,mount_tag=t,security_model=none -device virtio-rng-pci"
    )
    devices = made.domain.devices
    numbers = {
        dev.tag: dev.address.devno
        for dev in (*devices.disks, *devices.interfaces, *devices.rngs, *devices.filesystems)
        if isinstance(dev.address, CcwAddress)
    }
    assert numbers == {"interface": 0, "rng": 1, "filesystem": 2, "disk": 3}
    assert [
        controller.address.devno
        for controller in devices.controllers
        if isinstance(controller.address, CcwAddress)
    ] == [9]
    assert [serial.target.model.name for serial in devices.serials] == ["sclpconsole"]
    assert len(devices.consoles) == 1
    assert words(made)[-4:] == ["-device", "virtio-rng-pci", "-uuid", "00000000-0000-0000-0000-000000000000"]
    assert not devices.videos


def test_a_folder_that_somebody_elses_virtiofsd_serves() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -m 1G -machine q35,memory-backend=m"
        " -object memory-backend-memfd,id=m,size=1G,share=on -chardev socket,id=c,path=/run/fs.sock"
        " -device vhost-user-fs-pci,queue-size=1024,chardev=c,tag=shared"
    )
    (shared,) = made.domain.devices.filesystems
    assert shared.driver.type == "virtiofs"
    assert shared.driver.queue == 1024
    assert shared.source is not None
    assert shared.source.socket == "/run/fs.sock"
    assert "/run/fs.sock" not in " ".join(words(made))


def test_a_newer_board_keeps_to_the_memory_of_the_one_it_becomes() -> None:
    made = imported("qemu-system-aarch64 -M raspi4b -m 2G -kernel k")
    assert made.domain.os.type.machine == "raspi3b"
    assert made.domain.memory is not None
    assert made.domain.memory.value == 1 << 20
    assert "1024 MiB, no more and no less" in " ".join(made.account.notes)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("-audiodev pa,id=a", "none"),
        ("-audiodev pa,id=a,server=/run/pulse", "pulseaudio"),
        ("-audiodev alsa,id=a", "alsa"),
    ],
)
def test_sound_of_a_session_is_not_heard(line: str, kind: str) -> None:
    made = imported(f"qemu-system-x86_64 -nodefaults {line} -device intel-hda -device hda-duplex,audiodev=a")
    assert [audio.type for audio in made.domain.devices.audios] == [kind]
    assert any("user's session" in note for note in made.account.notes) == (kind == "none")


def test_a_microvm() -> None:
    made = imported(
        "qemu-system-x86_64 -M microvm,rtc=on -m 512m -smp 2 -kernel k -append c -nodefaults -nographic"
        " -serial stdio -drive id=a,file=/a,format=raw,if=none -device virtio-blk-device,drive=a"
        " -netdev user,id=n -device virtio-net-device,netdev=n -device virtio-rng-pci"
    )
    devices = made.domain.devices
    assert [type(dev.address).__name__ for dev in (*devices.disks, *devices.interfaces)] == [
        "VirtioMmioAddress"
    ] * 2
    assert [serial.target.type for serial in devices.serials] == ["isa-serial"]
    assert made.domain.os.bios.useserial is None
    assert "virtio-rng-pci" in words(made)
    assert "rtc=on" in words(made)


def test_a_card_that_draws_needs_a_gpu() -> None:
    made = imported(
        "qemu-system-aarch64 -M virt -device virtio-gpu-gl-pci,blob=on,venus=on -display gtk,gl=on"
    )
    (video,) = made.domain.devices.videos
    assert video.model.acceleration.accel3d is True
    assert "no GPU of this host" in " ".join(made.account.notes)
    assert "venus" in made.domain.to_xml()


def test_ports_that_only_root_may_have_are_named() -> None:
    made = imported(
        "qemu-system-x86_64 -nodefaults -redir tcp:80::80 -net nic"
        " -net user,hostfwd=tcp:127.0.0.1:22-:22,hostfwd=udp::5353-:53"
    )
    notes = [note for note in made.account.notes if "of the host" in note]
    assert [note.split(" of")[0] for note in notes] == ["port 80", "port 22"]


def test_a_network_of_no_kind_is_dropped() -> None:
    made = imported("qemu-system-x86_64 -nodefaults -net '' -nic vlan=1")
    assert [entry.text for entry in made.account.dropped()] == ["it names no kind of network"] * 2


def test_a_display_without_a_card_gets_none() -> None:
    made = imported("qemu-system-x86_64 -nodefaults -vnc :3")
    assert [video.model.type for video in made.domain.devices.videos] == ["none"]
    ctx = pure.context(made.domain)
    complete(made.domain, ctx)
    assert [video.model.type for video in made.domain.devices.videos] == ["none"]


def test_the_generation_id_is_the_domains() -> None:
    guid = "c773c261-d800-4348-9f5d-167fadd53cf8"
    made = imported(f"qemu-system-x86_64 -device vmgenid,guid={guid}")
    assert made.domain.genid == guid
    assert "-device" not in words(made)
    anew = imported("qemu-system-x86_64 -device vmgenid,guid=auto")  # another one at each start
    assert anew.domain.genid is None
    assert "vmgenid,guid=auto" in words(anew)


@pytest.mark.parametrize(
    ("more", "there", "driver"),
    [("", "file", "vhost"), ("", "missing", None), (",vhostforce=on", "missing", "vhost")],
)
def test_vhost_is_left_out_where_the_host_has_none(more: str, there: str, driver: str | None) -> None:
    made = imported(
        f"kvm -netdev tap,id=n,ifname=t,vhost=on{more} -device virtio-net-pci,netdev=n",
        kind=lambda path: there,
    )
    assert made.domain.devices.interfaces[0].driver.name == driver
    assert ("/dev/vhost-net is not there" in " ".join(made.account.notes)) == (driver is None)
