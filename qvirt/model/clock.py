"""``<clock>``: where the guest's time comes from, and its timers."""

from qvirt.xml.codecs import string, uint, ulong, yes_no
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node


class Catchup(Node, tag="catchup"):
    threshold: int | None = attr(ulong)
    slew: int | None = attr(ulong)
    limit: int | None = attr(ulong)


class Timer(Node, tag="timer"):
    name: str = attr(string, required=True)
    present: bool | None = attr(yes_no)
    tickpolicy: str | None = attr(string)
    track: str | None = attr(string)
    frequency: int | None = attr(ulong)
    mode: str | None = attr(string)
    catchup: Catchup | None = child(Catchup)


class Clock(Node, tag="clock"):
    """The guest's clock."""

    offset: str | None = attr(string)
    adjustment: str | None = attr(string)
    basis: str | None = attr(string)
    timezone: str | None = attr(string)
    start: int | None = attr(ulong)
    timers: list[Timer] = children(Timer)
