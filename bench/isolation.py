"""Measure what a stopped QEMU costs everybody else, call by call.

    .venv/bin/python -m bench.isolation [-r ROUNDS] [--peer]

One guest's QEMU is stopped (SIGSTOP) and 30 callers ask for something of it; meanwhile calls are made on
another guest, one after the other and all at once. Turns without and with the stopped guest follow each
other; of each call the median and the 95th percentile of both are shown (ms), and their ratios.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import libvirt

CALLERS = 30
#: samples of a call in each turn
SAMPLES = 40
SETTLE = 0.5
"""Seconds the callers get to be waiting."""

Times = dict[str, list[float]]

GUEST = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='scsi' model='virtio-scsi'/>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{folder}/{name}.img'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""
PLUGGED = """<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{folder}/plugged.img'/><target dev='sda' bus='scsi'/></disk>"""


# ------------------------------------------------------------------------- the client, in Debian's Python


def calls(conn: "libvirt.virConnect", folder: str, name: str) -> dict[str, Callable[[], object]]:
    """Return the calls on the healthy guest and on the connection, by name."""
    import libvirt

    domain = conn.lookupByName(name)
    spare = conn.defineXML(GUEST.format(name=f"{name}-spare", folder=folder))
    plugged = PLUGGED.format(folder=folder)
    new = GUEST.format(name=f"{name}-new", folder=folder)
    balloon = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_MEM_CURRENT
    nowait = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    return {
        "version": conn.getLibVersion,
        "list": conn.listAllDomains,
        "lookup": lambda: conn.lookupByName(name),
        "info": domain.info,
        "state": domain.state,
        "XMLDesc": domain.XMLDesc,
        "memoryStats": domain.memoryStats,
        "blockStats": lambda: domain.blockStats("vda"),
        "blockInfo": lambda: domain.blockInfo("vda"),
        "vcpus": domain.vcpus,
        "cpu stats": lambda: domain.getCPUStats(True),
        "domstats": lambda: conn.domainListGetStats([domain]),
        "all domstats, nowait": lambda: conn.getAllDomainStats(0, nowait),
        "suspend": domain.suspend,
        "resume": domain.resume,
        "setMemory": lambda: domain.setMemoryFlags(65536, balloon),
        "attach": lambda: domain.attachDevice(plugged),
        "detach": lambda: domain.detachDevice(plugged),
        "define": lambda: conn.defineXML(new),
        "undefine": lambda: conn.lookupByName(f"{name}-new").undefine(),
        "create": spare.create,
        "destroy": spare.destroy,
    }


SLOW = ("attach", "detach", "create", "destroy")
"""Calls that take long by themselves: a quarter of the samples."""


