"""Graphics cards: the default one, its memory, its type."""

import json

import pytest

from qvirt.errors import ConfigUnsupported, QvirtError, XmlError
from tests.unit.qemu.devices.guests import emulator, guest, validate, words


def card(document: str) -> str:
    return guest(document).domain.devices.videos[0].model.to_xml().strip()


@pytest.mark.parametrize(
    ("arch", "machine", "without", "model"),
    [
        ("x86_64", "pc-i440fx-7.2", (), "cirrus"),
        ("x86_64", "pc-i440fx-7.2", ("cirrus-vga",), "vga"),
        ("x86_64", "pc-i440fx-7.2", ("cirrus-vga", "VGA"), "virtio"),
        ("ppc64", "pseries-7.2", (), "vga"),
        ("aarch64", "virt-7.2", (), "virtio"),
        ("s390x", "s390-ccw-virtio", (), "virtio"),
    ],
)
def test_a_guest_with_a_display_gets_a_card(
    arch: str, machine: str, without: tuple[str, ...], model: str
) -> None:
    ctx = guest("<graphics type='vnc'/>", arch=arch, machine=machine, caps=emulator(without=without))
    assert [video.model.type for video in ctx.domain.devices.videos] == [model]


def test_a_guest_without_a_display_gets_none() -> None:
    assert guest("").domain.devices.videos == []


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("type='vga'", "<model type='vga' vram='16384' heads='1' primary='yes'/>"),
        ("type='vga' vram='9000'", "<model type='vga' vram='16384' heads='1' primary='yes'/>"),
        ("type='vmvga' vram='20000'", "<model type='vmvga' vram='32768' heads='1' primary='yes'/>"),
        ("type='virtio'", "<model type='virtio' heads='1' primary='yes'/>"),
        ("type='none'", "<model type='none'/>"),
        (
            "type='qxl' ram='90000' vram='1000' vram64='90000' heads='2'",
            "<model type='qxl' ram='131072' vram='1024' vram64='90000' "
            "vgamem='16384' heads='2' primary='yes'/>",
        ),
    ],
)
def test_memory_and_heads(written: str, kept: str) -> None:
    assert card(f"<video><model {written}/></video>") == kept


def test_the_first_card_is_the_primary_one() -> None:
    videos = guest(
        "<video><model type='qxl'/></video><video><model type='vga' primary='yes'/></video>"
    ).domain.devices.videos
    assert [(video.model.type, video.model.is_primary) for video in videos] == [("vga", True), ("qxl", False)]


def test_virtio_options_come_first() -> None:
    dev = guest("<video><model type='virtio'/><driver name='qemu' vgaconf='on' ats='on'/></video>")
    assert "<driver ats='on' vgaconf='on' name='qemu'/>" in dev.domain.devices.to_xml()


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        ("<video><model type='x'/></video>", ConfigUnsupported, "unknown video model 'x'"),
        ("<video><model type='gop'/></video>", ConfigUnsupported, "does not support video model 'gop'"),
        (
            "<video><model type='vga' heads='2'/></video>",
            ConfigUnsupported,
            "doesn't support multiple 'heads'",
        ),
        ("<video><model type='vga' vram='x'/></video>", XmlError, "cannot parse video vram 'x'"),
        ("<video><model type='vga' vram='512'/></video>", ConfigUnsupported, "'vram' must be at least 1 MiB"),
        (
            "<video><model type='qxl' vgamem='9999'/></video>",
            ConfigUnsupported,
            "'vgamem' must be power of two",
        ),
        (
            "<video><model type='vga' ram='9'/></video>",
            ConfigUnsupported,
            "only supported for video type qxl",
        ),
        (
            "<video><model type='vga'/></video><video><model type='vga'/></video>",
            ConfigUnsupported,
            "video type 'vga' is only valid as primary video device",
        ),
        (
            "<video><model type='none'/></video><video><model type='vga'/></video>",
            ConfigUnsupported,
            "a 'none' video type must be the only video device defined for the domain",
        ),
        (
            "<video><model type='vga' primary='yes'/></video>"
            "<video><model type='qxl' primary='yes'/></video>",
            ConfigUnsupported,
            "Only one primary video device is supported",
        ),
        (
            "<video><model type='qxl'><acceleration accel3d='yes'/></model></video>",
            ConfigUnsupported,
            "3d acceleration is supported only with 'virtio' video device",
        ),
        (
            "<video><model type='ramfb'><resolution x='1' y='1'/></model></video>",
            XmlError,
            "model resolution is not supported",
        ),
        (
            "<video><model type='vga'/><driver packed='on'/></video>",
            ConfigUnsupported,
            "packed driver option is only supported for virtio devices",
        ),
    ],
)
def test_what_is_refused(document: str, error: type[QvirtError], message: str) -> None:
    with pytest.raises(error) as refused:
        validate(guest(document))
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<model type='vga'/>", {"driver": "VGA", "vgamem_mb": 16}),
        ("<model type='cirrus'/>", {"driver": "cirrus-vga"}),
        (
            "<model type='bochs'><resolution x='800' y='600'/></model>",
            {"driver": "bochs-display", "vgamem": 16 << 20, "xres": 800, "yres": 600},
        ),
        (
            "<model type='qxl'/>",
            {
                "driver": "qxl-vga", "max_outputs": 1, "ram_size": 64 << 20, "vram_size": 64 << 20,
                "vram64_size_mb": 0, "vgamem_mb": 16,
            },
        ),
        (
            "<driver iommu='on'/><model type='virtio' heads='3'/>",
            {"driver": "virtio-vga", "iommu_platform": True, "max_outputs": 3},
        ),
        ("<model type='ramfb'/>", {"driver": "ramfb"}),
    ],
)  # fmt: skip
def test_what_qemu_is_told(written: str, expected: dict[str, object]) -> None:
    ctx = guest(f"<video>{written}<alias name='video0'/></video>")
    made = json.loads(words(ctx.domain.devices.videos[0], ctx)[1])
    assert made == {**expected, "id": "video0"}


def test_no_card_at_all() -> None:
    ctx = guest("<video><model type='none'/></video>")
    assert words(ctx.domain.devices.videos[0], ctx) == []


def test_the_second_virtio_card_is_no_vga() -> None:
    place = "<address type='pci' domain='0' bus='0' slot='{}' function='0'/>".format
    ctx = guest(
        "<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>"
        "<video><model type='vga'/></video>"
        f"<video><model type='virtio'/><alias name='video1'/>{place(3)}</video>"
    )
    assert json.loads(words(ctx.domain.devices.videos[1], ctx)[1]) == {
        "driver": "virtio-gpu-pci", "id": "video1", "max_outputs": 1, "bus": "pci.0", "addr": "0x3",
    }  # fmt: skip
