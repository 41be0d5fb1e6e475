"""Limits on the traffic of one guest's device, by ``tc``. Blocking.

Inbound, towards the guest, is what the device sends; it is queued. Outbound is what it receives; what is too
much is dropped. Rates are KiB a second, bursts KiB, as in ``<bandwidth>``.
"""

import subprocess
from collections.abc import Sequence

from qvirt.errors import InternalError
from qvirt.model.netdev import Bandwidth, Traffic

_DEADLINE = 10.0


def limit(name: str, bandwidth: Bandwidth | None, *, swap: bool = False) -> None:
    """Set a device's limits, none where none are said. swap: the device is the guest's own end (macvtap).

    Raises InternalError.
    """
    _tc("qdisc", "del", "dev", name, "root", may_fail=True)
    _tc("qdisc", "del", "dev", name, "ingress", may_fail=True)
    if bandwidth is None:
        return
    sends, receives = bandwidth.inbound, bandwidth.outbound
    if swap:
        sends, receives = receives, sends
    if sends is not None and sends.average:
        _tc("qdisc", "add", "dev", name, "root", "handle", "1:", "htb", "default", "1")
        _tc("class", "add", "dev", name, "parent", "1:", "classid", "1:1", "htb", *_rate(sends))
    if receives is not None and receives.average:
        burst = receives.burst or receives.average
        _tc("qdisc", "add", "dev", name, "ingress")
        _tc(
            *(
                "filter",
                "add",
                "dev",
                name,
                "parent",
                "ffff:",
                "protocol",
                "all",
                "u32",
                "match",
                "u32",
                "0",
                "0",
            ),
            *("police", "rate", f"{receives.average}kbps", "burst", f"{burst}kb", "mtu", "64kb", "drop"),
            *("flowid", ":1"),
        )


def _rate(traffic: Traffic) -> list[str]:
    words = ["rate", f"{traffic.average}kbps"]
    if traffic.peak:
        words += ["ceil", f"{traffic.peak}kbps"]
    if traffic.burst:
        words += ["burst", f"{traffic.burst}kb"]
    return words


def batch(lines: Sequence[str], *, may_fail: bool = False) -> None:
    """Do several things with one ``tc``. may_fail: one that fails keeps none of the others from being done.

    Raises InternalError.
    """
    if lines:
        words = ["-force"] if may_fail else []
        _tc(*words, "-batch", "-", may_fail=may_fail, input="\n".join(lines) + "\n")


def _tc(*words: str, may_fail: bool = False, input: str = "") -> None:
    try:
        done = subprocess.run(
            ["tc", *words], check=False, capture_output=True, timeout=_DEADLINE, input=input.encode()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InternalError(f"cannot run 'tc {' '.join(words)}': {error}") from error
    if done.returncode and not may_fail:
        said = done.stderr.decode(errors="replace").strip()
        raise InternalError(
            f"Child process (tc {' '.join(words)}) unexpected exit status {done.returncode}: {said}"
        )
