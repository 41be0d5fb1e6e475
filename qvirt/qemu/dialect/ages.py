"""When what appeared in QEMU, and when some of it went: the facts of an emulator known by its age only.

Up to 1.2 this is what ``-help`` and ``-device ?`` of the releases print, later what their capabilities are.
`facts` says how a fact is written.
"""

from collections.abc import Mapping

from qvirt.errors import InvalidArg
from qvirt.qemu.dialect.facts import DialectCaps, dialect_caps

Version = tuple[int, int, int]

#: the first release with a fact. A word after a device and a dot is its property.
_SINCE: Mapping[Version, str] = {
    (0, 9, 0): """
        -drive -localtime -name -no-acpi -no-kqemu -no-reboot -soundhw -std-vga -vmwarevga -usbdevice -vnc
    """,
    (0, 10, 0): """
        -drive:cache=none -drive:format -drive:serial -enable-kvm -incoming -net:name -no-hpet -no-shutdown
        -rtc-td-hack @monitor-socket -sdl -startdate -uuid -vga -vga:none
    """,
    (0, 11, 0): """
        -balloon -boot:menu -drive:werror -mem-path -mem-prealloc -name:process -numa -smbios -watchdog
    """,
    (0, 12, 0): """
        -chardev -device -drive:aio -drive:readonly -global -mon -nodefaults -rtc -smp:sockets
        @drive-units @memory-up @rom
        AC97 ES1370 VGA cirrus-vga e1000 i6300esb ib700 ide-drive isa-fdc isa-parallel isa-serial lsi
        lsi53c895a ne2k_isa ne2k_pci pcnet piix3-usb-uhci piix4-usb-uhci rtl8139 sb16 scsi-disk scsi-generic
        usb-host usb-hub usb-kbd usb-mouse usb-net usb-serial usb-storage usb-tablet virtio-balloon-pci
        virtio-blk-pci virtio-net-pci vmware-svga
    """,
    (0, 13, 0): """
        -drive:cache=unsafe -fsdev -netdev -netdev:vhost -nodefconfig -qmp @multifunction
        ivshmem ivshmem.ioeventfd pci-ohci virtconsole virtio-serial virtio-serial-pci virtserialport
        vt82c686b-usb-uhci
    """,
    (1, 0, 0): """
        -boot:splash-time -display -drive:cache=directsync -fsdev:readonly -fsdev:writeout -machine
        -machine:accel -spice -spice:disable-copy-paste @usb-ports
        ahci ccid-card-emulated ccid-card-passthru hda-duplex hda-output ich9-ahci ich9-usb-ehci1
        ich9-usb-uhci1 ich9-usb-uhci2 ich9-usb-uhci3 ide-cd ide-hd intel-hda ioh3420 isa-vga qxl qxl-vga
        scsi-block scsi-cd scsi-hd sga spapr-vlan spapr-vscsi spapr-vty usb-ccid usb-ehci virtio-9p-pci
        x3130-upstream xio3130-downstream
        ide-drive.logical_block_size ide-drive.physical_block_size ide-hd.logical_block_size
        ide-hd.physical_block_size scsi-hd.logical_block_size scsi-hd.physical_block_size
        usb-storage.removable virtio-blk-pci.bootindex virtio-blk-pci.event_idx virtio-blk-pci.ioeventfd
        virtio-blk-pci.logical_block_size virtio-blk-pci.physical_block_size virtio-blk-pci.scsi
        virtio-net-pci.event_idx virtio-net-pci.ioeventfd virtio-net-pci.tx virtio-scsi-pci.ioeventfd
    """,
    (1, 1, 0): """
        -drive:bps -drive:copy-on-read -dtb -machine:kernel_irqchip -no-user-config -vnc:share
        hda-micro nec-usb-xhci pci-bridge usb-audio virtio-scsi-pci
        scsi-disk.logical_block_size scsi-disk.physical_block_size
    """,
    (1, 2, 0): """
        -machine:dump-guest-core @primary-video
        PIIX4_PM am53c974 dc390 kvm-pit megasas usb-redir
        PIIX4_PM.disable_s3 PIIX4_PM.disable_s4 VGA.vgamem_mb kvm-pit.lost_tick_policy qxl-vga.vgamem_mb
        scsi-cd.product scsi-cd.vendor scsi-cd.wwn scsi-disk.product scsi-disk.vendor scsi-disk.wwn
        scsi-hd.product scsi-hd.vendor scsi-hd.wwn usb-redir.filter vmware-svga.vgamem_mb
    """,
    (1, 3, 0): """
        -boot:reboot-timeout -machine:mem-merge -machine:usb @host-domain
        pci-assign rng-egd rng-random vfio-pci virtio-mmio virtio-rng-pci virtio-rng-device
        virtio-balloon-device virtio-blk-device virtio-net-device virtio-scsi-device virtio-serial-device
        i440FX-pcihost i440FX-pcihost.pci-hole64-size qxl.vgamem_mb
    """,
    (1, 4, 0): """
        -vnc:websocket i82801b11-bridge usb-bot
        virtio-balloon-ccw virtio-blk-ccw virtio-net-ccw virtio-rng-ccw virtio-scsi-ccw virtio-serial-ccw
        sclpconsole
    """,
    (1, 5, 0): """
        -boot:strict -drive:discard -msg -realtime:mlock pvpanic pvscsi sclplmconsole spapr-pci-host-bridge
        tpm-passthrough tpm-tis vhost-scsi-pci
    """,
    (1, 6, 0): """
        -machine:iommu -spice:seamless-migration ICH9-LPC ICH9-LPC.disable_s3 ICH9-LPC.disable_s4 pci-serial
        ich9-intel-hda q35-pcihost q35-pcihost.pci-hole64-size
    """,
    (1, 7, 0): "-drive:throttling -spice:disable-agent-file-xfer",
    (2, 0, 0): "iothread virtio-blk-pci.iothread virtio-blk-ccw.iothread @pci.0",
    (2, 1, 0): """
        -drive:detect-zeroes -m:maxmem -name:debug-threads -name:guest memory-backend-file
        memory-backend-ram pc-dimm virtio-balloon-pci.deflate-on-oom gpex-pcihost
    """,
    (2, 2, 0): "-machine:vmport -vnc:vnc",
    (2, 3, 0): "-machine:aes-key-wrap -machine:dea-key-wrap -spice:unix virtio-keyboard-pci virtio-mouse-pci",
    (2, 4, 0): """
        -drive:throttling.group -machine:smm pxb pxb-pcie virtio-gpu-pci virtio-gpu-device
        virtio-input-host-pci virtio-tablet-pci virtio-vga qxl.max_outputs qxl-vga.max_outputs
        virtio-gpu-pci.virgl virtio-vga.virgl
        virtio-scsi-pci.iothread virtio-gpu-pci.max_outputs virtio-vga.max_outputs intel-iommu
        qxl.vram64_size_mb qxl-vga.vram64_size_mb
    """,
    (2, 5, 0): "-machine:gic-version -spice:gl -vnc:tls-creds tls-creds-x509 @disable-legacy",
    (2, 6, 0): """
        -chardev:append -chardev:logfile -cpu:l3-cache -machine:nvdimm input-linux ivshmem-doorbell
        ivshmem-plain nvdimm secret
    """,
    (2, 7, 0): """
        mptsas1068 nec-usb-xhci.p2 nec-usb-xhci.p3 virtio-blk-pci.num-queues virtio-net-pci.rx_queue_size
    """,
    (2, 8, 0): "virtio-crypto-pci vhost-vsock-pci -machine:loadparm @iommu_platform",
    (2, 9, 0): """
        -accel @ats @cpu-on-off -spice:rendernode pcie-root-port vmgenid virtio-net-pci.host_mtu
        virtio-net-pci.tx_queue_size pcie-root-port.hotplug
    """,
    (2, 10, 0): """
        @silent-cpu -machine:max-cpu-compat -machine:resize-hpt -numa:dist isa-serial.index qemu-xhci
        qemu-xhci.p2 qemu-xhci.p3 virtio-gpu-ccw
    """,
    (2, 11, 0): """
        -sandbox:obsolete pcie-pci-bridge vmcoreinfo
        ide-hd.share-rw scsi-hd.share-rw virtio-blk-pci.share-rw
    """,
    (2, 12, 0): """
        -blockdev floppy scsi-hd.device_id scsi-cd.device_id ide-hd.write-cache scsi-hd.write-cache
        virtio-blk-pci.write-cache usb-storage.write-cache
    """,
}  # fmt: skip

