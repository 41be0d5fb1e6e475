"""libvirt's architectures in its order: the QEMU target that runs each, and its word size."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture. target: of qemu-system-TARGET; bits: word size as libvirt prints it.

    native_on: the architecture of hosts that run it natively with their own emulator, too.
    """

    name: str
    target: str
    bits: int
    native_on: str | None = None


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("alpha", "alpha", 64),
    Architecture("armv6l", "arm", 32),
    Architecture("armv7l", "arm", 32, "aarch64"),
    Architecture("aarch64", "aarch64", 64),
    Architecture("cris", "cris", 32),
    Architecture("i686", "i386", 32, "x86_64"),
    Architecture("lm32", "lm32", 32),
    Architecture("m68k", "m68k", 32),
    Architecture("microblaze", "microblaze", 32),
    Architecture("microblazeel", "microblazeel", 32),
    Architecture("mips", "mips", 32),
    Architecture("mipsel", "mipsel", 32),
    Architecture("mips64", "mips64", 64),
    Architecture("mips64el", "mips64el", 64),
    Architecture("or32", "or1k", 32),
    Architecture("ppc", "ppc", 32),
    Architecture("ppc64", "ppc64", 64),
    Architecture("ppc64le", "ppc64le", 64, "ppc64"),
    Architecture("riscv32", "riscv32", 32),
    Architecture("riscv64", "riscv64", 64),
    Architecture("s390x", "s390x", 64),
    Architecture("sh4", "sh4", 32),
    Architecture("sh4eb", "sh4eb", 64),  # not so, but what libvirt says
    Architecture("sparc", "sparc", 32),
    Architecture("sparc64", "sparc64", 64),
    Architecture("unicore32", "unicore32", 32),
    Architecture("x86_64", "x86_64", 64),
    Architecture("xtensa", "xtensa", 32),
    Architecture("xtensaeb", "xtensaeb", 32),
)

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
