"""Sound cards: ``-device``, and the codecs of HDA cards."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.sound import Sound
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.audio import audiodev_id, find_audio
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.switches import Device, KeyValue, Option, Switch

_TYPES = {
    "es1370": "ES1370",
    "ac97": "AC97",
    "ich6": "intel-hda",
    "ich9": "ich9-intel-hda",
    "sb16": "sb16",
    "usb": "usb-audio",
}
_WITHOUT_SOUNDHW = (7, 1, 0)
_HDA = ("ich6", "ich9")


class SoundHandler(Handler[Sound], kind=Sound):
    def validate(self, dev: Sound, ctx: Context) -> None:
        if dev.audio is not None and find_audio(ctx.domain, dev.audio.id) is None:
            raise XmlError(f"no audio device with ID {dev.audio.id}{line(dev)}")
        type = _TYPES.get(dev.model)
        if type is None and dev.model != "pcspk":
            raise ConfigUnsupported(f"sound card model '{dev.model}' is not supported by qemu{line(dev)}")
        if type is not None and dev.model != "sb16" and not ctx.caps.has_device(type):
            raise ConfigUnsupported(f"'{dev.model}' sound model is not supported by this QEMU")

    def switches(self, dev: Sound, ctx: BuildContext) -> Iterator[Switch]:
        if dev.model == "pcspk":
            # part of every PC; QEMU has dropped libvirt's word for it, so a start says it otherwise
            if ctx.launch.id < 0 or ctx.caps.version < _WITHOUT_SOUNDHW:
                yield Option("soundhw", "pcspk", origin=dev)
            else:
                audiodev = audiodev_id(ctx.domain, dev.audio)
                yield KeyValue("machine", {"pcspk-audiodev": audiodev}, origin=dev)
            return
        type = _TYPES.get(dev.model)
        if type is None:
            raise ConfigUnsupported(f"sound card model '{dev.model}' is not supported by qemu{line(dev)}")
        name = dev.alias.name
        if dev.model not in _HDA:
            audiodev = audiodev_id(ctx.domain, dev.audio)
            yield Device(
                {"driver": type, "id": name, "audiodev": audiodev, **placement(dev, ctx)}, origin=dev
            )
            return
        yield Device({"driver": type, "id": name, **placement(dev, ctx)}, origin=dev)
        for i, codec in enumerate([codec.type for codec in dev.codecs] or ["duplex"]):
            yield Device(
                {
                    "driver": f"hda-{codec}",
                    "id": f"{name}-codec{i}",
                    "bus": f"{name}.0",
                    "cad": i,
                    "audiodev": audiodev_id(ctx.domain, dev.audio),
                },
                origin=dev,
            )
