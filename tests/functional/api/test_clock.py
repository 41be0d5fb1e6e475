"""The host's clock jumps by years while guests run and clients wait: nobody but the logs notices."""

import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.api.documents import PRELUDE, domain
from tests.support.daemon import Daemon, make_root, wait_until

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.skipif(LIBRARY is None, reason="needs Debian's libfaketime"),
]

JUMPS = ("-3000d", "+3000d", "+0")

CLIENT = (
    PRELUDE.replace("@atexit.register", "")
    + """
import threading
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
conn = libvirt.open(conn.getURI())
conn.setKeepAlive(1, 3)
heard = []
conn.domainEventRegisterAny(None, 0, lambda c, d, event, detail, o: heard.append((d.name(), event)), None)
print("ready", flush=True)
for line in sys.stdin:
    assert conn.isAlive()
    d = conn.createXML(sys.argv[1])
    d.suspend(); d.resume(); d.destroy()
    wanted = [("jumper", event) for event in (4, 2, 3, 4, 6, 5)]
    until(lambda: len(heard) >= len(wanted), "the events")
    same(heard, wanted)
    heard.clear()
    assert conn.getAllDomainStats()
    same(conn.lookupByName("stays").state()[0], 1)
    print("fine", flush=True)
"""
)


@pytest.fixture
def clock() -> Iterator[tuple[Daemon, Path]]:
    """A daemon whose clock is what a file says; how long things take it measures as always."""
    root = make_root()
    said = root / "clock"
    said.write_text("+0")
    daemon = Daemon(
        root,
        prefix=(
            "env",
            f"LD_PRELOAD={LIBRARY}",
            f"FAKETIME_TIMESTAMP_FILE={said}",
            "FAKETIME_NO_CACHE=1",
            "DONT_FAKE_MONOTONIC=1",
        ),
    )
    try:
        yield daemon.start(), said
    finally:
        daemon.clean()


def test_a_clock_that_jumps(clock: tuple[Daemon, Path]) -> None:
    daemon, said = clock
    daemon.python("conn.createXML(sys.argv[1])", domain("stays"))
    number, pids = daemon.virsh("domid", "stays"), daemon.qemu_pids()
    xml = domain("jumper")
    client = subprocess.Popen(
        [
            "/usr/bin/python3",
            "-c",
            f"import sys, libvirt\nconn = libvirt.open({daemon.uri!r})\n{CLIENT}",
            xml,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(60, client.kill)
    killer.start()
    try:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        for jump in JUMPS:
            said.write_text(jump)
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline() == "fine\n", jump
    finally:
        killer.cancel()
        client.kill()
        client.communicate()
    # the log of the guest shows that the clock did jump
    log = (daemon.root / "var/log/libvirt/qemu/jumper.log").read_text()
    years = [int(year) for year in re.findall(r"^(\d{4})-\d\d-\d\d .*: starting up", log, re.MULTILINE)]
    assert len(years) == len(JUMPS)
    assert years[0] < years[2] < years[1]
    # and a daemon that comes back in another year finds what it left
    for jump in JUMPS:
        daemon.kill()
        said.write_text(jump)
        daemon.start()
        assert (daemon.virsh("domid", "stays"), daemon.qemu_pids()) == (number, pids), jump
        assert daemon.virsh("domstate", "stays").strip() == "running"
    daemon.virsh("destroy", "stays")
    wait_until(lambda: not daemon.qemu_pids(), "the guest is gone")
