"""What access control costs: calls by the stock client, as ratios to those of a daemon without it.

.venv/bin/python -m bench.access [DOMAINS]
"""

import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import Daemon, make_root
from tests.support.polkit import fake_polkit

ROUNDS = 5
DOCUMENT = "<domain type='qemu'><name>d{0}</name><memory>65536</memory><os><type>hvm</type></os></domain>"

#: of the client's own time, in microseconds: a call without work, a lookup, a list of all domains
MEASURE = """
import time
def best(work, times):
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(times):
            work()
        took.append((time.perf_counter() - begin) / times * 1e6)
    return min(took)
print(best(conn.getLibVersion, 1000), best(lambda: conn.lookupByName('d0'), 300),
      best(conn.listAllDomains, 10))
"""


@contextlib.contextmanager
def daemon(drivers: str, bus: str, count: int) -> Iterator[Daemon]:
    """Run a daemon with these access drivers and so many domains."""
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(f"access_drivers = [ {drivers} ]\n")
    (root / "etc/libvirt/access.rules").write_text("deny user=1 *:*\nallow user=0 *:*\n")
    running = Daemon(root, prefix=("env", f"DBUS_SYSTEM_BUS_ADDRESS={bus}"))
    try:
        running.start()
        running.python(f"for i in range({count}): conn.defineXML({DOCUMENT!r}.format(i))")
        yield running
    finally:
        running.clean()


def main(count: int) -> None:
    """Measure, in turns, and print the table."""
    folder = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    kinds = {"none": "", "rules": '"rules"', "polkit": '"polkit"'}
    try:
        with fake_polkit(folder) as authority, contextlib.ExitStack() as stack:
            daemons = {
                name: stack.enter_context(daemon(drivers, authority.address, count))
                for name, drivers in kinds.items()
            }
            took: dict[str, list[list[float]]] = {name: [] for name in kinds}
            for _ in range(ROUNDS):
                for name, running in daemons.items():
                    took[name].append([float(word) for word in running.python(MEASURE).split()])
    finally:
        shutil.rmtree(folder)
    print(f"{'access_drivers':15} {'no work':>12} {'lookup':>12} {f'list {count}':>12}")
    base = [statistics.median(each) for each in zip(*took["none"], strict=True)]
    for name, rounds in took.items():
        found = [statistics.median(each) for each in zip(*rounds, strict=True)]
        words = [f"{value:.0f} us {value / of:.1f}x" for value, of in zip(found, base, strict=True)]
        print(f"{name:15} " + " ".join(f"{word:>12}" for word in words))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
