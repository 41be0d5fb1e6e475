"""Measure the layers, and qvirtd through the stock client, beside libvirtd and beside what is possible.

    ./dev bench [-r ROUNDS] [-m MEASURE,…] [--no-peer] [--json FILE]

Every figure stands beside its floor of the same run, since machines and their moods differ: what the same
work takes without a daemon. The peer is libvirtd, where it is installed and we are root. Of the rounds the
median is shown; less is better everywhere.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).parent.parent)
    os.environ["PYTHONPATH"] = sys.path[0]

from bench import layers
from bench.daemons import CLIENT_PYTHON, Daemon, Libvirtd, Qvirtd, resident

DOMAINS = 200
"""Definitions kept while what depends on their number is measured."""

_REQUIREMENTS = "import asyncio, uvloop, lxml.etree"
"""What a Python program that does what qvirtd does starts with."""


class Row(NamedTuple):
    """A line of the table. scale: from what is measured to the unit."""

    key: str
    title: str
    unit: str
    scale: float
    floor: str


ROWS = (
    Row("cold", "start, asking QEMU", "ms", 1e3, "python and its packages"),
    Row("warm", "start, QEMU known", "ms", 1e3, "python and its packages"),
    Row("restart", f"start, {DOMAINS} domains", "ms", 1e3, "python and its packages"),
    Row("idle", "memory, idle", "MiB", 1, "python and its packages"),
    Row("full", f"memory, {DOMAINS} domains", "MiB", 1, "python and its packages"),
    Row("null", "call without work", "us", 1e6, "the bytes there and back"),
    Row("define", "define", "ms", 1e3, "a synced file"),
    Row("list", f"list {DOMAINS} domains", "us", 1e6, "call without work"),
    Row("lookup", "look up by name", "us", 1e6, "call without work"),
    Row("dumpxml", "dumpxml", "us", 1e6, "call without work"),
    Row("undefine", "undefine", "us", 1e6, "a file removed"),
    Row("convert", "domxml-to-native", "us", 1e6, "the layers alone"),
    Row("start", "start a guest", "ms", 1e3, "bare QEMU"),
    Row("destroy", "destroy a guest", "ms", 1e3, "bare QEMU, SIGTERM"),
    Row("attach", "plug a disk in", "ms", 1e3, "bare QEMU"),
    Row("detach", "take it out", "ms", 1e3, "bare QEMU"),
)

Figures = dict[str, float | None]
"""What was measured of one daemon in one round; "KEY floor" is the floor of KEY."""


def measure(daemon: Daemon, wanted: frozenset[str]) -> Iterator[tuple[str, float]]:
    """Measure one daemon once: "KEY" and, where the floor depends on it, "KEY floor"."""

    def figures(key: str, answer: dict[str, float]) -> Iterator[tuple[str, float]]:
        yield key, answer["value"]
        if "floor" in answer:
            yield f"{key} floor", answer["floor"]

    yield "cold", daemon.start()
    daemon.stop()
    yield "warm", daemon.start()
    time.sleep(0.5)
    yield "idle", daemon.memory()
    if "null" in wanted:
        yield from figures("null", daemon.ask("null", 5000))
    if "convert" in wanted:
        yield from figures("convert", daemon.ask("convert", 2.0))
    if wanted & {"start", "destroy"}:
        for key, answer in daemon.ask("start", 8).items():
            yield from figures(key, answer)
    if wanted & {"attach", "detach"}:
        for key, answer in daemon.ask("plug", 30).items():
            yield from figures(key, answer)
    if wanted & {"define", "list", "lookup", "dumpxml", "undefine", "full", "restart"}:
        yield from figures("define", daemon.ask("define", DOMAINS))
        for key, answer in daemon.ask("readings").items():
            yield from figures(key, answer)
        yield "full", daemon.memory()
        daemon.stop()
        yield "restart", daemon.start(DOMAINS)
        yield from figures("undefine", daemon.ask("undefine"))


def python_floor() -> tuple[float, float]:
    """Return how long Python takes to start with the packages qvirtd needs (s), and its memory then (MiB)."""
    words = [sys.executable, "-c", f"{_REQUIREMENTS}; print(flush=True); input()"]
    begin = time.monotonic()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        took = time.monotonic() - begin
        memory = resident(process.pid)
        process.stdin.write(b"\n")
    return took, memory


def one_round(kinds: list[type[Daemon]], wanted: frozenset[str]) -> dict[str, Figures]:
    """Measure all daemons, one after the other, with the floors they share."""
    took, memory = python_floor()
    shared: Figures = dict.fromkeys(("cold floor", "warm floor", "restart floor"), took)
    shared |= dict.fromkeys(("idle floor", "full floor"), memory)
    if "convert" in wanted:
        text = layers.DOCUMENT.read_text()
        begin, end = text.index("<interface"), text.rindex("</interface>") + len("</interface>")
        alone = layers.Layers(text[:begin] + text[end:], layers.read_caps())
        shared["convert floor"] = layers.measure(alone.to_native) / 1e6
    found: dict[str, Figures] = {}
    for kind in kinds:
        daemon = kind()
        try:
            found[daemon.name] = shared | dict(measure(daemon, wanted))
        except RuntimeError as error:
            print(f"{error}", file=sys.stderr)
        finally:
            daemon.close()
    return found


def table(rounds: list[dict[str, Figures]], wanted: frozenset[str]) -> Iterator[str]:
    """Give the lines of the table."""

    def middle(name: str, key: str) -> float | None:
        values = [value for figures in rounds if (value := figures.get(name, {}).get(key)) is not None]
        return statistics.median(values) if values else None

    def ratio(one: float | None, other: float | None) -> str:
        return f"{one / other:8.2f}" if one is not None and other else f"{'-':>8}"

    yield f"{'':24}{'qvirtd':>12}{'libvirtd':>10}{'ratio':>8}{'floor':>10}{'ratio':>8}  floor"
    for row in ROWS:
        if row.key not in wanted:
            continue
        ours, theirs = middle("qvirtd", row.key), middle("libvirtd", row.key)
        floor = middle("qvirtd", f"{row.key} floor")
        ours_, theirs_, floor_ = (
            f"{value * row.scale:.1f}" if value is not None else "-" for value in (ours, theirs, floor)
        )
        yield (
            f"{row.title:24}{ours_:>8} {row.unit:3}{theirs_:>10}{ratio(ours, theirs)}{floor_:>10}"
            f"{ratio(ours, floor)}  {row.floor}"
        )


def print_layers() -> dict[str, float]:
    """Print what each layer takes for one document."""
    alone = layers.Layers(layers.DOCUMENT.read_text(), layers.read_caps())
    took = {name: layers.measure(run) for name, run in layers.every_layer(alone).items()}
    print(f"layers, {len(alone.text.splitlines())} lines of {layers.DOCUMENT.name} (us):")
    print("  " + "  ".join(f"{name} {micros:.0f}" for name, micros in took.items()) + "\n", flush=True)
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-m", "--measures", help="some of: " + ", ".join(row.key for row in ROWS))
    parser.add_argument("--no-peer", action="store_true", help="qvirtd alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    options = parser.parse_args()
    known = frozenset(row.key for row in ROWS)
    wanted = frozenset(options.measures.split(",")) if options.measures else known
    if wanted - known:
        parser.error(f"no such measure: {', '.join(sorted(wanted - known))}")
    took = print_layers()
    if not Path(CLIENT_PYTHON).exists() or subprocess.run([CLIENT_PYTHON, "-c", "import libvirt"]).returncode:
        parser.exit(1, "the daemons are measured through python3-libvirt, which is not installed\n")
    why_not = "not wanted" if options.no_peer else Libvirtd.why_not()
    kinds: list[type[Daemon]] = [Qvirtd] if why_not else [Qvirtd, Libvirtd]
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append(one_round(kinds, wanted))
    print("\n".join(table(rounds, wanted)))
    if why_not:
        print(f"no libvirtd beside it: {why_not}")
    if options.json:
        options.json.write_text(json.dumps({"layers": took, "rounds": rounds}, indent=1))
    if not all(Qvirtd.name in figures for figures in rounds):
        parser.exit(1)  # why has been said


if __name__ == "__main__":
    main()