def stamp(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turn(wanted: dict[str, Callable[[], object]], samples: int) -> Times:
    """Make the calls one after the other, again and again."""
    took: Times = {name: [] for name in wanted}
    for number in range(samples):
        for name, call in wanted.items():
            if name not in SLOW or number % 4 == 0:
                took[name].append(stamp(call))
    return took


def at_once(uri: str, name: str, samples: int) -> Times:
    """Make the calls that change nothing all at the same time, each on a connection of its own."""
    import libvirt

    kept = []
    reading: dict[str, Callable[[], object]] = {}
    for what in ("version", "list", "info", "XMLDesc", "memoryStats", "blockStats", "domstats"):
        conn = libvirt.open(uri)
        domain = conn.lookupByName(name)
        kept.append(conn)
        reading[f"{what}, at once"] = {
            "version": conn.getLibVersion,
            "list": conn.listAllDomains,
            "info": domain.info,
            "XMLDesc": domain.XMLDesc,
            "memoryStats": domain.memoryStats,
            "blockStats": lambda domain=domain: domain.blockStats("vda"),
            "domstats": lambda conn=conn, domain=domain: conn.domainListGetStats([domain]),
        }[what]
    took: Times = {what: [] for what in reading}
    gate = threading.Barrier(len(reading))

    def ask(what: str, call: Callable[[], object]) -> None:
        for _ in range(samples):
            gate.wait()
            took[what].append(stamp(call))

    threads = [threading.Thread(target=ask, args=pair) for pair in reading.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def waiting(uri: str, name: str) -> None:
    """Be the callers who wait for the stopped guest, until the process is ended."""
    import libvirt

    def ask(number: int) -> None:
        conn = libvirt.open(uri)
        domain = conn.lookupByName(name)
        call = (domain.memoryStats, lambda: domain.blockStats("vda"), domain.suspend)[number % 3]
        while True:
            with contextlib.suppress(libvirt.libvirtError):
                call()
                time.sleep(1)  # it is not stopped yet, or not any more

    for number in range(CALLERS):
        threading.Thread(target=ask, args=(number,), daemon=True).start()
    print("waiting", flush=True)
    signal.pause()


@contextlib.contextmanager
def stopped(uri: str, name: str, pid: int) -> Iterator[None]:
    """Stop a QEMU, with callers who wait for it."""
    os.kill(pid, signal.SIGSTOP)
    words = [sys.executable, __file__, "--waiting", uri, name]
    callers = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert callers.stdout is not None
        callers.stdout.readline()
        time.sleep(SETTLE)
        yield
    finally:
        callers.kill()
        callers.wait()
        os.kill(pid, signal.SIGCONT)


def client(uri: str, run: str, folder: str, rounds: int) -> dict[str, dict[str, Times]]:
    """Measure; returns the times without and with the stopped guest, by call."""
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    conn = libvirt.open(uri)
    for name in ("victim", "healthy"):
        conn.createXML(GUEST.format(name=name, folder=folder))
    pid = int(Path(run, "qemu/victim.pid").read_text())
    wanted = calls(conn, folder, "healthy")
    took: dict[str, Times] = {"without": {}, "with": {}}

    def turn(which: str, samples: int) -> None:
        for times in (in_turn(wanted, samples), at_once(uri, "healthy", samples)):
            for name, values in times.items():
                took[which].setdefault(name, []).extend(values)

    try:
        in_turn(wanted, 4)  # what is done once only is done
        for _ in range(rounds):
            turn("without", SAMPLES)
            with stopped(uri, "victim", pid):
                turn("with", SAMPLES)
    finally:
        for domain in conn.listAllDomains():
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
    return {"took": took}


# --------------------------------------------------------------------------------------- what starts it


def ninety_fifth(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def table(took: dict[str, Times]) -> Iterator[str]:
    """Give the lines of the table."""
    yield f"{'':24}{'p50':>8}{'stopped':>9}{'ratio':>7}{'p95':>9}{'stopped':>9}{'ratio':>7}   ms"
    for name, calm in took["without"].items():
        hit = took["with"][name]
        cells = ""
        for of in (statistics.median, ninety_fifth):
            before, after = of(calm) * 1e3, of(hit) * 1e3
            cells += f"{before:9.2f}{after:9.2f}{after / before:7.2f}"
        yield f"{name:23}{cells}"


def main() -> None:
    """Measure and print."""
    from bench.daemons import CLIENT_PYTHON, Daemon, Libvirtd, Qvirtd

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true", help="libvirtd, too")
    options = parser.parse_args()
    kinds: list[type[Daemon]] = [Qvirtd, Libvirtd] if options.peer else [Qvirtd]
    for kind in kinds:
        daemon = kind()
        try:
            daemon.start()
            with tempfile.TemporaryDirectory(prefix="qbi") as folder:
                Path(folder).chmod(0o755)  # QEMU's user opens what is in it
                for name in ("victim", "healthy", "healthy-spare", "healthy-new", "plugged"):
                    with Path(folder, f"{name}.img").open("wb") as image:
                        image.truncate(1 << 20)
                where = [daemon.uri, str(daemon.run_folder), folder, str(options.rounds)]
                words = [CLIENT_PYTHON, __file__, "--client", *where]
                done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
            answer: dict[str, Any] = json.loads(done.stdout)
            print(daemon.name, *table(answer["took"]), sep="\n")
        finally:
            daemon.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        print(json.dumps(client(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))))
    elif sys.argv[1:2] == ["--waiting"]:
        waiting(sys.argv[2], sys.argv[3])
    else:
        main()
