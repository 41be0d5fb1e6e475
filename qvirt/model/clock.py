"""``<clock>``: where the guest's time comes from, and its timers."""

from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.xml.codecs import long, string, ulong, words, yes_no
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node, complain

TIMERS = ("platform", "pit", "rtc", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer")


class Catchup(Node, tag="catchup"):
    """``<catchup>`` of a timer: threshold and limit in nanoseconds of lost time."""

    threshold: int | None = attr(ulong, omit=0)
    slew: int | None = attr(ulong, omit=0)
    limit: int | None = attr(ulong, omit=0)


class Timer(Node, tag="timer"):
    """One ``<timer>``; frequency in Hz."""

    name: str = attr(words(*TIMERS), required=True)
    present: bool | None = attr(yes_no)
    tickpolicy: str | None = attr(words("delay", "catchup", "merge", "discard"))
    track: str | None = attr(words("boot", "guest", "wall", "realtime"))
    frequency: int | None = attr(ulong, omit=0)
    mode: str | None = attr(words("auto", "native", "emulate", "paravirt", "smpsafe"))
    catchup: Catchup | None = child(Catchup)

    def check(self) -> None:
        if self.catchup is not None and self.catchup.is_empty():
            self.catchup = None
        if self.catchup is not None and self.tickpolicy != "catchup":
            raise XmlError("setting of timer catchup policies is only supported with tickpolicy='catchup'")


class Clock(Node, tag="clock"):
    """The guest's clock; ``adjustment`` in seconds or ``reset``, ``start`` in seconds since the epoch."""

    complaints = complain(
        {
            "offset": (ConfigUnsupported, "unknown clock offset '{}'"),
            "basis": (ConfigUnsupported, "unknown clock basis '{}'"),
            "start": (InternalError, "missing 'start' attribute for clock with offset='absolute'"),
        }
    )
    offset: str | None = attr(words("utc", "localtime", "variable", "timezone", "absolute"))
    adjustment: str | None = attr(string)
    basis: str | None = attr(words("utc", "localtime"))
    timezone: str | None = attr(string)
    start: int | None = attr(ulong)
    timers: list[Timer] = children(Timer)

    def check(self) -> None:
        """Bring an adjusted clock into libvirt's one form: offset ``variable`` with its basis."""
        offset = self.offset = self.offset or "utc"
        adjustment = self.adjustment
        if offset in ("utc", "localtime"):
            self.adjustment = None
            if adjustment == "reset":
                self.adjustment = "reset"
            elif adjustment is not None:
                try:
                    self.adjustment = str(long.parse(adjustment))
                except ValueError:
                    raise XmlError(f"unknown clock adjustment '{adjustment}'") from None
                self.offset, self.basis = "variable", offset
        elif offset == "variable":
            try:
                self.adjustment = str(long.parse(adjustment or "0"))
            except ValueError:
                self.adjustment = "0"  # what libvirt makes of it
            self.basis = self.basis or "utc"
        else:
            self.adjustment = None
        if self.offset != "variable":
            self.basis = None
        if offset == "timezone" and not self.timezone:
            raise InternalError("missing 'timezone' attribute for clock with offset='timezone'")
        if offset == "absolute" and self.start is None:
            raise InternalError("missing 'start' attribute for clock with offset='absolute'")
        if offset != "timezone":
            self.timezone = None
        if offset != "absolute":
            self.start = None

    def timer(self, name: str) -> Timer | None:
        """Return the timer of that name."""
        return next((timer for timer in self.timers if timer.name == name), None)
