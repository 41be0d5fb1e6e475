"""``<audio>``: where the host sends and takes the guest's sound."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import positive, string, uint, word, yes_no
from qvirt.xml.fields import attr, child, part
from qvirt.xml.node import Node

#: attributes each backend has of its own: of <audio>, and of its <input> and <output>
_OWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": ((), ()),
    "alsa": ((), ("dev",)),
    "coreaudio": ((), ("buffer_count",)),
    "jack": ((), ("server_name", "client_name", "connect_ports", "exact_name")),
    "oss": (("try_mmap", "exclusive", "dsp_policy"), ("dev", "buffer_count", "try_poll")),
    "pulseaudio": (("server_name",), ("name", "stream_name", "latency")),
    "sdl": (("driver",), ("buffer_count",)),
    "spice": ((), ()),
    "file": (("path",), ()),
    "dbus": ((), ()),
}


class AudioSettings(Node, tag="settings"):
    """``<settings>``: the sample format; needs ``fixedSettings``."""

    frequency: int | None = attr(uint)
    channels: int | None = attr(uint)
    format: str | None = attr(word("s8", "u8", "s16", "u16", "s32", "u32", "f32"))


class AudioStream(Node):
    """``<input>`` or ``<output>``; lengths and latency in microseconds."""

    mixing_engine: bool | None = attr(yes_no, "mixingEngine")
    fixed_settings: bool | None = attr(yes_no, "fixedSettings")
    voices: int | None = attr(uint, omit=0)
    buffer_length: int | None = attr(uint, "bufferLength", omit=0)
    server_name: str | None = attr(string, "serverName")
    client_name: str | None = attr(string, "clientName")
    connect_ports: str | None = attr(string, "connectPorts")
    exact_name: bool | None = attr(yes_no, "exactName")
    dev: str | None = attr(string)
    buffer_count: int | None = attr(uint, "bufferCount", omit=0)
    try_poll: bool | None = attr(yes_no, "tryPoll")
    name: str | None = attr(string)
    stream_name: str | None = attr(string, "streamName")
    latency: int | None = attr(uint, omit=0)
    settings: AudioSettings | None = child(AudioSettings)


_SHARED = frozenset(("mixing_engine", "fixed_settings", "voices", "buffer_length", "settings"))


class Audio(Device, tag="audio"):
    """``<audio>``; timer_period in microseconds."""

    id: int = attr(positive, required=True)
    type: str = attr(word(*_OWN), required=True)
    timer_period: int | None = attr(uint, "timerPeriod", omit=0)
    try_mmap: bool | None = attr(yes_no, "tryMMap")
    exclusive: bool | None = attr(yes_no)
    dsp_policy: int | None = attr(uint, "dspPolicy")
    server_name: str | None = attr(string, "serverName")
    driver: str | None = attr(word("esd", "alsa", "arts", "pulseaudio"))
    path: str | None = attr(string)
    input: AudioStream = part(AudioStream, "input")
    output: AudioStream = part(AudioStream, "output")

    def check(self) -> None:
        own, of_stream = _OWN[self.type]
        for name in ("try_mmap", "exclusive", "dsp_policy", "server_name", "driver", "path"):
            if name not in own:
                self.__dict__.pop(name, None)
        for stream in (self.input, self.output):
            for known in AudioStream.fields:
                if known.name not in _SHARED and known.name not in of_stream:
                    stream.__dict__.pop(known.name, None)
            _check_stream(stream)


def _check_stream(stream: AudioStream) -> None:
    said = stream.settings is not None and not stream.settings.is_empty()
    if said and not stream.fixed_settings:
        raise ConfigUnsupported(
            "audio settings specified without fixed settings flag", domain=ErrorDomain.DOMAIN
        )
    if stream.fixed_settings and not stream.mixing_engine:
        raise ConfigUnsupported("fixed audio settings requires mixing engine", domain=ErrorDomain.DOMAIN)