#: the first release without a fact
_UNTIL: Mapping[Version, str] = {
    (0, 10, 0): "-std-vga -vmwarevga",
    (0, 12, 0): "-localtime -no-kqemu -rtc-td-hack -startdate",
    (1, 3, 0): "-nodefconfig",
    (2, 11, 0): "pci-assign",
}

OLDEST: Version = (0, 9, 0)
NEWEST: Version = (2, 12, 0)
MINIMUM_EMULATOR: Version = (0, 12, 0)
"""The oldest emulator that is asked itself, as in libvirt; an older age can only be named."""

#: switches that only some targets have
_PC_ONLY = frozenset({"-no-acpi", "-no-hpet", "-smbios"})


def parse_age(text: str) -> Version:
    """Read a release's number: ``0.12``, ``1.5.3``, ``2.x``. Raises InvalidArg."""
    parts = text.split(".")
    if parts[-1] == "x" and len(parts) == 2:
        parts[-1] = "12" if parts[0] == "2" else "99"
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        raise InvalidArg(f"dialect '{text}' is not a release of QEMU; write it as in 0.12 or 2.5") from None
    major, minor, micro = (*numbers, 0, 0, 0)[:3]
    version = (major, minor, micro)
    if not OLDEST <= version < (NEWEST[0], NEWEST[1] + 1, 0):
        oldest, newest = (".".join(map(str, age[:2])) for age in (OLDEST, NEWEST))
        raise InvalidArg(
            f"dialect '{text}' is not known: they go from {oldest} to {newest}; "
            "name a newer QEMU as the emulator"
        )
    return version


