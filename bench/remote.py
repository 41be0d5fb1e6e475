"""Measure connections by TLS: calls, what idle clients cost, what those that came and went leave behind.

    python bench/remote.py [-r ROUNDS] [-b BUSY] [-i IDLE] [-s SOAK] [--no-peer]

Calls are python3-libvirt's, the same for both daemons and in turns. Less is better but for calls per second.
Busy clients are threads of a few processes, each with a connection of its own and calling all the time; since
they may be what is slow, the daemon's processor time for a call stands beside what they reach together.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).parent.parent)
    os.environ["PYTHONPATH"] = sys.path[0]

from bench.daemons import CLIENT_PYTHON, Daemon, Libvirtd, Qvirtd, resident
from qvirt.net.authority import Authority, write_pair

BUSY_SECONDS = 3.0
BUSY_PROCESSES = 4
PORTS = {"qvirtd": 26614, "libvirtd": 26615}

CLIENT = """
import json, resource, sys, threading, time
import libvirt
uri, measure, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
begin = time.perf_counter()
if measure == "calls":
    conn = libvirt.open(uri)
    for _ in range(200):
        conn.getLibVersion()
    begin = time.perf_counter()
    for _ in range(count):
        conn.getLibVersion()
    print(json.dumps(count / (time.perf_counter() - begin)))
elif measure == "busy":
    conns = [libvirt.open(uri) for _ in range(count)]
    print(json.dumps(count), flush=True)
    end = float(sys.stdin.readline())
    calls = [0] * count
    def work(number):
        while time.monotonic() < end:
            conns[number].getLibVersion()
            calls[number] += 1
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(json.dumps(calls))
elif measure == "idle":
    conns = [libvirt.open(uri) for _ in range(count)]
    print(json.dumps(time.perf_counter() - begin), flush=True)
    sys.stdin.readline()
else:
    for _ in range(count):
        libvirt.open(uri).close()
    print(json.dumps(count / (time.perf_counter() - begin)))
"""


def settings(daemon: Daemon, pki: Path) -> str:
    """Give what a daemon's libvirtd.conf says."""
    files = {"ca_file": "cacert.pem", "cert_file": "servercert.pem", "key_file": "serverkey.pem"}
    return f'\nlisten_addr = "127.0.0.1"\ntls_port = "{PORTS[daemon.name]}"\n' + "".join(
        f'{name} = "{pki / file}"\n' for name, file in files.items()
    )


class RemoteQvirtd(Qvirtd):
    """Ours, listening."""

    def command(self) -> list[str]:
        return [*super().command(), "--listen"]

    def prepare(self, pki: Path) -> None:
        """Write its settings."""
        (self.root / "etc/libvirt").mkdir(parents=True)
        (self.root / "etc/libvirt/libvirtd.conf").write_text(settings(self, pki))


class RemoteLibvirtd(Libvirtd):
    """The peer, listening."""

    def command(self) -> list[str]:
        *words, script = super().command()
        return [*words, f"{script} --listen"]

    def prepare(self, pki: Path) -> None:
        """Write its settings."""
        with (self.root / "etc/libvirtd.conf").open("a") as conf:
            conf.write(settings(self, pki))


def client(uri: str, measure: str, count: int) -> "subprocess.Popen[str]":
    """Start a client."""
    words = [CLIENT_PYTHON, "-c", CLIENT, uri, measure, str(count)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: "subprocess.Popen[str]") -> Any:
    """Give what a client has measured."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def open_files(pid: int) -> int:
    """Return how many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def processor_time(pid: int) -> float:
    """Return the seconds of processor time a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Busy(NamedTuple):
    """What busy clients reach: calls per second together, and of the slowest; the daemon's µs for a call."""

    rate: float
    slowest: float
    cost: float


