"""Start and stop of a nat network, and news of a lease: qvirtd and libvirtd, in namespaces of their own.

Start and stop are asked for by the same virsh. Run as root from the repository: ``python -m bench.networks
[ROUNDS]``. It prints medians (ms) and ratios; of a lease also the longest.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.daemon import running_daemon
from tests.support.netns import namespace

NETWORK = """<network><name>bench</name><forward mode='nat'/><bridge name='vbench' stp='off'/>
<ip address='10.99.99.1' prefix='24'>
<dhcp><range start='10.99.99.10' end='10.99.99.90'/></dhcp></ip></network>"""

_PRIVATE = """for d in /var/lib/libvirt /run/libvirt /var/cache/libvirt /etc/libvirt /var/log/libvirt; do
mkdir -p $d; mount -t tmpfs t $d; done; mkdir -p /etc/libvirt/qemu /var/lib/libvirt/dnsmasq
libvirtd >/dev/null 2>&1 & pid=$!
for i in $(seq 100); do virsh -c qemu:///system version >/dev/null 2>&1 && break; sleep .1; done
"$@"; kill $pid; wait $pid"""


def measure(virsh: list[str], document: str, rounds: int) -> tuple[float, float]:
    """Return the medians of start and stop, in ms, virsh's own time included."""
    subprocess.run([*virsh, "net-define", document], check=True, capture_output=True)
    took: dict[str, list[float]] = {"net-start": [], "net-destroy": []}
    for _ in range(rounds):
        for word, times in took.items():
            began = time.perf_counter()
            subprocess.run([*virsh, word, "bench"], check=True, capture_output=True)
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(took["net-start"]), statistics.median(took["net-destroy"])


def leases(virsh: list[str], uri: str, rounds: int, prefix: tuple[str, ...] = ()) -> list[float]:
    """Return how long a lease takes to be known, median and longest, in ms."""
    subprocess.run([*virsh, "net-start", "bench"], check=True, capture_output=True)
    words = [*prefix, sys.executable, "-m", "bench.leases", uri, "bench", "vbench", str(rounds)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    subprocess.run([*virsh, "net-destroy", "bench"], check=True, capture_output=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Measure both, or, for the inner call, libvirtd alone."""
    if sys.argv[1:2] == ["inner"]:
        virsh = ["virsh", "-c", "qemu:///system"]
        print(*measure(virsh, sys.argv[2], int(sys.argv[3])), *leases(virsh, virsh[2], int(sys.argv[3])))
        return
    rounds = int(sys.argv[1]) if sys.argv[1:] else 9
    with tempfile.TemporaryDirectory() as folder, namespace() as ns:
        path = Path(folder) / "bench.xml"
        path.write_text(NETWORK)
        inner = [sys.executable, "-m", "bench.networks", "inner", str(path), str(rounds)]
        words = ["unshare", "-m", "--propagation", "private", "sh", "-c", _PRIVATE, "sh", *inner]
        theirs = [float(word) for word in ns.run(*words, patience=300).stdout.split()]
    with namespace() as ns, running_daemon(prefix=ns.prefix) as daemon:
        path = daemon.root / "bench.xml"
        path.write_text(NETWORK)
        daemon.virsh("net-define", str(path))
        mine: dict[str, list[float]] = {"net-start": [], "net-destroy": []}
        for _ in range(rounds):
            for word, times in mine.items():
                began = time.perf_counter()
                daemon.virsh(word, "bench")
                times.append((time.perf_counter() - began) * 1000)
        virsh = ["virsh", "-c", daemon.uri]
        told = leases(virsh, daemon.uri, rounds, ns.prefix)
    ours = [*(statistics.median(times) for times in mine.values()), *told]
    for word, us, them in zip(("start", "stop", "lease", "longest lease"), ours, theirs, strict=True):
        print(f"{word}: qvirtd {us:.3g} ms, libvirtd {them:.3g} ms, ratio {us / them:.2f}")


if __name__ == "__main__":
    main()
