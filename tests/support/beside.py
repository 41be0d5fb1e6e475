"""The same domains under libvirt 9.0 and here, in one machine: what differs is in a table, with a reason."""

import json
import re

from tests.inside.differences import DIFFERENCES, Difference
from tests.support import testbed
from tests.support.confined import selected

#: a device to hand to a guest, behind an IOMMU
_MACHINE = (
    *("--append", "intel_iommu=on", "--qemu=-device", "--qemu=intel-iommu,intremap=on"),
    *("--qemu=-device", "--qemu=virtio-rng-pci,addr=0x1d"),
)

_PREPARE = """
modprobe -a loop vhost_vsock vhost_net vfio_pci
mkdir -p /dev/hugepages /dev/beside
mount -t hugetlbfs hugetlbfs /dev/hugepages
echo 80 > /proc/sys/vm/nr_hugepages
for number in 0 1 2; do truncate -s 16M /srv/loop$number; losetup /dev/loop$number /srv/loop$number; done
ln -s ../loop2 /dev/beside/loop
mkdir -p /run/libvirt
[ $TESTBED != selinux ] || restorecon -RF /run/libvirt /dev
/usr/sbin/virtlogd -d
"""


def compare(variant: str, prepare: str, qvirtd: str, *words: str) -> None:
    """Boot a machine, run both daemons in it in turn, and compare what they make of the same domains."""
    script = f"""{prepare}{_PREPARE}
        exec /usr/bin/python3 -m tests.inside.recorder libvirtd=/usr/sbin/libvirtd "qvirtd={qvirtd}"
    """
    done = testbed.boot(variant, ["sh", "-c", script], *_MACHINE, *words)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    found = facts(done.stdout)
    assert set(found["libvirtd"]) == set(found["qvirtd"]) == set(selected(variant))
    rows = [row for row in DIFFERENCES if row.concerns(variant, found["qvirtd"])]
    unlisted, seen = [], set[Difference]()
    for domain, theirs in found["libvirtd"].items():
        for fact, values in differing(theirs, found["qvirtd"][domain]).items():
            listed = [row for row in rows if row.covers(domain, fact, *values)]
            seen.update(listed)
            if not listed:
                unlisted.append(f"{domain}: {fact}: libvirt {values[0]!r}, here {values[1]!r}")
    assert unlisted == []
    assert [row for row in rows if row not in seen] == [], "these differences are no more"


def facts(printed: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return what the recorder found: daemon -> domain -> fact -> value."""
    found: dict[str, dict[str, dict[str, str]]] = {"libvirtd": {}, "qvirtd": {}}
    for line in printed.splitlines():
        if line.startswith("found: "):
            one = json.loads(line.removeprefix("found: "))
            found[one["daemon"]][one["domain"]] = one["facts"]
    return found


def differing(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return the facts that are not the same; of a guest that one of the two refused, what was left of it."""
    refused = "refused" in theirs or "refused" in ours
    return {
        re.sub(r"\bsec-[\w-]+", "NAME", fact): (theirs.get(fact), ours.get(fact))
        for fact in sorted({*theirs, *ours})
        if theirs.get(fact) != ours.get(fact) and (not refused or fact.startswith(("refused", "after")))
    }
