"""Where the guest's sound goes on the host: ``-audiodev``, and the default one."""

from collections.abc import Iterator, Mapping

from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.audio import Audio, AudioStream
from qvirt.model.devices.graphics import AudioRef
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Audiodev, Switch

#: QEMU's names of the backends that libvirt calls otherwise
_DRIVERS = {"file": "wav", "pulseaudio": "pa"}

PROPS = PropTable(
    Audio,
    Prop("timer-period", "timer_period"),
    Prop("try-mmap", "try_mmap"),
    Prop("exclusive", "exclusive"),
    Prop("dsp-policy", "dsp_policy"),
    Prop("server", "server_name"),
    Prop("path", "path"),
)
STREAM_PROPS = PropTable(
    AudioStream,
    Prop("mixing-engine", "mixing_engine"),
    Prop("fixed-settings", "fixed_settings"),
    Prop("voices", "voices"),
    Prop("buffer-length", "buffer_length"),
    Prop("frequency", "settings.frequency"),
    Prop("channels", "settings.channels"),
    Prop("format", "settings.format"),
    Prop("dev", "dev"),
    Prop("server-name", "server_name"),
    Prop("client-name", "client_name"),
    Prop("connect-ports", "connect_ports"),
    Prop("exact-name", "exact_name"),
    Prop("buffer-count", "buffer_count"),
    Prop("try-poll", "try_poll"),
    Prop("name", "name"),
    Prop("stream-name", "stream_name"),
    Prop("latency", "latency"),
)
_SDL_DRIVERS = {"esd": "esd", "alsa": "alsa", "arts": "arts", "pulseaudio": "pulseaudio"}


class AudioHandler(Handler[Audio], kind=Audio):
    config = False

    def validate(self, dev: Audio, ctx: Context) -> None:
        if any(other is not dev and other.id == dev.id for other in ctx.domain.devices.audios):
            raise XmlError(f"audio ID {dev.id} is used multiple times{line(dev)}")
        if dev.type == "spice" and not any(x.type == "spice" for x in ctx.domain.devices.graphics):
            raise ConfigUnsupported("Spice audio is not supported without spice graphics")

    def environment(self, dev: Audio, ctx: BuildContext) -> Mapping[str, str]:
        if dev.type == "sdl" and dev.driver is not None:
            return {"SDL_AUDIODRIVER": _SDL_DRIVERS[dev.driver]}
        return {}

    def switches(self, dev: Audio, ctx: BuildContext) -> Iterator[Switch]:
        props: dict[str, JsonValue] = {
            "id": f"audio{dev.id}",
            "driver": _DRIVERS.get(dev.type, dev.type),
            **PROPS.render(dev, ctx),
        }
        for key, stream in (("in", dev.input), ("out", dev.output)):
            said = STREAM_PROPS.render(stream, ctx)
            if said:
                props[key] = said
        yield Audiodev(props, origin=dev)


def find_audio(domain: Domain, id: int) -> Audio | None:
    """Return the backend of a number."""
    return next((audio for audio in domain.devices.audios if audio.id == id), None)


def audiodev_id(domain: Domain, chosen: AudioRef | None) -> str:
    """Return QEMU's name of the backend a device plays through: the chosen one, else the domain's first.

    Raises InternalError when there is none.
    """
    audios = domain.devices.audios
    found = find_audio(domain, chosen.id) if chosen is not None else (audios[0] if audios else None)
    if found is None:
        raise InternalError("unable to find audio backend for sound device")
    return f"audio{found.id}"


def add_default_audio(ctx: Context) -> None:
    """Give the domain the audio backend that goes with its displays, unless it has one.

    SPICE carries sound to the viewer, for VNC it is dropped, and a window on the host plays by itself; the
    last display decides.
    """
    devices = ctx.domain.devices
    if devices.audios:
        return
    chosen = None if devices.graphics or ctx.settings.nographics_allow_host_audio else "none"
    for graphics in devices.graphics:
        if graphics.type == "spice":
            chosen = "spice"
        elif graphics.type == "vnc":
            chosen = None if ctx.settings.vnc_allow_host_audio else "none"
        elif graphics.type == "sdl":
            chosen = None
    if chosen is not None:
        devices.audios.append(Audio(id=1, type=chosen))
