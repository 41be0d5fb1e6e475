"""Screens people look at: ``-vnc``, ``-spice``, ``-display`` and what came before them."""

from qvirt.model.devices.audio import Audio
from qvirt.model.devices.graphics import (
    Gl,
    Graphics,
    Listen,
    SpiceClipboard,
    SpiceFileTransfer,
    SpiceImage,
    SpiceJpeg,
    SpiceMouse,
    SpicePlayback,
    SpiceStreaming,
    SpiceZlib,
)
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument, split_commas, split_opts
from qvirt.qemu.importer.parts import Part, Unfit, integer, switch

_FIRST_VNC = 5900
_FIRST_WEBSOCKET = 5700
_OF_A_WINDOW = (
    "sdl", "curses", "full-screen", "alt-grab", "ctrl-grab", "no-frame", "no-quit", "show-cursor", "portrait",
    "rotate",
)  # fmt: skip
_WINDOWS = frozenset({"gtk", "sdl", "cocoa", "curses", "default"})


def read_displays(line: Line, reason: str = "") -> None:
    """Read the displays. A window is one of a user's own session; a daemon's guest has none.

    reason: why none is to be XML, if so.
    """
    for argument in line.given("vnc", "spice"):
        if reason:
            line.pass_on([argument], [f"-{argument.name}", argument.value or ""], reason)
            continue
        try:
            (_vnc if argument.name == "vnc" else _spice)(line, argument, argument.value or "")
        except Unfit as problem:
            line.pass_on([argument], [f"-{argument.name}", argument.value or ""], str(problem))
    for argument in line.given("display"):
        _display(line, argument, reason)
    windows = line.given(*_OF_A_WINDOW)
    for argument in windows:
        if argument.name == "sdl" and _window(line, argument, {}):
            continue
        line.drop([argument], _NO_WINDOW)
    said = line.given("nographic", "vnc", "spice", "display", *_OF_A_WINDOW)
    if not said and line.defaults and "DISPLAY" in line.env:
        # what QEMU does when nothing is said, and a screen is there
        line.domain.devices.graphics.append(
            Graphics(type="sdl", display=line.env["DISPLAY"], xauth=line.env.get("XAUTHORITY"))
        )
        line.note("a window on the screen that DISPLAY names: <graphics type='sdl'>")
    _keyboard(line)


def finish_displays(line: Line) -> None:
    """Read what depends on the devices: the terminal that stood for a screen, and where sound goes."""
    if line.nographic:
        nographic = line.given("nographic")
        if line.domain.devices.serials and line.family in ("pc", "q35"):
            line.domain.os.bios.useserial = True
        line.to_xml(nographic, "no <graphics>")
    _headless(line)
    _sound(line)


def _headless(line: Line) -> None:
    """Let a GPU draw for a card that needs one where a window did, which a daemon's guest does not have."""
    devices = line.domain.devices
    windows = [
        argument
        for argument in line.given("display")
        if switch(dict(split_opts(argument.value or "", "type")).get("gl") or "off") is not False
    ]
    draws = any(video.model.acceleration.accel3d for video in devices.videos)
    if windows and draws and line.has_gpu and not any(shown.gl is not None for shown in devices.graphics):
        devices.graphics.append(Graphics(type="egl-headless"))
        line.to_xml(windows, "<graphics type='egl-headless'>, which draws what the window did")


_NO_WINDOW = "a daemon's guest has no window; <graphics type='vnc'/> or 'spice' would show its screen"


def _display(line: Line, argument: Argument, reason: str) -> None:
    pairs = split_opts(argument.value or "", "type")
    props = dict(pairs)
    kind = props.pop("type", "")
    if kind == "none":
        line.to_xml([argument], "no <graphics>")
    elif reason and (kind == "vnc" or (argument.value or "").startswith("vnc=")):
        line.pass_on([argument], ["-display", argument.value or ""], reason)
    elif kind in ("vnc", "vnc=on") or (argument.value or "").startswith("vnc="):
        text = (argument.value or "").partition("=")[2]
        try:
            _vnc(line, argument, text or ":0")
        except Unfit as problem:
            line.pass_on([argument], ["-display", argument.value or ""], str(problem))
    elif kind == "egl-headless" and props.get("rendernode") is None and not line.has_gpu:
        line.drop(
            [argument], "no GPU of this host can draw; <graphics type='egl-headless'/> is for one that can"
        )
    elif kind == "egl-headless":
        dev = Graphics(type="egl-headless")
        if props.get("rendernode") is not None:
            dev.gl = Gl(rendernode=props["rendernode"])
        line.domain.devices.graphics.append(dev)
        line.to_xml([argument], "<graphics type='egl-headless'>")
    elif kind == "sdl" and _window(line, argument, props):
        return
    elif kind in _WINDOWS or kind.startswith("spice"):
        line.drop([argument], _NO_WINDOW if kind in _WINDOWS else "a viewer is started by who looks")
    else:
        line.pass_on([argument], ["-display", argument.value or ""], "no XML")


