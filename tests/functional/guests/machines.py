"""Documents of guests that really boot, and their shell by ``virsh console`` on a terminal."""

import contextlib
import errno
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

PROMPT = rb"guest# "
#: seconds; software emulation, and another test beside on the other core
BOOT = 120.0
ANSWER = 30.0

#: what terminals are asked and told: cursor position, colours
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")

CONSOLE = "<serial type='pty'/>"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def linux_xml(
    linux: Guest,
    name: str,
    devices: str = "",
    extra: str = "",
    *,
    machine: str = "pc",
    arch: str = "x86_64",
    emulator: str = "/usr/bin/qemu-system-x86_64",
    cmdline: str = "",
    memory: int = 192,
    vcpus: str = "<vcpu>1</vcpu>",
    features: str = "<features><acpi/><apic/></features>",
    loader: str = "",
    firmware: str = "",
) -> str:
    """Make a document of a Linux guest with its console on the first serial port; memory in MiB."""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  {vcpus}
  <os{firmware}>
    <type arch='{arch}' machine='{machine}'>hvm</type>
    {loader}
    <kernel>{linux.kernel}</kernel>
    <initrd>{linux.initrd}</initrd>
    <cmdline>{linux.cmdline} {cmdline}</cmdline>
  </os>
  {features}
  {extra}
  <devices>
    <emulator>{emulator}</emulator>
    {CONSOLE}
    {devices}
  </devices>
</domain>"""


def write(daemon: Daemon, name: str, text: str) -> str:
    """Put a document into the daemon's tree and return its path."""
    path = daemon.root / f"{name}.xml"
    path.write_text(text)
    return str(path)


class Shell:
    """A guest's console by ``virsh console``, on a terminal of its own."""

    def __init__(self, daemon: Daemon, name: str, *words: str) -> None:
        self.seen = b""
        self._controller, terminal = pty.openpty()
        try:
            self._process = subprocess.Popen(
                ["virsh", "-c", daemon.uri, "console", name, *words],
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        finally:
            os.close(terminal)

    def until(self, pattern: bytes, patience: float = ANSWER) -> bytes:
        """Read until a pattern shows; return what came before it. Raises AssertionError when it does not."""
        assert self._shows(pattern, patience), (
            f"no {pattern!r} within {patience} s after {self.seen[-2000:]!r}"
        )
        found = re.search(pattern, self.seen)
        assert found is not None
        before, self.seen = self.seen[: found.start()], self.seen[found.end() :]
        return before

    def _shows(self, pattern: bytes, patience: float) -> bool:
        end = time.monotonic() + patience
        while re.search(pattern, self.seen) is None:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if not select.select([self._controller], [], [], left)[0]:
                continue
            try:
                got = os.read(self._controller, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                got = b""  # how a terminal says that nobody has it open
            assert got, f"the console ended without {pattern!r} after {self.seen[-2000:]!r}"
            self.seen = _ESCAPES.sub(b"", self.seen + got)
        return True

    def booted(self) -> "Shell":
        """Wait for the guest's prompt, also where it showed before anybody listened."""
        self.type_until("", PROMPT, BOOT)
        return self

    def type_until(self, text: str, pattern: bytes, patience: float = ANSWER) -> None:
        """Type a line again and again: what is typed before virsh has the terminal is thrown away."""
        end = time.monotonic() + patience
        while not self._shows(pattern, 1.0):
            assert time.monotonic() < end, f"no {pattern!r} within {patience} s after {self.seen[-2000:]!r}"
            self.type(text)

    def boots_again(self) -> "Shell":
        """Wait for the prompt of the next boot; the one before has to be read."""
        self.until(rb"guest login: ready", BOOT)
        self.until(PROMPT, BOOT)
        return self

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._controller, text.encode() + b"\n")

    def ask(self, command: str, patience: float = ANSWER) -> str:
        """Type a command and return what it prints."""
        # the marks are not in what the terminal echoes
        end = "" if command.endswith("&") else ";"
        self.type(f"echo be''gin; {command}{end} echo; echo en''d")
        self.until(rb"\nbegin\r?\n", patience)
        answer = self.until(rb"\r?\n?\nend\r?\n", patience)
        self.until(PROMPT, patience)
        return answer.decode(errors="replace").replace("\r", "").strip("\n")

    def close(self) -> None:
        """Leave as a person does, and wait for virsh to end."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.write(self._controller, b"\x1d")
            try:
                self._process.wait(ANSWER)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._controller)


@contextlib.contextmanager
def shell(daemon: Daemon, name: str) -> Iterator[Shell]:
    """Open a running guest's console for a block."""
    it = Shell(daemon, name, "--force")
    try:
        yield it
    finally:
        it.close()


@contextlib.contextmanager
def booted(daemon: Daemon, name: str, text: str) -> Iterator[Shell]:
    """Create a transient guest, wait for its prompt, and destroy it after the block if it still runs."""
    path = write(daemon, name, text)
    daemon.virsh("create", path)
    it = Shell(daemon, name)
    try:
        yield it.booted()
    finally:
        it.close()
        if name in daemon.virsh("list", "--name").split():
            daemon.virsh("destroy", name)


def state(daemon: Daemon, name: str) -> str:
    """Return the state and its reason as virsh says it: ``running (booted)``."""
    return daemon.virsh("domstate", name, "--reason").strip()


@contextlib.contextmanager
def listening(daemon: Daemon) -> Iterator[Callable[[], str]]:
    """Run ``virsh event --all --loop`` for a block; gives a function that returns what it has said."""
    log = daemon.root / "events.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["stdbuf", "-oL", "virsh", "-c", daemon.uri, "event", "--all", "--loop"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "LC_ALL": "C"},
        )

    def hears() -> bool:
        # it does not say when it has subscribed: make something happen until it is heard
        daemon.virsh("define", write(daemon, "probe", _PROBE))
        daemon.virsh("undefine", "probe")
        return "probe" in log.read_text()

    try:
        wait_until(hears, "virsh event listens")
        yield log.read_text
    finally:
        process.terminate()
        process.wait(ANSWER)


_PROBE = "<domain type='qemu'><name>probe</name><memory>1024</memory><os><type>hvm</type></os></domain>"


def make_image(path: Path, content: bytes, size: int = 1 << 20) -> Path:
    """Write a raw image that starts with some content."""
    path.write_bytes(content.ljust(size, b"\0"))
    path.chmod(0o666)
    return path


def make_qcow2(
    path: Path, size: str = "1M", backing: Path | None = None, backing_format: str = "raw"
) -> Path:
    """Make a qcow2 image, over another one where given."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing is not None:
        words += ["-b", str(backing), "-F", backing_format]
    subprocess.run([*words, str(path), *([] if backing else [size])], check=True, timeout=60)
    path.chmod(0o666)
    return path
