"""libvirt's architectures in its order: the QEMU target that runs each, and its word size."""

from qvirt.record import Record


class Architecture(Record):
    """An architecture. target: of qemu-system-TARGET; bits: word size as libvirt prints it.

    machine: the machine type a domain gets that asks for none, whatever the emulator's own default is: what
    a guest sees must not change with who built QEMU.
    native_on: the architecture of hosts that run it natively with their own emulator, too.
    """

    name: str
    target: str
    bits: int
    machine: str
    native_on: str | None = None


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("alpha", "alpha", 64, "clipper"),
    Architecture("armv6l", "arm", 32, "integratorcp"),
    Architecture("armv7l", "arm", 32, "integratorcp", "aarch64"),
    Architecture("aarch64", "aarch64", 64, "integratorcp"),
    Architecture("cris", "cris", 32, "axis-dev88"),
    Architecture("i686", "i386", 32, "pc", "x86_64"),
    Architecture("lm32", "lm32", 32, "lm32-evr"),
    Architecture("m68k", "m68k", 32, "mcf5208evb"),
    Architecture("microblaze", "microblaze", 32, "petalogix-s3adsp1800"),
    Architecture("microblazeel", "microblazeel", 32, "petalogix-s3adsp1800"),
    Architecture("mips", "mips", 32, "malta"),
    Architecture("mipsel", "mipsel", 32, "malta"),
    Architecture("mips64", "mips64", 64, "malta"),
    Architecture("mips64el", "mips64el", 64, "malta"),
    Architecture("or32", "or1k", 32, "or1k-sim"),
    Architecture("ppc", "ppc", 32, "g3beige"),
    Architecture("ppc64", "ppc64", 64, "pseries"),
    Architecture("ppc64le", "ppc64le", 64, "pseries", "ppc64"),
    Architecture("riscv32", "riscv32", 32, "spike"),
    Architecture("riscv64", "riscv64", 64, "spike"),
    Architecture("s390x", "s390x", 64, "s390-ccw-virtio"),
    Architecture("sh4", "sh4", 32, "shix"),
    Architecture("sh4eb", "sh4eb", 64, "shix"),  # not so, but what libvirt says
    Architecture("sparc", "sparc", 32, "SS-5"),
    Architecture("sparc64", "sparc64", 64, "sun4u"),
    Architecture("unicore32", "unicore32", 32, "puv3"),
    Architecture("x86_64", "x86_64", 64, "pc"),
    Architecture("xtensa", "xtensa", 32, "sim"),
    Architecture("xtensaeb", "xtensaeb", 32, "sim"),
)

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
