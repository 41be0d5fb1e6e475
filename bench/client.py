"""One measure through the stock client: client.py URI MEASURE ARGUMENTS. For Debian's Python; JSON out.

Each measure also times its floor, in the same loop: what the same work takes without any daemon.
Times are seconds; of many, the median.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import libvirt
from floor import BARE, QEMU, bare

PREFIX = f"bench{os.getpid()}-"
DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "domain.xml")
now = time.monotonic

SMALL = f"""<domain type='qemu'><name>{PREFIX}small</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>{QEMU}</emulator></devices></domain>"""


def timed(work: Callable[[], object]) -> float:
    begin = now()
    work()
    return now() - begin


def result(value: list[float], floor: list[float]) -> dict[str, float]:
    return {"value": statistics.median(value), "floor": statistics.median(floor)}


def documents(count: int) -> list[str]:
    with open(DOCUMENT) as file:
        text = file.read()
    made = []
    for i in range(count):
        one = text.replace("web-1", f"{PREFIX}{i}")
        for nic in "00:00:01", "01:00:01":
            one = one.replace(nic, f"{nic[:2]}:{i >> 8:02x}:{i & 255:02x}")
        made.append(one)
    return made


# ------------------------------------------------------------------------------------------ measures


def answer(uri: str, listed: int) -> dict[str, float]:
    """When capabilities are first answered, by the clock of all processes, and so many domains are there."""
    begin = now()
    while True:
        try:
            conn = libvirt.open(uri)
            break
        except libvirt.libvirtError:
            if now() - begin > 30:
                raise
            time.sleep(0.002)
    conn.getCapabilities()
    answered = now()
    found = len(conn.listAllDomains())
    assert found >= listed, f"{found} domains of {listed}"
    return {"at": answered}


def null(uri: str, count: int) -> dict[str, float]:
    """A call that does nothing; the floor is as many bytes there and back between two processes."""
    conn = libvirt.open(uri)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while data := theirs.recv(100):
            theirs.send(data)
        os._exit(0)
    theirs.close()
    message = b"x" * 36

    def echo() -> None:
        ours.send(message)
        ours.recv(100)

    # Not in turns: each is at its best when nothing else happens in between.
    floor = [timed(echo) for _ in range(count)]
    value = [timed(conn.getLibVersion) for _ in range(count)]
    ours.close()
    os.wait()
    return result(value, floor)


def define(uri: str, count: int) -> dict[str, float]:
    """Definitions; the floor is a synced file of that size, renamed into place."""
    conn = libvirt.open(uri)
    value, floor = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i, text in enumerate(documents(count)):
            value.append(timed(lambda: conn.defineXML(text)))  # noqa: B023
            floor.append(timed(lambda: replace(f"{folder}/{i}.xml", text)))  # noqa: B023
    return result(value, floor)


def replace(path: str, text: str) -> None:
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, text.encode() * 3)  # what libvirt adds to this document makes it three times as long
    os.fsync(fd)
    os.close(fd)
    os.rename(path + ".new", path)


def readings(uri: str) -> dict[str, dict[str, float]]:
    """List all, look one up, dump one; the floor is a call that does nothing."""
    conn = libvirt.open(uri)
    domain = conn.listAllDomains()[0]
    name = domain.name()
    calls = {
        "list": conn.listAllDomains,
        "lookup": lambda: conn.lookupByName(name),
        "dumpxml": domain.XMLDesc,
    }
    answers = {}
    for what, call in calls.items():
        value = [timed(call) for _ in range(200)]
        answers[what] = result(value, [timed(conn.getLibVersion) for _ in range(200)])
    return answers


def undefine(uri: str) -> dict[str, float]:
    """Definitions forgotten; the floor is a file removed."""
    value, floor = [], []
    with tempfile.TemporaryDirectory() as folder:
        for domain in libvirt.open(uri).listAllDomains():
            value.append(timed(domain.undefine))
            path = f"{folder}/file"
            replace(path, "")
            floor.append(timed(lambda: os.unlink(path)))  # noqa: B023
    return result(value, floor)


def convert(uri: str, seconds: float) -> dict[str, float]:
    """domxml-to-native without interfaces, for which libvirt would make devices. Its floor is a layer."""
    conn = libvirt.open(uri)
    text = documents(1)[0]
    begin, end = text.index("<interface"), text.rindex("</interface>") + len("</interface>")
    text = text[:begin] + text[end:]
    value = []
    until = now() + seconds
    while now() < until:
        value.append(timed(lambda: conn.domainXMLToNative("qemu-argv", text)))
    return {"value": statistics.median(value)}


def start(uri: str, count: int) -> dict[str, dict[str, float]]:
    """Start and destroy a small guest; the floor is the same machine without a daemon."""
    conn = libvirt.open(uri)
    domain = conn.defineXML(SMALL)
    value: dict[str, list[float]] = {"start": [], "destroy": []}
    floor: dict[str, list[float]] = {"start": [], "destroy": []}
    for _ in range(count):
        begun, ended = bare()
        floor["start"].append(begun)
        floor["destroy"].append(ended)
        value["start"].append(timed(domain.create))
        time.sleep(0.2)
        value["destroy"].append(timed(domain.destroy))
    domain.undefine()
    return {what: result(value[what], floor[what]) for what in value}


PLUGGED = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>
<target dev='sda' bus='scsi'/></disk>"""
WITH_SCSI = SMALL.replace("</devices>", "<controller type='scsi' model='virtio-scsi'/></devices>")


