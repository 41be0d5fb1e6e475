"""``<clock>``: ``-rtc``, and the timers that have switches of their own (those of the CPU are in cpu.py)."""

import time
from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.clock import Clock, Timer
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machine import states_hpet
from qvirt.qemu.machines import is_x86
from qvirt.qemu.switches import KeyValue, Option, Switch

_TRACK = {"guest": "vm", "wall": "host", "realtime": "rt"}


def default_clock(ctx: Context) -> None:
    """Give the domain libvirt's clock: UTC, no timers."""
    if ctx.domain.clock is None:
        ctx.domain.clock = Clock(offset="utc")


def check_clock(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for timers QEMU does not have."""
    for timer in domain.clock.timers if domain.clock is not None else ():
        _check_timer(timer, domain, ctx)


#: what is said of a timer, and the timers that have it
_SETTINGS = {
    "tickpolicy": frozenset({"platform", "pit", "rtc", "hpet", "tsc", "armvtimer"}),
    "track": frozenset({"platform", "rtc"}),
    "frequency": frozenset({"tsc"}),
    "mode": frozenset({"tsc"}),
}


def _check_timer(timer: Timer, domain: Domain, ctx: Context) -> None:
    for setting, timers in _SETTINGS.items():
        if getattr(timer, setting) is not None and timer.name not in timers:
            raise ConfigUnsupported(
                f"timer {timer.name} doesn't support setting of timer {setting}", domain=ErrorDomain.DOMAIN
            )
    match timer.name:
        case "platform":
            raise ConfigUnsupported(f"unsupported timer type (name) '{timer.name}'")
        case "tsc" | "kvmclock" | "hypervclock":
            if not is_x86(domain) and timer.present:
                raise ConfigUnsupported(
                    f"Configuring the '{timer.name}' timer is not supported for virtType={domain.type} "
                    f"arch={domain.os.type.arch} machine={domain.os.type.machine} guests"
                )
        case "rtc":
            if timer.track == "boot":
                raise ConfigUnsupported(f"unsupported rtc timer track '{timer.track}'")
            if timer.tickpolicy in ("merge", "discard"):
                raise ConfigUnsupported(f"unsupported rtc timer tickpolicy '{timer.tickpolicy}'")
        case "pit":
            if timer.tickpolicy == "merge":
                raise ConfigUnsupported("unsupported pit tickpolicy 'merge'")
            if timer.tickpolicy in ("catchup", "discard") and not ctx.caps.has_device("kvm-pit"):
                raise ConfigUnsupported(f"unsupported pit tickpolicy '{timer.tickpolicy}'")
        case "hpet":
            if timer.present and not is_x86(domain):
                raise ConfigUnsupported("hpet timer is not supported")
        case "armvtimer":
            if not domain.type == "kvm" or domain.os.type.arch != "aarch64":
                raise ConfigUnsupported(
                    f"Configuring the 'armvtimer' timer is not supported for virtType={domain.type} "
                    f"arch={domain.os.type.arch} machine={domain.os.type.machine} guests"
                )


def rtc_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield ``-rtc`` and the switches of PIT and HPET."""
    clock = domain.clock or Clock(offset="utc")
    props: dict[str, JsonValue] = {"base": _base(clock, ctx)}
    rtc = clock.timer("rtc")
    if rtc is not None:
        if rtc.track in _TRACK:
            props["clock"] = _TRACK[rtc.track]
        if rtc.tickpolicy == "catchup":
            props["driftfix"] = "slew"
    yield KeyValue("rtc", props, origin=clock)
    for timer in clock.timers:
        yield from _timer(timer, domain, ctx)


def _timer(timer: Timer, domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    if timer.name == "pit" and timer.tickpolicy in ("delay", "discard", None):
        # "delay" injects missed ticks late, "discard" drops them; "catchup" is what KVM does by itself
        policy = timer.tickpolicy or "delay"
        yield Option("global", f"kvm-pit.lost_tick_policy={policy}", origin=timer)
    elif timer.name == "hpet" and timer.present is False and not states_hpet(domain, ctx):
        yield Option("no-hpet", origin=timer)


def _base(clock: Clock, ctx: BuildContext) -> str:
    match clock.offset:
        case "utc":
            return "utc"
        case "localtime" | "timezone":
            return "localtime"  # the time zone comes with the environment
        case "absolute":
            return _stamp(clock.start or 0)
        case "variable":
            if clock.basis == "localtime":
                local = time.localtime(ctx.now)
                return _stamp(int(ctx.now) + local.tm_gmtoff + int(clock.adjustment or 0))
            return _stamp(int(ctx.now) + int(clock.adjustment or 0))
        case _:
            raise InternalError(f"unexpected clock offset '{clock.offset}'")


def _stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def clock_environment(domain: Domain) -> dict[str, str]:
    """Return the variables of QEMU's environment that the clock needs."""
    clock = domain.clock
    if clock is not None and clock.offset == "timezone" and clock.timezone:
        return {"TZ": clock.timezone}
    return {}