def busy(daemon: Daemon, uri: str, count: int) -> Busy:
    """Have so many clients call all the time."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(client(uri, "busy", count // BUSY_PROCESSES)) for _ in range(BUSY_PROCESSES)
        ]
        for process in processes:
            answer(process)
        before, end = processor_time(daemon.pid()), time.monotonic() + BUSY_SECONDS
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{end}\n")
            process.stdin.flush()
        calls = [calls for process in processes for calls in answer(process)]
        used = processor_time(daemon.pid()) - before
    return Busy(sum(calls) / BUSY_SECONDS, min(calls) / BUSY_SECONDS, used / sum(calls) * 1e6)


def measure(daemon: Daemon, uri: str, idle: int, soak: int) -> dict[str, float]:
    """Measure what idle clients cost, and what is left of those that came and went."""
    figures = {}
    with client(uri, "soak", 50) as process:
        answer(process)
    before = resident(daemon.pid())
    with client(uri, "idle", idle) as process:
        answer(process)
        figures["idle"] = resident(daemon.pid()) - before
        process.communicate("\n")
    # What is left of that crowd is kept for the next: only growth from here on would be a leak.
    with client(uri, "soak", soak) as process:
        figures["come and go"] = answer(process)
    before, files = resident(daemon.pid()), open_files(daemon.pid())
    with client(uri, "soak", soak) as process:
        answer(process)
    figures["leaked"] = resident(daemon.pid()) - before
    figures["leaked files"] = open_files(daemon.pid()) - files
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-b", "--busy", type=int, default=64, help="clients that call all the time")
    parser.add_argument("-i", "--idle", type=int, default=1000, help="idle clients")
    parser.add_argument("-s", "--soak", type=int, default=1000, help="connections that come and go")
    parser.add_argument("--no-peer", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qbp") as folder:
        pki = Path(folder)
        authority = Authority.create(pki, "Bench")
        for role, name in (("server", "localhost"), ("client", "bench")):
            pair = authority.issue(role, name)  # type: ignore[arg-type]
            write_pair(pki / f"{role}cert.pem", pki / f"{role}key.pem", *pair)
        daemons: list[RemoteQvirtd | RemoteLibvirtd] = [RemoteQvirtd()]
        if not args.no_peer and Libvirtd.why_not() is None:
            daemons.append(RemoteLibvirtd())
        uris = {one.name: f"qemu://localhost:{PORTS[one.name]}/system?pkipath={pki}" for one in daemons}
        try:
            for one in daemons:
                one.prepare(pki)
                one.start()
            rates: dict[str, list[float]] = {one.name: [] for one in daemons}
            for _ in range(args.rounds):
                for one in daemons:
                    with client(uris[one.name], "calls", 3000) as process:
                        rates[one.name].append(answer(process))
            crowds: dict[str, list[Busy]] = {one.name: [] for one in daemons}
            for _ in range(args.rounds):
                for one in daemons:
                    crowds[one.name].append(busy(one, uris[one.name], args.busy))
            figures = {one.name: measure(one, uris[one.name], args.idle, args.soak) for one in daemons}
        finally:
            for one in daemons:
                one.close()
    for name, values in rates.items():
        rest = figures[name]
        rate = statistics.median(values)
        print(f"{name:9} {rate:7.0f} calls/s by TLS, {rest['come and go']:.0f} connections/s")
        crowd = Busy(*(statistics.median(column) for column in zip(*crowds[name], strict=True)))
        print(f"{'':9} {crowd.rate:7.0f} calls/s by {args.busy} busy clients, slowest {crowd.slowest:.0f}")
        print(f"{'':9} {crowd.cost:7.1f} µs of the daemon's processor for one of theirs")
        print(f"{'':9} {rest['idle']:7.1f} MiB for {args.idle} idle clients")
        left = f"{rest['leaked']:7.1f} MiB, {rest['leaked files']} files"
        print(f"{'':9} {left} left of {args.soak} that came and went")
    if len(rates) == 2:
        ours, theirs = (statistics.median(rates[name]) for name in ("qvirtd", "libvirtd"))
        print(f"calls: {ours / theirs:.2f} x libvirtd's")
        ours, theirs = (
            statistics.median(one.rate for one in crowds[name]) for name in ("qvirtd", "libvirtd")
        )
        print(f"{args.busy} busy clients together: {ours / theirs:.2f} x libvirtd's")


if __name__ == "__main__":
    main()
