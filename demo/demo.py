"""Boot a real Linux guest on a private qvirtd, use its console, shut it down, leave nothing behind.

Two faces are used: the asyncio client, and commands (``qvirt``, and ``virsh`` where it is installed).
"""

import asyncio
import re
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from qvirt.client.aio import Connection
from qvirt.client.domain import Domain
from qvirt.client.stream import Stream
from qvirt.constants import DomainState
from tests.support.daemon import Daemon, running_daemon
from tests.support.floor import bare_start
from tests.support.guest import Guest, MissingGuest, guest

#: seconds; a guest under software emulation on a slow machine takes a while
BOOT = 90.0
KVM_BOOT = 6.0
QUERY = re.compile(rb"\x1b\[[0-9;]*[a-zA-Z]")
BOLD, CYAN, PLAIN = ("\033[1m", "\033[36m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def document(kind: str, emulator: str, linux: Guest) -> str:
    """Return the guest's domain XML."""
    return f"""\
<domain type='{kind}'>
  <name>demo</name>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{linux.kernel}</kernel>
    <initrd>{linux.initrd}</initrd>
    <cmdline>{linux.cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{emulator}</emulator>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


def step(text: str) -> None:
    print(f"\n{BOLD}-- {text}{PLAIN}", flush=True)


class Console:
    """The guest's serial console: what it prints is shown and can be waited for."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.seen = b""
        self._unshown = b""

    async def until(self, text: bytes, patience: float) -> bytes:
        """Show what comes until ``text``, and return it."""
        async with asyncio.timeout(patience):
            while text not in self.seen:
                got = await self.stream.read()
                if not got:
                    raise EOFError(f"the console ended before {text!r}")
                self.seen += got
                self._show(got)
        before, _, self.seen = self.seen.partition(text)
        return QUERY.sub(b"", before)

    def _show(self, got: bytes) -> None:
        # an escape sequence may come in pieces: what follows the last escape waits for its end
        text = QUERY.sub(b"", self._unshown + got).replace(b"\r", b"")
        shown, escape, rest = text.partition(b"\x1b")
        self._unshown = escape + rest
        print(CYAN + shown.decode(errors="replace") + PLAIN, end="", flush=True)

    async def ask(self, command: str) -> str:
        """Type a command and return the lines of its answer."""
        await self.stream.write(command.encode() + b"\n")
        answer = (await self.until(b"guest# ", 20)).decode(errors="replace")
        return "\n".join(answer.replace("\r", "").split("\n")[1:]).strip()


async def kvm_boots(conn: Connection, emulator: str, linux: Guest) -> bool:
    """Tell whether a guest gets anywhere under KVM: /dev/kvm may be there and yet run nothing."""
    xml = document("kvm", emulator, linux).replace("<name>demo", "<name>demo-kvm")
    from qvirt.errors import QvirtError

    try:
        domain = await conn.create_xml(xml)
    except QvirtError as error:
        print(f"   KVM: no ({error.message.splitlines()[0][:110]})")
        return False
    try:
        console = Console(await domain.open_console())
        await console.until(b"ready", KVM_BOOT)
    except (TimeoutError, EOFError, QvirtError):
        print(f"   KVM: /dev/kvm is there, but the guest printed nothing within {KVM_BOOT:g} s")
        return False
    else:
        return True
    finally:
        with suppress(QvirtError):
            await domain.destroy()


async def boot(conn: Connection, domain: Domain) -> tuple[float, float]:
    """Start the guest and use its console; return the seconds of the start and of the boot to a prompt."""
    begin = time.perf_counter()
    await domain.create()
    started = time.perf_counter() - begin
    console = Console(await domain.open_console())
    await console.until(b"guest# ", BOOT)
    booted = time.perf_counter() - begin
    answer = await console.ask("uname -srm; nproc")
    if not answer.startswith("Linux"):
        raise AssertionError(f"the guest answered {answer!r}")
    await console.stream.abort()
    return started, booted


def command(daemon: Daemon, *words: str) -> None:
    """Run a command and show what it says."""
    print(f"$ {' '.join(words)}")
    done = subprocess.run(
        [*words[:1], "-c", daemon.uri, *words[1:]], capture_output=True, text=True, check=False
    )
    print(done.stdout.rstrip() or done.stderr.rstrip())


async def run(daemon: Daemon, linux: Guest, emulator: str) -> None:
    """Do the whole demonstration on a running daemon."""
    qvirt = str(Path(sys.executable).parent / "qvirt")
    async with await Connection.open(daemon.uri) as conn:
        step("which acceleration really boots a guest here?")
        kind = "kvm" if Path("/dev/kvm").exists() and await kvm_boots(conn, emulator, linux) else "qemu"
        print(f"   using type='{kind}'" + (" (software emulation)" if kind == "qemu" else ""))

        step("define and start a guest, and talk to its serial console")
        domain = await conn.define_xml(document(kind, emulator, linux))
        events = await conn.subscribe("domain", "LIFECYCLE")
        started, booted = await boot(conn, domain)

        step("two faces of the same daemon")
        command(daemon, qvirt, "list", "--all")
        if shutil.which("virsh"):
            command(daemon, "virsh", "domstate", "demo", "--reason")

        step("ask the guest to shut down (ACPI power button)")
        begin = time.perf_counter()
        await domain.shutdown()
        while (await domain.state())[0] != DomainState.SHUTOFF:
            if await events.next(within=BOOT) is None:
                raise AssertionError("the guest did not shut down")
        stopped = time.perf_counter() - begin
        await domain.undefine()
        await events.close()

        step("how fast is a start? five paused starts, each beside QEMU alone with the same devices")
        floors, starts = [], []
        same_devices = ["-kernel", str(linux.kernel), "-initrd", str(linux.initrd), "-append", linux.cmdline]
        xml = document(kind, emulator, linux)
        for _ in range(5):
            floors.append(await asyncio.to_thread(bare_start, emulator, *same_devices))
            begin = time.perf_counter()
            again = await conn.create_xml(xml, 1)
            starts.append(time.perf_counter() - begin)
            await again.destroy()
        floor, create = statistics.median(floors), statistics.median(starts)

    step("what happened")
    print(f"   start (create answered)     {started * 1e3:8.0f} ms")
    print(f"   power on to shell prompt    {booted * 1e3:8.0f} ms")
    print(f"   shutdown to off             {stopped * 1e3:8.0f} ms")
    print(f"   a paused start, median      {create * 1e3:8.0f} ms")
    print(f"   QEMU alone, median          {floor * 1e3:8.0f} ms   ({create / floor:.2f} of it)")


def main() -> int:
    try:
        linux = guest()
    except MissingGuest as reason:
        print(f"no guest to boot: {reason}", file=sys.stderr)
        return 1
    emulator = shutil.which("qemu-system-x86_64")
    if emulator is None:
        print(
            "qemu-system-x86_64 is not installed (as root: apt-get install qemu-system-x86)", file=sys.stderr
        )
        return 1
    step("a private qvirtd")
    with running_daemon() as daemon:
        print(f"   qvirtd --root {daemon.root}")
        asyncio.run(run(daemon, linux, emulator))
        root = daemon.root
    left = root.exists() or bool(daemon.qemu_pids())
    print("   left behind: " + ("SOMETHING" if left else "nothing"))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
