"""Where the confinement of a domain is not libvirt's, and why; `test_beside_libvirt_*.py` keep it true."""

import re
from collections.abc import Iterable

from qvirt.record import Record


class Difference(Record):
    """Facts that differ. fact, theirs, ours: patterns; None: the fact is not there.

    domains: a pattern. variant: the one it is about, '' for both.
    """

    fact: str
    theirs: str | None
    ours: str | None
    why: str
    domains: str = ".*"
    variant: str = ""

    def concerns(self, variant: str, domains: Iterable[str]) -> bool:
        """Tell whether the difference is to be seen between these domains."""
        is_here = any(re.fullmatch(self.domains, domain) for domain in domains)
        return is_here and self.variant in ("", variant)

    def covers(self, domain: str, fact: str, theirs: str | None, ours: str | None) -> bool:
        """Tell whether it is the reason for a difference."""
        return (
            re.fullmatch(self.domains, domain) is not None
            and re.fullmatch(self.fact, fact) is not None
            and _matches(self.theirs, theirs)
            and _matches(self.ours, ours)
        )


def _matches(pattern: str | None, value: str | None) -> bool:
    if pattern is None or value is None:
        return pattern is value
    return re.fullmatch(pattern, value, re.S) is not None


_MARKS = r"trusted\.libvirt\.security\.\w+"
_LENT = r".*/(base\.img|middle\.qcow2|cd\.iso|readonly/a\.img|shareable/a\.img|transient/a\.img)"
_LOGS = r".*/(serial|said)\.log"
_BOUND = r".*/(redir|card)\.sock"

_BACK = "what is only read, or shared, is given back with its last user"
_QEMUS_LOG = "QEMU writes the file, which is lent to it; libvirt has virtlogd write it"
_OWN_SOCKET = "the socket is QEMU's own in each respect"
_NOTHING = "what goes with the guest has nothing to be remembered of"
_FOLDERS = "a guest has the folders that it uses"
_EARLY = "what QEMU cannot open is named before anything is changed"

