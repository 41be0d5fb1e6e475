"""Starts that something on the host is in the way of: an error that names it, and nothing left behind."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.api.documents import domain
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


def disk(path: Path, more: str = "") -> str:
    return f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/>
    <source file='{path}'>{more}</source><target dev='vda' bus='virtio'/></disk>"""


def image(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(b"\0" * (1 << 20))
    path.chmod(mode)
    return path


def refusal(daemon: Daemon, devices: str) -> str:
    """Start what must fail; gives what virsh says. Nothing is left of it."""
    daemon.virsh("list")  # it takes connections before it has made its folders
    before = traces(daemon)
    document = daemon.root / "refused.xml"
    document.write_text(domain("refused", devices))
    done = daemon.virsh_run("create", str(document), "--paused")
    assert done.returncode == 1
    assert "refused" not in daemon.virsh("list", "--all", "--name").split()
    assert traces(daemon) == before
    return done.stderr


def traces(daemon: Daemon) -> tuple[list[str], list[int]]:
    """Return what starts make: files of runs, processes."""
    folders = [daemon.root / "run/libvirt/qemu", daemon.root / "var/lib/libvirt/qemu"]
    files = [str(path) for folder in folders for path in folder.rglob("*") if "autostarted" not in path.name]
    return sorted(files), daemon.qemu_pids()


def test_an_image_that_is_missing(daemon: Daemon) -> None:
    path = daemon.root / "missing.img"
    said = refusal(daemon, disk(path))
    assert f"Cannot access storage file '{path}'" in said
    assert "No such file or directory" in said


@pytest.mark.root
def test_an_image_in_a_folder_that_qemu_cannot_search(daemon: Daemon) -> None:
    folder = daemon.root / "closed"
    folder.mkdir(mode=0o700)
    (folder / "open").mkdir()
    path = image(folder / "open/disk.img", 0o666)
    said = refusal(daemon, disk(path))
    assert f"Cannot access storage file '{path}'" in said
    assert f"directory '{folder}' cannot be searched by QEMU's user" in said
    assert "chmod o+x" in said
    assert path.stat().st_uid == 0


@pytest.mark.root
def test_an_image_that_qemu_may_not_read(daemon: Daemon) -> None:
    path = image(daemon.root / "closed.img")
    said = refusal(daemon, disk(path, "<seclabel model='dac' relabel='no'/>"))
    assert f"Cannot access storage file '{path}'" in said
    assert "Permission denied" in said


def test_an_image_that_another_guest_writes(daemon: Daemon) -> None:
    path = image(daemon.root / "locked.img")
    document = daemon.root / "first.xml"
    document.write_text(domain("first", disk(path)))
    owner = path.stat().st_uid
    daemon.virsh("create", str(document), "--paused")
    try:
        said = refusal(daemon, disk(path))
        assert 'Failed to get "write" lock' in said
        assert str(path) in said
        assert "This comes from <disk> (line " in said
        # the one that has it goes on with it
        assert daemon.virsh("domstate", "first").strip() == "paused"
        daemon.virsh("resume", "first")
        assert daemon.virsh("domblkerror", "first").strip() == "No errors found"
    finally:
        daemon.virsh("destroy", "first")
    assert path.stat().st_uid == owner


@pytest.fixture
def taken() -> Iterator[int]:
    """A TCP port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_port_that_is_taken(daemon: Daemon, taken: int) -> None:
    for device, element in (
        (f"<graphics type='vnc' port='{taken}' autoport='no'/>", "graphics"),
        (
            f"<serial type='tcp'><source mode='bind' host='127.0.0.1' service='{taken}'/>"
            "<protocol type='raw'/></serial>",
            "serial",
        ),
    ):
        said = refusal(daemon, device)
        assert "Address already in use" in said
        assert f"This comes from <{element}> (line " in said


def listening_on(path: Path) -> str:
    return f"<serial type='unix'><source mode='bind' path='{path}'/></serial>"


def test_a_socket_that_is_taken(daemon: Daemon) -> None:
    path = daemon.root / "taken.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        said = refusal(daemon, listening_on(path))
        assert f"Failed to bind socket to {path}" in said
        assert "Address already in use" in said
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # it is still the other's
    # what nobody listens on any more is replaced
    assert path.is_socket()
    document = daemon.root / "replaces.xml"
    document.write_text(domain("replaces", listening_on(path)))
    daemon.virsh("create", str(document), "--paused")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    daemon.virsh("destroy", "replaces")


def test_a_file_where_a_socket_should_be(daemon: Daemon) -> None:
    path = daemon.root / "notes.txt"
    path.write_text("of value")
    said = refusal(daemon, listening_on(path))
    assert f"Failed to bind socket to {path}" in said
    assert "is no socket" in said
    assert path.read_text() == "of value"


def test_nobody_at_the_other_end(daemon: Daemon) -> None:
    path = daemon.root / "nobody.sock"
    said = refusal(daemon, f"<serial type='unix'><source mode='connect' path='{path}'/></serial>")
    assert str(path) in said
    assert "No such file or directory" in said


def test_a_daemon_whose_socket_is_somebody_elses(own_daemon: Daemon) -> None:
    own_daemon.stop()
    own_daemon.socket.write_text("of value")
    with pytest.raises(AssertionError, match="exists and is no socket"):
        own_daemon.start()
    own_daemon.process = None
    assert own_daemon.socket.read_text() == "of value"
    own_daemon.socket.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(own_daemon.socket))
        sock.listen()
        own_daemon.log.unlink()
        own_daemon.options = ("--verbose",)
        process = own_daemon.run_to_the_end()
        assert process.returncode == 1
        assert "another daemon answers on" in process.stderr
    own_daemon.start()
    assert "QEMU" in own_daemon.virsh("version")
