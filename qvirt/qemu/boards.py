"""What QEMU's machine types have when nothing is said: memory, CPUs, what ``-nodefaults`` takes.

The figures are QEMU 7.2's own answers, one start of every machine type of every target.
"""

import re

from qvirt.record import Record


class Board(Record):
    """A machine's defaults; memory in MiB.

    vga: the word of ``-vga`` for its screen. cdrom, floppy, sd: an empty drive is there. usb: it has USB,
    which a machine without defaults lacks. devices: what else such a machine lacks, as ``-device`` has it.
    """

    memory: int = 128
    cpus: int = 1
    vga: str | None = None
    cdrom: bool = False
    floppy: bool = False
    sd: bool = False
    usb: bool = False
    devices: tuple[str, ...] = ()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MEMORY: tuple[tuple[int, frozenset[str]], ...] = (
    (
        1024,
        _names(
            "ast2600-evb cubieboard g220a-bmc kudo-bmc mori-bmc orangepi-pc qcom-dc-scm-v1-bmc"
            " qcom-firework-bmc quanta-gbs-bmc rainier-bmc raspi2b raspi3b sbsa-ref tacoma-bmc"
            " loongarch64/virt powernv powernv8 powernv9 powernv10"
        ),
    ),
    (
        512,
        _names(
            "ast2500-evb collie fp5280g2-bmc npcm750-evb quanta-gsj raspi0 raspi1ap raspi3ap romulus-bmc"
            " sonorapass-bmc witherspoon-bmc hppa pseries sam460ex pegasos2"
        ),
    ),
    (16, _names("mps2-an385 mps2-an386 mps2-an500 mps2-an505 mps2-an511 mps2-an521")),
    (2048, _names("bletchley-bmc fby35-bmc fuji-bmc mps3-an524 mps3-an547")),
    (256, _names("palmetto-bmc supermicrox11-bmc fuloong2e kc705-nommu ml605-nommu")),
    (64, _names("next-cube lx60 lx60-nommu")),
    (96, _names("lx200 lx200-nommu")),
    (32, _names("musicpal")),
    (896, _names("kc705")),
    (384, _names("ml605")),
)
_CPUS: tuple[tuple[int, frozenset[str]], ...] = (
    (
        2,
        _names(
            "ast2600-evb bletchley-bmc fby35-bmc fuji-bmc kudo-bmc mori-bmc mps2-an521 mps3-an524 musca-a"
            " musca-b1 npcm750-evb nuri qcom-dc-scm-v1-bmc qcom-firework-bmc quanta-gbs-bmc quanta-gsj"
            " rainier-bmc smdkc210 tacoma-bmc sifive_u"
        ),
    ),
    (3, _names("fby35")),
    (4, _names("orangepi-pc raspi2b raspi3ap raspi3b sbsa-ref xlnx-versal-virt xlnx-zcu102")),
)
_CDROM = _names(
    "magnum pica61 40p LX SPARCClassic SPARCbook SS-10 SS-20 SS-4 SS-5 Voyager SS-600MP realview-eb"
    " realview-eb-mpcore versatileab versatilepb hppa clipper malta fuloong2e pegasos2 sun4u sun4v"
    " g3beige mac99 pseries q800"
)
_FLOPPY = _names(
    "magnum pica61 40p LX SPARCClassic SPARCbook SS-10 SS-20 SS-4 SS-5 Voyager clipper malta fuloong2e"
    " pegasos2 sun4u sun4v"
)
_SD = _names(
    "akita ast2500-evb ast2600-evb bletchley-bmc borzoi cubieboard fby35-bmc fp5280g2-bmc fuji-bmc g220a-bmc"
    " imx25-pdk integratorcp kudo-bmc lm3s6965evb mainstone mcimx6ul-evk mcimx7d-sabre nuri orangepi-pc"
    " palmetto-bmc qcom-dc-scm-v1-bmc qcom-firework-bmc quanta-gbs-bmc quanta-q71l-bmc rainier-bmc raspi0"
    " raspi1ap raspi2b raspi3ap raspi3b realview-eb realview-eb-mpcore realview-pb-a8 realview-pbx-a9"
    " romulus-bmc smdkc210 sonorapass-bmc spitz supermicrox11-bmc tacoma-bmc terrier tosa versatileab"
    " versatilepb vexpress-a15 vexpress-a9 witherspoon-bmc xlnx-versal-virt xlnx-zcu102 z2 sifive_u"
)
_VGA: dict[str, frozenset[str]] = {
    "std": _names("sbsa-ref 40p g3beige mac99 pegasos2 sun4u sun4v pseries"),
    "tcx": _names("LX SPARCClassic SPARCbook SS-10 SS-20 SS-4 SS-5 SS-600MP Voyager"),
    "cirrus": _names("malta clipper"),
}
_USB = _names("mac99 pseries sam460ex")


def _powernv(bus: str, count: int) -> tuple[str, ...]:
    """Return the management controller and the PCI host bridges, a slot in each, of a POWER host's chip."""
    bridges = (
        device
        for number in range(count)
        for device in (f"pnv-phb,chip-id=0,index={number}", f"pnv-phb-root-port,bus={bus}-root.{number}")
    )
    return ("ipmi-bmc-sim,id=bmc0", "isa-ipmi-bt,bmc=bmc0,irq=10", *bridges)


_DEVICES: dict[str, tuple[str, ...]] = {
    "powernv8": _powernv("pnv-phb3", 3),
    **dict.fromkeys(("powernv", "powernv9", "powernv10"), _powernv("pnv-phb4", 6)),
}

#: versions at the end of a machine's name
_VERSION = re.compile(r"-[0-9]+\.[0-9.]+(?:-sxxm)?$")


def board(arch: str, machine: str) -> Board:
    """Return the defaults of a machine type; arch is QEMU's name of the target."""
    name = _VERSION.sub("", machine)
    keys = {name, f"{arch}/{name}"}
    return Board(
        memory=next((size for size, names in _MEMORY if keys & names), 128),
        cpus=next((count for count, names in _CPUS if keys & names), 1),
        vga=next((word for word, names in _VGA.items() if keys & names), None),
        cdrom=bool(keys & _CDROM),
        floppy=bool(keys & _FLOPPY),
        sd=bool(keys & _SD),
        usb=bool(keys & _USB),
        devices=_DEVICES.get(name, ()),
    )
