"""Today's emulator in the words one types."""

import shlex

import pytest

from qvirt.errors import InvalidArg
from qvirt.qemu.complete import complete
from qvirt.qemu.dialect.by_hand import by_hand
from qvirt.qemu.dialect.older import build_older
from qvirt.qemu.dialect.plain import Plain, parse_dialect, plain_caps
from qvirt.qemu.importer import Imported
from qvirt.qemu.names import assign_aliases
from qvirt.record import replace
from tests.support import pure
from tests.unit.qemu.importer.lines import imported


def exported(made: Imported) -> list[str]:
    """Write what a command line became by hand again."""
    ctx = pure.context(made.domain)
    complete(made.domain, ctx)
    assign_aliases(made.domain, ctx)
    plain = plain_caps(ctx.caps)
    ctx = replace(ctx, caps=plain)
    return build_older(made.domain, ctx, plain, lambda switches: by_hand(switches, ctx)).argv()


def again(line: str) -> list[str]:
    return exported(imported(f"qemu-system-x86_64 -nodefaults {line}", offers_kvm=False))


def test_images_keep_what_was_said_of_them() -> None:
    text = shlex.join(again(
        "-drive file=/a,format=qcow2,if=virtio,cache=none,aio=native,discard=unmap,serial=S,werror=stop"
    ))  # fmt: skip
    assert "-drive file=/a,format=qcow2,cache=none,aio=native,discard=unmap,werror=stop,if=none" in text
    assert "serial=S" in text
    assert "-blockdev" not in text
    assert "{" not in text


def test_an_image_that_forgets() -> None:
    assert "snapshot=on" in shlex.join(again("-drive file=/a,format=qcow2,if=virtio,snapshot=on"))
    whole = again("-hda /a -snapshot")
    assert "-snapshot" in whole
    assert "snapshot=on" not in shlex.join(whole)


@pytest.mark.parametrize(
    ("netdev", "expected"),
    [
        ("tap,ifname=t0,script=no,downscript=no,vhost=on", "ifname=t0,script=no,downscript=no,vhost=on"),
        ("tap,ifname=t0,script=/up,downscript=/down", "ifname=t0,script=/up,downscript=/down"),
        ("bridge,br=br7", "br=br7"),
        ("tap,ifname=t0", "tap,ifname=t0,id="),  # QEMU's own programs, up and down
        ("tap,ifname=t0,script=no", "tap,ifname=t0,script=no,id="),
        ("tap,ifname=t0,downscript=no", "tap,ifname=t0,downscript=no,id="),
    ],
)
def test_taps_by_name(netdev: str, expected: str) -> None:
    text = shlex.join(again(f"-netdev {netdev},id=n -device virtio-net-pci,netdev=n"))
    assert expected in text
    assert "fd=" not in text


@pytest.mark.parametrize(
    ("netdev", "spawn"),
    [
        ("tap,ifname=t0,script=no,downscript=no", "deny"),
        ("tap,ifname=t0,script=no", "allow"),
        ("bridge,br=br7", "allow"),
        ("user", "deny"),
    ],
)
def test_the_filter_lets_qemu_run_what_it_has_to(netdev: str, spawn: str) -> None:
    text = shlex.join(again(f"-netdev {netdev},id=n -device virtio-net-pci,netdev=n"))
    assert f"spawn={spawn}" in text


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("tcp:localhost:5000", "tcp:localhost:5000"),
        ("tcp::5000,server=on,wait=off", "tcp:0.0.0.0:5000,server=on,wait=off"),
        ("telnet:localhost:5000,server=on,wait=off", "telnet:localhost:5000,server=on,wait=off"),
        ("unix:/s,server=on,wait=off", "unix:/s,server=on,wait=off"),
        ("file:/log", "file:/log"),
        ("pty", "pty"),
    ],
)
def test_ports_of_the_machine(given: str, word: str) -> None:
    made = again(f"-serial {given} -parallel null -serial vc")
    assert [made[at + 1] for at, said in enumerate(made) if said == "-serial"] == [word, "vc"]
    assert made[made.index("-parallel") + 1] == "null"
    assert "-chardev" not in made


@pytest.mark.parametrize(
    "line",
    [
        "-chardev socket,id=c,host=h,port=1,reconnect=3 -device isa-serial,chardev=c",
        "-chardev file,id=c,path=/a,append=on -device isa-serial,chardev=c",
        "-chardev pty,id=c,logfile=/l -device isa-serial,chardev=c",
        "-chardev pty,id=c -device isa-serial,chardev=c,index=1",
        "-chardev pty,id=c -device pci-serial,chardev=c",
    ],
)
def test_ports_that_need_more_than_a_word(line: str) -> None:
    made = again(line)
    assert "-serial" not in made
    assert "-chardev" in made


def test_a_mainframes_devices_count_their_numbers() -> None:
    made = exported(imported(
        "qemu-system-s390x -nodefaults -netdev user,id=n -device virtio-net-ccw,netdev=n"
        " -drive if=none,id=d,file=/a,format=raw -device virtio-blk-ccw,drive=d", offers_kvm=False
    ))  # fmt: skip
    devices = [made[at + 1].split(",")[0] for at, said in enumerate(made) if said == "-device"]
    assert devices == ["virtio-net-ccw", "virtio-blk-ccw"]
    assert "devno" not in shlex.join(made)
    said = exported(imported(
        "qemu-system-s390x -nodefaults -netdev user,id=n -device virtio-net-ccw,netdev=n,devno=fe.0.0007",
        offers_kvm=False,
    ))  # fmt: skip
    assert "devno=fe.0.0007" in shlex.join(said)