class Bare:
    """QEMU's own monitor, without a daemon."""

    def __init__(self, folder: str) -> None:
        path = f"{folder}/qmp"
        words = [
            QEMU,
            *BARE,
            "-device",
            "virtio-scsi-pci,id=scsi0",
            "-qmp",
            f"unix:{path},server=on,wait=off",
        ]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self.sock = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                time.sleep(0.002)
        self.lines = self.sock.makefile("rb")
        self.lines.readline()
        self.run("qmp_capabilities", {})

    def run(self, command: str, arguments: dict[str, Any], event: str = "") -> None:
        """Run a command, and wait for an event that follows from it."""
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        answered, told = False, not event
        while not (answered and told):
            said = json.loads(self.lines.readline())
            assert "error" not in said, said
            answered = answered or "return" in said
            told = told or said.get("event") == event

    def attach(self, image: str) -> None:
        common = {"auto-read-only": True, "discard": "unmap"}
        self.run("blockdev-add", {"driver": "file", "filename": image, "node-name": "storage", **common})
        raw = {"driver": "raw", "file": "storage", "node-name": "format", "read-only": False}
        self.run("blockdev-add", raw)
        place = {"bus": "scsi0.0", "channel": 0, "scsi-id": 0, "lun": 0, "device_id": "drive-disk"}
        self.run("device_add", {"driver": "scsi-hd", "drive": "format", "id": "disk", **place})

    def detach(self) -> None:
        self.run("device_del", {"id": "disk"}, "DEVICE_DELETED")
        self.run("blockdev-del", {"node-name": "format"})
        self.run("blockdev-del", {"node-name": "storage"})


def plug(uri: str, count: int) -> dict[str, dict[str, float]]:
    """Plug a disk into a guest and take it out; the floor is the same said to QEMU without a daemon."""
    conn = libvirt.open(uri)
    value: dict[str, list[float]] = {"attach": [], "detach": []}
    floor: dict[str, list[float]] = {"attach": [], "detach": []}
    with tempfile.TemporaryDirectory(prefix="qbi") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - QEMU's user opens what is in it
        image = f"{folder}/disk.img"
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        text = PLUGGED.format(image)
        domain = conn.createXML(WITH_SCSI, libvirt.VIR_DOMAIN_START_PAUSED)
        qemu = Bare(folder)
        for _ in range(count):
            floor["attach"].append(timed(lambda: qemu.attach(image)))
            floor["detach"].append(timed(qemu.detach))
            value["attach"].append(timed(lambda: domain.attachDevice(text)))
            value["detach"].append(timed(lambda: domain.detachDevice(text)))
        qemu.process.terminate()
        qemu.process.wait()
        domain.destroy()
    return {what: result(value[what], floor[what]) for what in value}


def tidy(uri: str) -> dict[str, float]:
    """Destroy and forget whatever is left."""
    for domain in libvirt.open(uri).listAllDomains():
        kept = domain.isPersistent()
        if domain.isActive():
            domain.destroy()
        if kept:
            domain.undefine()
    return {}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    measure.__name__: measure
    for measure in (answer, null, define, readings, undefine, convert, start, plug, tidy)
}


def main() -> None:
    uri, measure, arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    libvirt.registerErrorHandler(lambda *_: None, None)
    print(json.dumps(MEASURES[measure](uri, *json.loads(arguments))))


if __name__ == "__main__":
    main()
