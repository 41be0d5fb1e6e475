"""Limits on the traffic of bridges and taps, by the kernel's queueing over netlink. Blocking.

Inbound, towards the guests, is what the host's device sends: an HTB class. Outbound is what it receives; what
is too much is dropped. Rates are KiB a second, bursts KiB, as in ``<bandwidth>``.
"""

import errno
from typing import Any

from qvirt.host import netlink
from qvirt.model.netdev import Traffic

_KIB = 1024
_ROOT, _INGRESS = 0x10000, 0xFFFF0000
_ALL_PROTOCOLS = 0x0003
#: the largest packet that is measured as one: segments are offloaded
_POLICE_MTU = 65535


def set_bridge(name: str, inbound: Traffic | None, outbound: Traffic | None) -> None:
    """Limit a network's bridge: a class for all, in it one for those without a floor. Raises SystemError_."""
    _set(name, inbound, outbound, shared=True)


def _clear(ip: Any, index: int) -> None:
    netlink.without(lambda: ip.tc("del", index=index, parent=0xFFFFFFFF))
    netlink.without(lambda: ip.tc("del", "ingress", index=index, handle=_INGRESS))


def _set(name: str, inbound: Traffic | None, outbound: Traffic | None, *, shared: bool) -> None:
    def work(ip: Any, index: int) -> None:
        _clear(ip, index)
        try:
            if inbound is not None and inbound.average:
                _inbound(ip, index, inbound, shared=shared)
            if outbound is not None and outbound.average:
                _outbound(ip, index, outbound)
        except Exception:
            _clear(ip, index)
            raise

    netlink.traffic(name, work)


def _inbound(ip: Any, index: int, traffic: Traffic, *, shared: bool) -> None:
    average = (traffic.average or 0) * _KIB
    words: dict[str, Any] = {"rate": average, "ceil": (traffic.peak or traffic.average or 0) * _KIB}
    if traffic.burst:
        words["burst"] = traffic.burst * _KIB
    ip.tc("add", "htb", index=index, handle=_ROOT, default=2 if shared else 1)
    ip.tc("add-class", "htb", index=index, handle=_ROOT | 1, parent=_ROOT, **words)
    if shared:
        ip.tc("add-class", "htb", index=index, handle=_ROOT | 2, parent=_ROOT | 1, **words)
    # fairness among connections; a kernel without it only limits
    parent = _ROOT | (2 if shared else 1)
    netlink.without(lambda: ip.tc("add", "sfq", index=index, handle=0x20000, parent=parent, perturb=10))


def _outbound(ip: Any, index: int, traffic: Traffic) -> None:
    ip.tc("add", "ingress", index=index, handle=_INGRESS)
    try:
        ip.tc(
            "add-filter",
            "u32",
            index=index,
            parent=_INGRESS,
            protocol=_ALL_PROTOCOLS,
            prio=1,
            target=0x10001,
            keys=["0x0/0x0+0"],
            rate=(traffic.average or 0) * _KIB,
            burst=(traffic.burst or traffic.average or 0) * _KIB,
            mtu=_POLICE_MTU,
            action="drop",
        )
    except Exception as error:
        if getattr(error, "code", None) != errno.ENOENT:
            raise
        raise OSError(
            errno.ENOENT, "the kernel has no policer for <outbound> (modules cls_u32 and act_police)"
        ) from error