def test_usb_ports_are_said_where_qemu_would_choose_others() -> None:
    three = " -device usb-tablet,bus=x.0" * 3
    assert "port=" not in "".join(w for w in again(f"-device qemu-xhci,id=x{three}") if w.startswith("usb-"))
    full = again(f"-device qemu-xhci,id=x{three} -device usb-kbd,bus=x.0")
    assert "port=4" in shlex.join(full)
    assert "port=3" in shlex.join(again("-device qemu-xhci,id=x -device usb-tablet,bus=x.0,port=3"))


def test_a_boards_own_number_of_cpus_is_not_said() -> None:
    assert "-smp" not in exported(imported("qemu-system-aarch64 -M raspi3b", offers_kvm=False))
    assert "-smp" in exported(imported("qemu-system-aarch64 -M raspi3b -smp 4", offers_kvm=False))


def test_huge_pages_are_the_mounts() -> None:
    text = shlex.join(again(
        "-m 1G -object memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages,share=on -numa node,memdev=m"
    ))  # fmt: skip
    assert "mem-path=/dev/hugepages," in text


def test_what_only_a_daemon_needs_is_left_out() -> None:
    made = again("-device virtio-rng-pci")
    text = shlex.join(made)
    assert "masterKey0" not in text
    assert "charmonitor" not in text
    assert "rng-builtin" not in text
    assert not {"-S", "-no-shutdown", "-mon"} & set(made)
    assert "driver=virtio-rng-pci" in text or "virtio-rng-pci,id=" in text


@pytest.mark.parametrize(("machine", "controller"), [("pc", "piix3-usb-uhci"), ("q35", "ich9-usb-ehci1")])
def test_the_chipsets_own_usb_is_a_word(machine: str, controller: str) -> None:
    text = shlex.join(again(f"-M {machine} -usb -device usb-tablet"))
    assert controller not in text
    assert "usb=on" in text
    assert "bus=usb-bus.0" in text


def test_usb_devices_and_host_devices() -> None:
    text = shlex.join(
        again(
            "-device qemu-xhci -device vfio-pci,host=01:00.0,x-vga=on -device usb-host,vendorid=1,productid=2"
        )
    )
    assert "usb-host,vendorid=0x0001,productid=0x0002," in text
    assert "vfio-pci,host=01:00.0," in text
    assert "x-vga=on" in text


def test_names() -> None:
    assert parse_dialect("plain") == Plain()
    assert parse_dialect("0.12") == (0, 12, 0)
    with pytest.raises(InvalidArg, match="dialect 'plane'"):
        parse_dialect("plane")


@pytest.mark.parametrize(
    "file",
    [
        "https://host/a.iso",
        "gluster://host/v/a",
        "ssh://host/a",
        "nfs://host/x/a",
        "rbd:p/i",
        "iscsi://h/iqn.2000:x/1",
    ],
)
def test_images_on_servers_are_said_without_what_is_usual(file: str) -> None:
    assert f"-drive file={file},format=raw,if=none" in shlex.join(
        again(f"-drive file={file},format=raw,if=virtio")
    )


def test_formats_have_qemus_names() -> None:
    assert "format=vhdx" in shlex.join(again("-drive file=/a,format=vhdx,if=virtio"))


def test_the_beeper_and_the_floppy_drive() -> None:
    text = shlex.join(again("-fda /a -hda /b -boot ac -M pc,pcspk-audiodev=s -audiodev none,id=s"))
    assert "-machine pcspk-audiodev=audio1" in text
    assert "-boot order=ac,strict=on" in text
    assert "bootindex" not in text


def test_character_devices_that_have_a_name_everywhere() -> None:
    text = shlex.join(again(
        "-spice port=5900,disable-ticketing=on -device qemu-xhci"
        " -chardev spicevmc,id=a,name=usbredir -device usb-redir,chardev=a"
        " -chardev socket,id=b,path=/s -device vhost-user-fs-pci,chardev=b,tag=t"
        " -m 64 -object memory-backend-memfd,id=m,size=64M,share=on -machine memory-backend=m"
    ))  # fmt: skip
    assert "-chardev spicevmc,id=usbredirchardev1" in text
    assert "usb-redir,chardev=usbredirchardev1" in text
    assert "vhost-user-fs-pci,id=fs0,chardev=char0" in text


def test_usb_ports_of_the_chipset_are_counted_by_qemu() -> None:
    text = shlex.join(again("-M q35 -usb -device usb-host,vendorid=1,productid=2"))
    assert "bus=usb-bus.0" in text
    assert "port=" not in text


def test_memory_in_files_is_where_one_has_it() -> None:
    assert "mem-path=/dev/shm" in shlex.join(again(
        "-m 64 -object memory-backend-file,id=m,size=64M,mem-path=/x,share=on -numa node,memdev=m"
    ))  # fmt: skip


def test_users_names_are_as_they_were_typed() -> None:
    text = shlex.join(again(
        "-device ich9-usb-ehci1,id=ehci,addr=1d.7,multifunction=on"
        " -device ich9-usb-uhci1,masterbus=ehci.0,firstport=0,addr=1d.0,multifunction=on"
    ))  # fmt: skip
    assert "ich9-usb-ehci1,id=ehci," in text
    assert "masterbus=ehci.0" in text
    # what is handed on knows the device by its name in XML
    text = shlex.join(again("-device usb-ehci,id=e -device usb-wacom-tablet,bus=e.0"))
    assert "usb-ehci,id=ua-e," in text
    assert '"bus":"ua-e.0"' in text
