"""Measure what each layer of confinement adds to a start: python -m bench.confinement [-r ROUNDS].

One daemon's heart for each case, all in this process; in each round QEMU is started bare and then once by
each, so that all see the same machine. Ratios are to the bare start. Needs root.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from bench.floor import QEMU, bare
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths

_NO_GROUPS = "cgroup_controllers = [ ]\n"
_NO_DEV = "namespaces = [ ]\n"
_NO_FILTER = "seccomp_sandbox = 0\n"
_AS_WE_ARE = 'user = "root"\ngroup = "root"\nclear_emulator_capabilities = 0\n'

#: what is left out -> the lines of qemu.conf that do
CASES = {
    "nothing": "",
    "own /dev": _NO_DEV,
    "control groups": _NO_GROUPS,
    "system call filter": _NO_FILTER,
    "user, capabilities": _AS_WE_ARE,
    "all of them": _NO_DEV + _NO_GROUPS + _NO_FILTER + _AS_WE_ARE,
}

SMALL = f"""<domain type='qemu'><name>small</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>{QEMU}</emulator></devices></domain>"""


async def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every start, by case; those of the bare one under ''."""
    took: dict[str, list[float]] = {"": [], **{name: [] for name in CASES}}
    async with contextlib.AsyncExitStack() as stack:
        domains = {}
        for name, options in CASES.items():
            root = Path(tempfile.mkdtemp(prefix="qbc"))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
            root.chmod(0o755)
            config = make_config(parse_conf(options, "qemu.conf"), privileged=True)
            hv = await Hypervisor.open(Paths.root(root), config=config)
            stack.push_async_callback(hv.close)
            domains[name] = await hv.define(SMALL)
        for number in range(rounds + 1):
            seconds, _ = await asyncio.to_thread(bare)
            took[""].append(seconds)
            for name, domain in domains.items():
                begin = time.monotonic()
                await domain.start()
                took[name].append(time.monotonic() - begin)
                await asyncio.sleep(0.2)
                await domain.destroy()
            if not number:  # the first of each has more to learn
                for times in took.values():
                    times.clear()
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.confinement", description=__doc__)
    parser.add_argument("-r", "--rounds", type=int, default=15)
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.exit(1, "only root confines\n")
    took = uvloop.run(measure(options.rounds))
    floor = took.pop("")
    print(f"bare QEMU: {statistics.median(floor) * 1e3:.1f} ms, least {min(floor) * 1e3:.1f}")
    print(f"{'without':24}{'median':>10}{'ratio':>8}{'least':>10}{'ratio':>8}")
    for name, times in took.items():
        middle, least = statistics.median(times), min(times)
        ratio = statistics.median(one / other for one, other in zip(times, floor, strict=True))
        print(f"{name:24}{middle * 1e3:7.1f} ms{ratio:8.2f}{least * 1e3:7.1f} ms{least / min(floor):8.2f}")


if __name__ == "__main__":
    main()
