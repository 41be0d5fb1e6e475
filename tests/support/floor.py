"""The floor under every start: QEMU alone, from exec to an answered qmp_capabilities."""

import json
import socket
import subprocess
import time


def bare_start(emulator: str, *words: str) -> float:
    """Start a paused QEMU with a few devices and end it again; return the seconds until QMP answered."""
    begin = time.perf_counter()
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [
            emulator,
            "-S",
            "-machine",
            "pc",
            "-accel",
            "tcg",
            "-m",
            "192",
            "-display",
            "none",
            "-nodefaults",
            "-no-user-config",
            "-chardev",
            f"socket,id=m,fd={theirs.fileno()}",
            "-mon",
            "chardev=m,mode=control",
            "-device",
            "piix3-usb-uhci",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtio-balloon-pci",
            "-netdev",
            "user,id=n",
            "-device",
            "virtio-net-pci,netdev=n",
            "-chardev",
            "pty,id=s",
            "-device",
            "isa-serial,chardev=s",
            "-device",
            "virtio-rng-pci",
            *words,
        ],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        theirs.close()
        ours.settimeout(30)
        reader = ours.makefile("r")
        json.loads(reader.readline())
        ours.sendall(b'{"execute":"qmp_capabilities"}\n')
        json.loads(reader.readline())
        return time.perf_counter() - begin
    finally:
        ours.close()
        process.kill()
        process.wait()
