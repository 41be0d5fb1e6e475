"""``<video>``: a graphics card."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.xml.codecs import Codec, refusing, string, uint, word, yes_no
from qvirt.xml.fields import attr, child, part
from qvirt.xml.node import Node

VIDEO_MODELS = (
    "vga", "cirrus", "vmvga", "xen", "vbox", "qxl", "parallels", "virtio", "gop", "none", "bochs", "ramfb",
)  # fmt: skip


class VideoDriver(VirtioDriver):
    """``<driver>``; ``name``: ``vhostuser`` runs the card in a process of its own."""

    vgaconf: str | None = attr(string)
    name: str | None = attr(word("qemu", "vhostuser"))

    def check(self) -> None:
        if self.vgaconf not in ("on", "off"):  # "io" is what a card does anyway
            self.__dict__.pop("vgaconf", None)


# here libvirt writes the virtio options first
VideoDriver._bind((*VirtioDriver.fields, *(x for x in VideoDriver.fields if x not in VirtioDriver.fields)))


class Acceleration(Node, tag="acceleration"):
    accel3d: bool | None = attr(yes_no)
    accel2d: bool | None = attr(yes_no)
    rendernode: str | None = attr(string)

    def check(self) -> None:
        if self.accel3d is None and self.accel2d is None and self.rendernode is None:
            raise ConfigUnsupported("missing values for acceleration", domain=ErrorDomain.DOMAIN)


class Resolution(Node, tag="resolution"):
    """``<resolution>``: what the guest sees at first, in pixels."""

    x: int = attr(uint, required=True)
    y: int = attr(uint, required=True)

    def check(self) -> None:
        if self.x == 0 or self.y == 0:
            raise ConfigUnsupported(
                "video resolution values must be greater than 0", domain=ErrorDomain.DOMAIN
            )


def _number(name: str) -> Codec[int]:
    return refusing(uint, lambda text: XmlError(f"cannot parse video {name} '{text}'"))


class VideoModel(Node, tag="model"):
    """``<model>``; ``ram``, ``vram``, ``vram64`` and ``vgamem`` are sizes in KiB."""

    type: str | None = attr(string)
    ram: int | None = attr(_number("ram"))
    vram: int | None = attr(_number("vram"))
    vram64: int | None = attr(_number("vram64"))
    vgamem: int | None = attr(_number("vgamem"))
    heads: int | None = attr(
        refusing(
            uint, lambda text: InternalError(f"cannot parse video heads '{text}'", domain=ErrorDomain.DOMAIN)
        ),
        omit=0,
    )
    primary: str | None = attr(string)
    acceleration: Acceleration = part(Acceleration)
    resolution: Resolution | None = child(Resolution)

    def check(self) -> None:
        if self.type == "default":
            self.type = None
        if self.type is not None and self.type not in VIDEO_MODELS:
            raise ConfigUnsupported(f"unknown video model '{self.type}'", domain=ErrorDomain.DOMAIN)
        if self.primary != "yes":
            self.__dict__.pop("primary", None)

    @property
    def is_primary(self) -> bool:
        """Tell whether this is the card the guest boots with."""
        return self.primary == "yes"


class Video(Device, tag="video"):
    """``<video>``."""

    driver: VideoDriver = part(VideoDriver, "driver")
    model: VideoModel = part(VideoModel)