DIFFERENCES: tuple[Difference, ...] = (
    Difference("process CapBnd", "000001ffffffffff", "0{16}", "no capability can come back at an exec"),
    Difference(
        "process Cap(Eff|Prm)", "000001ffffffffff", "0{16}", "root has none either", ".*-static-dac"
    ),
    Difference("refused", "by QEMU", "by the daemon", _EARLY, "network-nbd-unix", "selinux"),
    Difference(
        "refused", "by QEMU", "by the daemon", _EARLY,
        "disk-relabel-no|label-none-dac|serial-relabel-no|shmem-doorbell",
    ),
    Difference("refused", "by QEMU", None, "the socket is lent; libvirt leaves it as it is", "rng-egd"),
    Difference(
        r"after (owner|label) /var/log/.*", "file root:root 0600|.*:virt_log_t:s0", None,
        "what is refused before QEMU runs has nothing to log",
        "disk-relabel-no|network-nbd-unix|label-none-dac|serial-relabel-no|shmem-doorbell"
        "|hostdev-usb-absent|second-disk-missing",
    ),
    Difference(rf"running {_MARKS} .*/master-key\.aes", ".*", None, _NOTHING),
    Difference(rf"running {_MARKS} .*\.TRANSIENT-NAME", ".*", None, _NOTHING),
    Difference(
        rf"running {_MARKS} .*/own_VARS\.fd", ".*", None, "it is QEMU's from the beginning", "firmware"
    ),
    Difference(rf"running {_MARKS} .*", ".*", None, "its owner does not change", "label-static-dac"),
    Difference(r"running (owner|label) .*/channel/target/domain-ID-NAME", ".*", None, _FOLDERS),
    Difference(r"running (owner|label) .*/qemu/ram/ID-NAME", ".*", None, _FOLDERS, "shared-memory|nvdimm"),
    Difference(r"running (owner|label) /dev/hugepages/.*", ".*", None, _FOLDERS, "hugepages-file"),
    Difference(
        r"running owner .*/qemu/ram/ID-NAME", "folder qemu:qemu 0700", "folder qemu:qemu 0750",
        "as the guest's other folders", "hugepages-file",
    ),
    Difference(rf"after owner {_LENT}", "file qemu:qemu .*", None, _BACK),
    Difference(rf"running {_MARKS} {_LENT}", None, ".*", _BACK),
    Difference(rf"running {_MARKS} .*/served\.sock", None, ".*", _BACK, "sockets"),
    Difference(rf"node {_MARKS} /dev/loop1", None, ".*", _BACK, "disks"),
    Difference(
        r"(running|node) trusted\.qvirt\.security\.\w+ .*", None, ".*",
        "who uses the file is counted, so that a kill at any step is noticed",
    ),
    Difference(rf"running owner {_LOGS}", "file root:root 0600", "file qemu:qemu 0600", _QEMUS_LOG),
    Difference(rf"running {_MARKS} {_LOGS}", None, ".*", _QEMUS_LOG),
    Difference(
        rf"(running|after) owner {_BOUND}", "socket root:root 0775", "socket qemu:qemu 0775", _OWN_SOCKET
    ),
    Difference(
        r"running owner .*/org\.qemu\.guest_agent\.0", "socket qemu:qemu 0775", "socket root:root 0775",
        "the daemon alone speaks to the agent, no other guest of QEMU's user", "sockets",
    ),
    Difference(
        r"after (owner|label) .*/bound\.sock", None, ".*",
        "outside the guest's own folders nothing is removed; the next start binds it anew", "sockets",
    ),
    Difference(
        r"running label .*/monitor\.sock", r".*:svirt_image_t:s0", r".*:svirt_image_t:s0:PAIR", _OWN_SOCKET,
        variant="selinux",
    ),
    Difference(rf"after label {_LENT}", r".*:svirt_image_t:s0(:PAIR)?|.*:virt_content_t:s0", None,
        _BACK, variant="selinux",
    ),
    Difference(
        r"running label .*/transient/a\.img", r".*:svirt_image_t:s0:PAIR", r".*:virt_content_t:s0",
        "the image below a transient disk's overlay is only read", variant="selinux",
    ),
    Difference(
        rf"(running|after) label {_LOGS}", r".*:virt_image_t:s0", r".*:svirt_image_t:s0:PAIR", _QEMUS_LOG,
        variant="selinux",
    ),
    Difference(
        rf"(running|after) label {_BOUND}", r".*:virt_image_t:s0", r".*:svirt_image_t:s0:PAIR", _OWN_SOCKET,
        variant="selinux",
    ),
    Difference(rf"node {_MARKS} /dev/loop[02]", ".*", None, _NOTHING, "disks", "selinux"),
    Difference(
        "node label /dev/beside/loop", r".*:device_t:s0", r".*:virt_tmpfs_t:s0",
        "a link that is the guest's own; nobody asks for its label", "disks", "selinux",
    ),
    Difference(
        r"rule .*/channel/target/domain-ID-NAME/\{,\*\*\}", "krw", None, _FOLDERS, variant="apparmor"
    ),
    Difference(
        r"rule .*/qemu/ram/ID-NAME/\{,\*\*\}", "krw", None, _FOLDERS, "shared-memory", "apparmor"
    ),
    Difference(rf"rule ({_LOGS}|{_BOUND})", None, "rw", "QEMU opens it by itself", variant="apparmor"),
    Difference("rule /dev/net/tun", "krw", None, "the abstraction for guests has it", "others", "apparmor"),
    Difference(
        r"rule .*/fs0-fs\.sock", "krw", None, "the folder's rule has it", "shared-memory", "apparmor"
    ),
    Difference(r"rule .*/transient/a\.img", "krw", "kr",
        "the image below a transient disk's overlay is only read", variant="apparmor",
    ),
    Difference(r"rule deny .*/transient/a\.img", None, "w",
        "the image below a transient disk's overlay is only read", variant="apparmor",
    ),
)  # fmt: skip
