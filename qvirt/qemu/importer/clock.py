"""``-rtc`` and the switches before it, HPET and PIT: ``<clock>`` and its timers."""

import calendar
import time

from qvirt.model.clock import Clock, Timer
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument, split_opts


def read_clock(line: Line) -> None:
    """Read the clock and what ticks beside it."""
    clock = line.domain.clock = Clock(offset="utc")
    for argument in line.given("localtime"):
        clock.offset = "localtime"
        line.to_xml([argument], "<clock offset='localtime'>")
    for argument in line.given("rtc"):
        for key, value in split_opts(argument.value or ""):
            _rtc(line, clock, argument, key, value)
        line.to_xml([argument], "<clock>")
    for argument in line.given("rtc-td-hack"):
        clock.timers.append(Timer(name="rtc", tickpolicy="catchup"))
        line.to_xml([argument], "<timer name='rtc' tickpolicy='catchup'/>")
    for argument in line.given("startdate"):
        _start(line, clock, argument, argument.value or "now")
    no_hpet = line.given("no-hpet")
    said = line.machine.get("hpet")
    if (no_hpet or said in ("on", "off")) and line.arch in ("x86_64", "i686"):
        present = not no_hpet and said == "on"
        clock.timers.append(Timer(name="hpet", present=present))
        line.to_xml(no_hpet, "<timer name='hpet' present='no'/>")
    elif no_hpet:
        line.drop(no_hpet, "this machine has no HPET")
    policy = line.given("no-kvm-pit-reinjection")
    if policy:
        clock.timers.append(Timer(name="pit", tickpolicy="discard"))
        line.to_xml(policy, "<timer name='pit' tickpolicy='discard'/>")
    zone = line.env.get("TZ")
    if zone and clock.offset == "localtime":
        clock.offset, clock.timezone = "timezone", zone
        line.note(f"TZ={zone}: <clock offset='timezone'>")


_TRACK = {"vm": "guest", "host": "wall", "rt": "realtime"}


def _rtc(line: Line, clock: Clock, argument: Argument, key: str, value: str) -> None:
    rtc = clock.timer("rtc")
    if key == "base":
        _start(line, clock, argument, value)
        return
    if key == "clock" and value in _TRACK:
        if value == "host":
            return  # what QEMU does anyway
        if rtc is None:
            rtc = Timer(name="rtc")
            clock.timers.append(rtc)
        rtc.track = _TRACK[value]
    elif key == "driftfix":
        if value != "slew":
            return
        if rtc is None:
            rtc = Timer(name="rtc")
            clock.timers.append(rtc)
        rtc.tickpolicy = "catchup"
    else:
        line.pass_on([argument], ["-rtc", f"{key}={value}"], "no XML")


def _start(line: Line, clock: Clock, argument: Argument, value: str) -> None:
    if value in ("utc", "localtime"):
        clock.offset = value
        return
    if value == "now":
        line.to_xml([argument], "<clock offset='utc'>")
        return
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            clock.start = calendar.timegm(time.strptime(value, form))
        except ValueError:
            continue
        clock.offset = "absolute"
        line.to_xml([argument], "<clock offset='absolute'>")
        return
    line.drop([argument], f"'{value}' is no date")
