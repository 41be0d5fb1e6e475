"""Sound: the backends, the default one, and the cards."""

import json

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, XmlError
from qvirt.qemu.context import Settings
from qvirt.qemu.devices.base import handler
from tests.unit.qemu.devices.guests import guest, validate, words


@pytest.mark.parametrize(
    ("document", "settings", "types"),
    [
        ("", Settings(), ["none"]),
        ("", Settings(nographics_allow_host_audio=True), []),
        ("<graphics type='vnc'/>", Settings(), ["none"]),
        ("<graphics type='vnc'/>", Settings(vnc_allow_host_audio=True), []),
        ("<graphics type='spice'/>", Settings(), ["spice"]),
        ("<graphics type='spice'/><graphics type='vnc'/>", Settings(), ["none"]),
        ("<graphics type='vnc'/><graphics type='spice'/>", Settings(), ["spice"]),
        ("<graphics type='sdl'/>", Settings(), []),
        ("<graphics type='dbus'/>", Settings(), []),
        ("<audio id='3' type='alsa'/>", Settings(), ["alsa"]),
    ],
)
def test_the_default_backend_goes_with_the_displays(
    document: str, settings: Settings, types: list[str]
) -> None:
    assert [audio.type for audio in guest(document, settings=settings).domain.devices.audios] == types


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("<audio id='1' type='none'/>", {"id": "audio1", "driver": "none"}),
        (
            "<audio id='2' type='file' path='/a' timerPeriod='4'/>",
            {"id": "audio2", "driver": "wav", "timer-period": 4, "path": "/a"},
        ),
        (
            "<audio id='1' type='pulseaudio' serverName='s'>"
            "<input name='n' streamName='m' latency='3'/></audio>",
            {
                "id": "audio1",
                "driver": "pa",
                "server": "s",
                "in": {"name": "n", "stream-name": "m", "latency": 3},
            },
        ),
        (
            "<audio id='1' type='oss' tryMMap='yes' dspPolicy='0'><output dev='/dev/dsp' mixingEngine='yes' "
            "fixedSettings='yes'><settings frequency='44100' channels='2' format='s16'/></output></audio>",
            {
                "id": "audio1",
                "driver": "oss",
                "try-mmap": True,
                "dsp-policy": 0,
                "out": {
                    "mixing-engine": True,
                    "fixed-settings": True,
                    "frequency": 44100,
                    "channels": 2,
                    "format": "s16",
                    "dev": "/dev/dsp",
                },
            },
        ),
    ],
)
def test_backends(document: str, expected: dict[str, object]) -> None:
    ctx = guest(document)
    assert json.loads(words(ctx.domain.devices.audios[0], ctx)[1]) == expected


def test_what_a_backend_does_not_have_is_not_kept() -> None:
    dev = guest("<audio id='1' type='alsa' path='/x'><input bufferCount='3' dev='d'/></audio>").domain.devices
    assert dev.audios[0].to_xml() == "<audio id='1' type='alsa'>\n  <input dev='d'/>\n</audio>\n"


def test_sdl_takes_its_driver_from_the_environment() -> None:
    ctx = guest("<audio id='1' type='sdl' driver='esd'/>")
    dev = ctx.domain.devices.audios[0]
    assert handler(dev).environment(dev, ctx) == {"SDL_AUDIODRIVER": "esd"}


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        (
            "<audio id='1' type='none'/><audio id='1' type='none'/>",
            XmlError,
            "audio ID 1 is used multiple times",
        ),
        (
            "<audio id='1' type='spice'/>",
            ConfigUnsupported,
            "Spice audio is not supported without spice graphics",
        ),
        (
            "<audio id='1' type='none'><input><settings frequency='1'/></input></audio>",
            ConfigUnsupported,
            "audio settings specified without fixed settings flag",
        ),
        (
            "<audio id='1' type='none'><input mixingEngine='no' fixedSettings='yes'/></audio>",
            ConfigUnsupported,
            "fixed audio settings requires mixing engine",
        ),
        ("<sound model='ac97'><audio id='4'/></sound>", XmlError, "no audio device with ID 4"),
        ("<sound model='ich6'><codec type='x'/></sound>", ConfigUnsupported, "unknown codec type 'x'"),
    ],
)
def test_what_is_refused(document: str, error: type[QvirtError], message: str) -> None:
    with pytest.raises(error) as refused:
        validate(guest(document))
    assert message in refused.value.message


def test_cards_play_through_the_first_backend_or_the_one_they_name() -> None:
    ctx = guest(
        "<audio id='2' type='none'/><audio id='1' type='none'/>"
        "<sound model='sb16'><alias name='sound0'/></sound>"
        "<sound model='sb16'><audio id='1'/><alias name='sound1'/></sound>"
    )
    made = [json.loads(words(dev, ctx)[1])["audiodev"] for dev in ctx.domain.devices.sounds]
    assert made == ["audio2", "audio1"]


def test_hda_cards_have_codecs() -> None:
    ctx = guest(
        "<sound model='ich9'><codec type='micro'/><codec type='output'/><alias name='sound0'/></sound>"
    )
    made = words(ctx.domain.devices.sounds[0], ctx)[1::2]
    assert [json.loads(word)["driver"] for word in made] == ["ich9-intel-hda", "hda-micro", "hda-output"]
    assert json.loads(made[2]) == {
        "driver": "hda-output", "id": "sound0-codec1", "bus": "sound0.0", "cad": 1, "audiodev": "audio1",
    }  # fmt: skip


def test_hda_cards_without_codecs_get_one() -> None:
    ctx = guest("<sound model='ich6'><alias name='sound0'/></sound>")
    assert json.loads(words(ctx.domain.devices.sounds[0], ctx)[3])["driver"] == "hda-duplex"


def test_a_card_with_nowhere_to_play_is_refused() -> None:
    ctx = guest("<graphics type='sdl'/><sound model='ac97'/>")
    with pytest.raises(InternalError, match="unable to find audio backend for sound device"):
        words(ctx.domain.devices.sounds[0], ctx)


def test_the_speaker_is_said_in_words_this_qemu_knows() -> None:
    document = "<sound model='pcspk'/>"
    shown = guest(document)
    assert words(shown.domain.devices.sounds[0], shown) == ["-soundhw", "pcspk"]
    started = guest(document, id=1)
    assert words(started.domain.devices.sounds[0], started) == ["-machine", "pcspk-audiodev=audio1"]
