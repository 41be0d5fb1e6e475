"""A start of QEMU without any daemon; standard library only, as `client.py` is for Debian's Python."""

import json
import socket
import subprocess
import time

QEMU = "/usr/bin/qemu-system-x86_64"
now = time.monotonic

#: a small guest, without what a daemon adds for its own sake
BARE = [
    "-S", "-machine", "pc", "-accel", "tcg", "-m", "32", "-display", "none", "-no-user-config", "-nodefaults",
    "-no-acpi", "-device", "piix3-usb-uhci", "-device", "virtio-balloon-pci",
]  # fmt: skip


def bare() -> tuple[float, float]:
    """Start a QEMU without any daemon: seconds to its monitor's answer, and from SIGTERM until it is gone."""
    begin = now()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monitor = [f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"]
        process = subprocess.Popen(
            [QEMU, *BARE, "-chardev", *monitor], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL
        )
        theirs.close()
        ours.settimeout(30)
        with ours.makefile("r") as lines:
            lines.readline()
            for command in "qmp_capabilities", "cont":
                ours.sendall(json.dumps({"execute": command}).encode())
                lines.readline()
            started = now() - begin
            time.sleep(0.2)  # as long as the daemon's guest has run when it is destroyed
            begin = now()
            process.terminate()
            process.wait()
            return started, now() - begin