def facts_at(version: Version) -> frozenset[str]:
    """Return what an emulator of a release takes."""
    facts: set[str] = set()
    for since, words in _SINCE.items():
        if since <= version:
            facts.update(words.split())
    for until, words in _UNTIL.items():
        if until <= version:
            facts.difference_update(words.split())
    return frozenset(facts)


def unsaid(version: Version) -> frozenset[str]:
    """Return the facts of a release that none of its texts shows."""
    return frozenset(fact for fact in facts_at(version) if fact.startswith("@") or fact in _NOT_IN_TEXTS)


_NOT_IN_TEXTS = frozenset(
    {
        "-boot:reboot-timeout", "-boot:strict", "-drive:readonly", "-drive:werror", "-machine:usb",
        "-netdev:vhost", "-vnc:share", "-vnc:websocket", "-spice:disable-copy-paste",
        "-spice:seamless-migration", "virtio-blk-pci.bootindex", "usb-storage.removable",
    }
)  # fmt: skip


def age_caps(version: Version, *, emulator: str, target: str) -> DialectCaps:
    """Return the capabilities of a plain QEMU of a release; target is QEMU's name of the architecture."""
    facts = facts_at(version)
    if target not in ("i386", "x86_64"):
        facts -= _PC_ONLY - ({"-no-acpi"} if target == "aarch64" else set())
    return dialect_caps(facts, emulator=emulator, version=version, target=target)
