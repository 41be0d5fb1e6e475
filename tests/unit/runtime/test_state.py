"""Status files: written and read back, foreign ones read, damaged ones refused."""

import pytest

from qvirt.constants.domain import DomainPausedReason, DomainRunningReason, DomainState
from qvirt.errors import QvirtError
from qvirt.record import fields
from qvirt.runtime.documents import header
from qvirt.runtime.state import REASON_WORDS, STATE_WORDS, Footprint, HelperMark, Status, read_status
from qvirt.security.loans import Loan

LIVE = "<domain type='qemu' id='7'>\n  <name>a&amp;b</name>\n  <uuid>x</uuid>\n</domain>\n"


def status() -> Status:
    return Status(
        name="a&b",
        id=7,
        state=DomainState.PAUSED,
        reason=DomainPausedReason.IOERROR,
        stage="running",
        xml=LIVE,
        inactive_xml="<domain type='qemu'>\n  <name>a&amp;b</name>\n</domain>\n",
        monitor="/lib/domain-7-a&b/monitor.sock",
        pid=123,
        start_time=456,
        boot_id="boot",
        folder="/lib/domain-7-a&b",
        vcpu_pids=[124, 125],
        taints=["custom-monitor"],
        footprint=Footprint(
            ["/lib/d"],
            ["/run/a.pid"],
            [5900, 5901],
            [Loan("/img", "+0:+5", "+64055:+7")],
            ["macvtap0"],
            helpers=[
                HelperMark("fs0-virtiofsd", 12, 34, "/log/a&b-fs0.log", ["/lib/d/fs0-fs.sock", "/run/a.pid"]),
                HelperMark("swtpm"),
            ],
        ),
        fake_reboot=True,
        autodestroy=True,
        clock_base=-3600,
        vcpus_gone=2,
    )


def test_what_is_written_is_read_back() -> None:
    first = status()
    again = read_status(first.to_text(header("a&b", "x")), "(test)")
    assert again.xml.startswith('<domain type="qemu" id="7">')
    assert "<name>a&amp;b</name>" in again.inactive_xml
    for name in fields(Status):
        if name not in ("xml", "inactive_xml"):
            assert getattr(again, name) == getattr(first, name), name


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\rb", "a 'b' \"c\" <&>", "ä\x85\u2028"])
def test_a_file_of_any_name_is_the_same_file_later(name: str) -> None:
    first = status()
    first.footprint.files = [f"/{name}"]
    first.footprint.loans = [Loan(f"/{name}", "+0:+5", "+64055:+7")]
    again = read_status(first.to_text(header("a&b", "x")), "(test)")
    assert again.footprint.files == [f"/{name}"]
    assert again.footprint.loans[0].path == f"/{name}"


def test_libvirts_own_file_is_read() -> None:
    text = """<domstatus state='running' reason='booted' pid='26209'>
  <monitor path='/var/lib/libvirt/qemu/domain-1-orc1/monitor.sock' type='unix'/>
  <namespaces><mount/></namespaces>
  <vcpus><vcpu id='0' pid='26215'/></vcpus>
  <qemuCaps><flag name='kvm'/></qemuCaps>
  <domain type='qemu' id='1'><name>orc1</name></domain>
</domstatus>"""
    found = read_status(text, "(test)")
    assert (found.state, found.reason) == (DomainState.RUNNING, DomainRunningReason.BOOTED)
    assert (found.pid, found.start_time, found.version, found.stage) == (26209, 0, 0, "running")
    assert found.folder == "/var/lib/libvirt/qemu/domain-1-orc1"
    again = found.to_text("")
    assert '<qemuCaps><flag name="kvm"/></qemuCaps>' in again
    assert "<namespaces><mount/></namespaces>" in again


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domstatus",
        "<domain/>",
        "<domstatus state='running' pid='1'><domain id='1'><name>x</name></domain></domstatus>",
        "<domstatus state='odd' pid='1'><monitor path='/m'/><domain><name>x</name></domain></domstatus>",
    ],
)
def test_damaged_files_are_refused(text: str) -> None:
    with pytest.raises(QvirtError):
        read_status(text, "(test)")


def test_words_are_unambiguous() -> None:
    assert len(set(STATE_WORDS.values())) == len(STATE_WORDS)
    for words in REASON_WORDS.values():
        assert len(set(words.values())) == len(words)
    assert REASON_WORDS[DomainState.PAUSED][DomainPausedReason.STARTING_UP] == "starting up"


def test_header_names_what_is_safe_in_a_shell() -> None:
    assert "virsh edit web-1\n" in header("web-1", "uuid-of-it")
    assert "virsh edit uuid-of-it\n" in header("a; rm", "uuid-of-it")