def _window(line: Line, argument: Argument, props: dict[str, str]) -> bool:
    """Make an SDL window, where the environment names the screen it is to be on."""
    screen = line.env.get("DISPLAY")
    if screen is None:
        return False
    dev = Graphics(type="sdl", display=screen, xauth=line.env.get("XAUTHORITY"))
    if line.given("full-screen"):
        dev.fullscreen = True
        line.to_xml(line.given("full-screen"), "<graphics fullscreen='yes'>")
    if props.get("gl") is not None:
        dev.gl = Gl(enable=bool(switch(props["gl"])))
    line.domain.devices.graphics.append(dev)
    line.to_xml([argument], "<graphics type='sdl'>")
    return True


def _vnc(line: Line, argument: Argument, text: str) -> None:
    where, *words = split_commas(text)
    if where == "none":
        line.to_xml([argument], "no <graphics>")
        return
    dev = Graphics(type="vnc")
    props = dict(split_opts(",".join(words))) if words else {}
    if where.startswith("vnc="):
        where = where.removeprefix("vnc=")
    if where.startswith("unix:"):
        dev.listens = [Listen(type="socket", socket=where.removeprefix("unix:"))]
    else:
        host, _, number = where.rpartition(":")
        if not number.isdigit():
            raise Unfit(f"'{where}' is no display")
        dev.port, dev.autoport = _FIRST_VNC + int(number), False
        dev.listens = [Listen(type="address", address=host.strip("[]") or "0.0.0.0")]  # noqa: S104
    for key, value in props.items():
        if key == "password" and switch(value):
            dev.passwd = ""
            line.note("the password was set through the monitor: set it in <graphics passwd='…'>", [argument])
        elif key == "websocket":
            default = _FIRST_WEBSOCKET + (dev.port or 0) - _FIRST_VNC
            dev.websocket = int(value) if value.isdigit() else default
        elif key == "share" and value in ("allow-exclusive", "force-shared", "ignore"):
            dev.share_policy = value
        elif key == "power-control":
            dev.power_control = switch(value)
        elif key == "to":
            line.note("a port that is taken is an error; autoport='yes' looks for a free one", [argument])
        elif key == "sasl" or key.startswith(("tls", "x509", "acl")):
            line.note(f"{key}={value}: how viewers prove who they are is set in qemu.conf", [argument])
        elif key in ("lossy", "non-adaptive", "adaptive", "audiodev"):
            line.note(f"{key}={value} has no XML", [argument])
        else:
            raise Unfit(f"{key}={value} has no XML")
    line.domain.devices.graphics.append(dev)
    line.to_xml([argument], "<graphics type='vnc'>")


_SPICE_IMAGE = ("auto_glz", "auto_lz", "quic", "glz", "lz", "off")


