"""Command lines that somebody got wrong: read whole or refused, never half, and never with a crash."""

import shlex
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvirt.errors import InvalidArg, QvirtError
from qvirt.model.domain import parse_domain
from qvirt.qemu.complete import complete
from qvirt.qemu.importer.options import FLAGS, OPTS, WORDS
from tests.support import pure
from tests.unit.qemu.importer.lines import imported

LINES = (
    "qemu-system-x86_64 -M q35 -cpu max,+aes,hv_time -smp 4,sockets=2 -m 2G,slots=2,maxmem=4G -hda /a.qcow2"
    " -cdrom /b.iso -boot order=dc,menu=on -nic user,hostfwd=tcp::2222-:22 -vga qxl -usb -device usb-tablet",
    "kvm -name g,process=p -uuid c7a5fdbd-cdaf-9455-926a-d65c16db1809 -rtc base=localtime,driftfix=slew"
    " -smbios type=1,manufacturer=M,uuid=c7a5fdbd-cdaf-9455-926a-d65c16db1809 -serial tcp::5000,server=on"
    " -chardev socket,id=c,path=/s -device virtio-serial -device virtserialport,chardev=c,name=n -no-reboot",
    "qemu-system-x86_64 -m 2G"
    " -object memory-backend-ram,id=m0,size=1G -object memory-backend-ram,id=m1,size=1G"
    " -numa node,memdev=m0,cpus=0 -numa node,memdev=m1,cpus=1 -numa dist,src=0,dst=1,val=20 -smp 2"
    " -netdev tap,id=n,ifname=t0,script=no -device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01,addr=5",
    "qemu-system-x86_64 -nodefaults -blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=/d"
    " -object iothread,id=t -device virtio-blk-pci,drive=d,iothread=t,serial=S,bootindex=1"
    " -vnc :1,password=on"
    ' -device \'{"driver":"virtio-scsi-pci","id":"s"}\' -drive if=none,id=e,file=/e -device scsi-hd,drive=e',
    "qemu-system-aarch64 -M virt,gic-version=3,highmem=off -cpu cortex-a57 -bios /fw"
    " -kernel /k -append 'a,b'"
    " -device pcie-root-port,id=p,chassis=1 -device virtio-net-pci,bus=p -drive file=/d,if=virtio,cache=none",
    "qemu-system-s390x -M s390-ccw-virtio -device virtio-blk-ccw,drive=d,devno=fe.0.0002"
    " -drive id=d,if=none,file=/d",
    "qemu-system-arm -M versatilepb -kernel /k -sd /sd -net nic -net user -soundhw ac97 -redir tcp:5555::80",
)
VALUES = (
    "", "0", "-1", "on", "99999999999999999999", "4294967296", "0-99999999999", "0x10", "1.5", "none", "a,b",
    "{", "{}", '"', "é", "\n", "/", "..", "=", "unix:", "tcp:", "tcp:h", "1e3", "3-1", "01:00.0", "fe.0.ffff",
)  # fmt: skip
_ALL = [shlex.split(line) for line in LINES]
_ANY = sorted({word for words in _ALL for word in words[1:]} | set(VALUES))
_NAMES = sorted(f"-{name}" for name in FLAGS | WORDS | OPTS.keys())


@st.composite
def _wrong(draw: st.DrawFn) -> list[str]:
    """Return a line with up to four things wrong with it."""
    program, *words = draw(st.sampled_from(_ALL))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(words) - 1)))
        match draw(st.integers(0, 5)):
            case 0:
                words[at : at + 1] = []
            case 1:
                words.insert(at, draw(st.sampled_from(_ANY)))
            case 2:
                words[at:at] = [draw(st.sampled_from(_NAMES)), draw(st.sampled_from(_ANY))]
            case 3 if words:
                words.insert(at, words[draw(st.integers(0, len(words) - 1))])
            case _ if words:
                words[at] = _spoilt(draw, words[at])
    return [program, *words]


def _spoilt(draw: st.DrawFn, word: str) -> str:
    parts = word.split(",")
    at = draw(st.integers(0, len(parts) - 1))
    key, _, value = parts[at].partition("=")
    said = draw(st.sampled_from(VALUES))
    parts[at : at + 1] = draw(
        st.sampled_from(([], [f"{key}={said}"], [f"{said}={value}"], [parts[at], parts[at]], [said]))
    )
    return ",".join(parts)


@settings(deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(_wrong(), st.booleans())
def test_a_wrong_line_is_read_whole_or_refused(words: Sequence[str], offers_kvm: bool) -> None:
    try:
        made = imported(shlex.join(words), offers_kvm=offers_kvm)  # every argument is accounted for
    except QvirtError:
        return
    domain = parse_domain(made.domain.to_xml(), validate=True)
    complete(domain, pure.context(domain))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-smp 4294967296", "-smp cpus=4294967296"),
        ("-numa node,cpus=0-99999999999", "cpus=0-99999999999: no machine has such CPUs"),
        ("-numa node,cpus=3-1", "cpus=3-1"),
        ("-uuid 12", "-uuid 12: expected a UUID such as"),
    ],
)
def test_numbers_no_machine_has_are_refused_at_once(line: str, said: str) -> None:
    with pytest.raises(InvalidArg, match=said):
        imported(f"qemu-system-x86_64 {line}")


def test_nodes_that_say_too_little_are_handed_on() -> None:
    made = imported("qemu-system-x86_64 -numa dist,src=0 -numa node")
    assert made.domain.cpu is None or made.domain.cpu.numa is None
    assert made.domain.qemu_commandline is not None
