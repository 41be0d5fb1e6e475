"""A console and a channel as streams: by python3-libvirt, and by virsh on a terminal."""

# ruff: noqa: E501 - the scripts quote whole messages

import contextlib
import os
import pty
import re
import select
import subprocess
import time

import pytest

from tests.functional.api.documents import AGENT, CONSOLE, PRELUDE, domain
from tests.support.daemon import PATIENCE, Daemon
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

EXCHANGE = """
import signal

def exchange(stream, send, wanted):
    if send:
        stream.send(send)
    got = b""
    while wanted not in got:
        part = stream.recv(4096)
        assert part, ("the stream has ended", got[-500:])
        got += part
    return got

# What does not come in time kills the script.
signal.alarm(100)
"""


def test_one_user_at_a_time(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + EXCHANGE
        + """
d = conn.createXML(sys.argv[1])
one = conn.newStream()
d.openConsole(None, one)
busy = (9, 10, "operation failed: Active console session exists for this domain")
same(fails(d.openConsole, None, conn.newStream()), busy)
absent = (1, 10, "internal error: cannot find character device serial9")
same(fails(d.openConsole, "serial9", conn.newStream()), absent)
two = conn.newStream()
d.openConsole("serial0", two, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
same(one.recv(100), b"")            # taken over: the first one is at its end
one.abort()
two.send(b"hello")
two.finish()
three = conn.newStream()
d.openConsole(None, three, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
three.abort()
same(fails(d.openChannel, "nobody", conn.newStream()), (1, 10, "internal error: cannot find channel nobody"))
last = conn.newStream()
d.openConsole(None, last)
d.destroy()
same(last.recv(100), b"")           # the guest is gone
last.abort()
""",
        domain("console", CONSOLE + AGENT),
    )


def test_a_session_in_a_real_guest(daemon: Daemon, linux: Guest) -> None:
    document = f"""<domain type='qemu'><name>shell</name>
    <memory unit='MiB'>256</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{linux.kernel}</kernel><initrd>{linux.initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=1</cmdline></os><features><acpi/></features>
    <on_reboot>destroy</on_reboot>
    <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{CONSOLE}</devices></domain>"""
    daemon.python(
        PRELUDE
        + EXCHANGE
        + """
d = conn.createXML(sys.argv[1])
stream = conn.newStream()
d.openConsole(None, stream)
exchange(stream, b"", b"# ")
answer = exchange(stream, b"echo $((6 * 7))\\n", b"42")
stream.finish()
d.destroy()
""",
        document,
    )


def test_virsh_console(daemon: Daemon, linux: Guest) -> None:
    document = daemon.root / "c.xml"
    document.write_text(
        f"""<domain type='qemu'><name>typed</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{linux.kernel}</kernel><initrd>{linux.initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=1</cmdline></os>
    <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{CONSOLE}</devices></domain>"""
    )
    daemon.virsh("create", str(document))
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        ["virsh", "-c", daemon.uri, "console", "typed"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
    )
    os.close(terminal)
    try:
        seen = read_until(controller, rb"Escape character is \^\]")
        os.write(controller, b"\n")
        read_until(controller, rb"# ")
        os.write(controller, b"echo $((1000 + 337))\n")
        seen = read_until(controller, rb"\n1337")
        assert b"1337" in seen
        os.write(controller, b"\x1d")
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(controller)
        daemon.virsh("destroy", "typed")


def read_until(fd: int, pattern: bytes, patience: float = 60.0) -> bytes:
    """Read a terminal until a pattern shows."""
    seen, end = b"", time.monotonic() + patience
    while not re.search(pattern, seen):
        assert time.monotonic() < end, (pattern, seen[-1000:])
        if select.select([fd], [], [], 1)[0]:
            with contextlib.suppress(OSError):
                seen += os.read(fd, 4096)
    return seen