def _spice(line: Line, argument: Argument, text: str) -> None:
    dev = Graphics(type="spice")
    props = dict(split_opts(text))
    address = props.pop("addr", None)
    if switch(props.pop("unix", None)):
        dev.listens = [Listen(type="socket", socket=address)]
        props.pop("port", None)
    else:
        dev.listens = [Listen(type="address", address=address or "0.0.0.0")]  # noqa: S104
        dev.autoport = False
    needs_ticket = True
    for key, value in props.items():
        state = switch(value)
        if key == "port":
            dev.port = integer(value, key)
        elif key == "tls-port" and not line.spice_tls:
            raise Unfit("TLS for SPICE is not set up in qemu.conf")
        elif key == "tls-port":
            dev.tls_port = integer(value, key)
        elif key == "disable-ticketing":
            needs_ticket = not state
        elif key == "password":
            dev.passwd, needs_ticket = value, False
        elif key == "image-compression" and value in _SPICE_IMAGE:
            dev.image = SpiceImage(compression=value)
        elif key == "jpeg-wan-compression":
            dev.jpeg = SpiceJpeg(compression=value)
        elif key == "zlib-glz-wan-compression":
            dev.zlib = SpiceZlib(compression=value)
        elif key == "playback-compression":
            dev.playback = SpicePlayback(compression="on" if state else "off")
        elif key == "streaming-video" and value in ("off", "all", "filter"):
            dev.streaming = SpiceStreaming(mode=value)
        elif key == "agent-mouse":
            dev.mouse = SpiceMouse(mode="client" if state else "server")
        elif key == "disable-copy-paste":
            dev.clipboard = SpiceClipboard(copypaste=not state)
        elif key == "disable-agent-file-xfer":
            dev.filetransfer = SpiceFileTransfer(enable=not state)
        elif key == "gl":
            dev.gl = dev.gl or Gl()
            dev.gl.enable = bool(state)
        elif key == "rendernode":
            dev.gl = dev.gl or Gl()
            dev.gl.rendernode = value
        elif key in ("seamless-migration", "x509-dir", "tls-ciphers", "ipv4", "ipv6", "sasl"):
            line.note(f"{key}={value} is the daemon's to choose", [argument])
        else:
            raise Unfit(f"{key}={value} has no XML")
    if needs_ticket:
        dev.passwd = ""
        line.note("the ticket was set through the monitor: set it in <graphics passwd='…'>", [argument])
    line.domain.devices.graphics.append(dev)
    line.to_xml([argument], "<graphics type='spice'>")


def _keyboard(line: Line) -> None:
    given = line.given("k")
    if not given:
        return
    shown = [dev for dev in line.domain.devices.graphics if dev.type in ("vnc", "spice")]
    for dev in shown:
        dev.keymap = given[-1].value
    if shown:
        line.to_xml(given, "<graphics keymap=…>")
    else:
        line.drop(given, "a keyboard layout belongs to a VNC or SPICE screen, and there is none")


AUDIO_VARIABLE = "QEMU_AUDIO_DRV"
_AUDIO = {
    "pa": "pulseaudio", "alsa": "alsa", "sdl": "sdl", "spice": "spice", "none": "none", "oss": "oss",
    "jack": "jack", "dbus": "dbus", "wav": "file",
}  # fmt: skip


#: sound servers of somebody's session
_OF_A_SESSION = frozenset({"pulseaudio", "jack", "sdl", "dbus"})


def _reaches(line: Line, kind: str, part: Part | None) -> bool:
    """Tell whether sound gets to where it is to go; where it does not, QEMU would not start."""
    if kind not in _OF_A_SESSION or line.in_session or (part is not None and part.text("server") is not None):
        return True
    line.note(
        f"the sound server ({kind}) is one of a user's session, where the daemon's guests are not heard: "
        "<audio> names one that can be reached",
        part.given if part is not None else (),
    )
    return False


def _sound(line: Line) -> None:
    """Read where the sound goes; one backend for all cards, as XML has it by default."""
    listed = line.parts.of("audiodev")
    wanted = _AUDIO.get(line.env.get(AUDIO_VARIABLE, ""))
    if wanted is not None and not listed and _reaches(line, wanted, None):
        line.domain.devices.audios.append(Audio(id=1, type=wanted))
        line.note(f"{AUDIO_VARIABLE}={line.env[AUDIO_VARIABLE]}: <audio type='{wanted}'>")
    for number, part in enumerate(listed, 1):
        kind = _AUDIO.get(part.text("driver") or "")
        strange = set(part.props) - {"driver", "id", "server", "timer-period", "path"}
        if kind is None or number > 1 or strange:
            if part.settled:
                part.settled = ""
            line.drop(part.given, "the guest's sound goes one way: through the first -audiodev XML can name")
            part.settled = "dropped"
            continue
        if not _reaches(line, kind, part):
            kind = "none"
        audio = Audio(id=1, type=kind)
        if kind == "pulseaudio" and part.text("server") is not None:
            audio.server_name = part.text("server")
        if kind == "file":
            audio.path = part.text("path")
        line.domain.devices.audios.append(audio)
        part.settled = "xml"
        line.to_xml(part.given, f"<audio type='{kind}'>")
