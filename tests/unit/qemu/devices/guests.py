"""Small guests for the tests of device kinds: a document around one piece, completed without an emulator."""

from collections.abc import Iterator

from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.caps import EmulatorCaps, pack_schema
from qvirt.qemu.context import BuildContext, HostFacts, Settings
from qvirt.qemu.devices.audio import add_default_audio
from qvirt.qemu.devices.base import handler
from qvirt.qemu.devices.char import mirror_consoles
from qvirt.qemu.devices.video import add_default_video
from qvirt.qemu.switches import Switch

UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
TYPES: tuple[str, ...] = (
    "isa-serial", "pci-serial", "usb-serial", "isa-debugcon", "VGA", "cirrus-vga", "vmware-svga", "qxl-vga",
    "qxl",
    "virtio-vga", "virtio-gpu-pci", "bochs-display", "ramfb", "AC97", "ES1370", "intel-hda", "ich9-intel-hda",
    "usb-audio", "ivshmem-plain", "ivshmem-doorbell", "vhost-vsock-pci", "ccid-card-passthru",
    "ccid-card-emulated", "tpm-tis", "virtio-crypto-device", "cryptodev-backend-builtin",
)  # fmt: skip


def emulator(*, without: tuple[str, ...] = (), commands: tuple[str, ...] = ("query-spice",)) -> EmulatorCaps:
    """Return an x86_64 emulator that has the usual devices, less some."""
    return EmulatorCaps(
        emulator="/usr/bin/qemu-system-x86_64",
        version=(7, 2, 0),
        package="",
        target="x86_64",
        machines=(),
        types=frozenset(TYPES) - frozenset(without),
        properties={},
        options={},
        commands=frozenset(commands),
        migration_capabilities=frozenset(),
        tpm_models=frozenset({"tpm-tis", "tpm-crb"}),
        tpm_types=frozenset({"passthrough", "emulator"}),
        accels={},
        schema_packed=pack_schema([]),
    )


def guest(
    devices: str,
    *,
    arch: str = "x86_64",
    machine: str = "pc-i440fx-7.2",
    settings: Settings | None = None,
    host: HostFacts | None = None,
    caps: EmulatorCaps | None = None,
    id: int | None = None,
) -> BuildContext:
    """Return a guest with these devices, defaults filled in, addresses and aliases as written."""
    domain = parse_domain(
        f"<domain type='qemu'><name>guest</name><uuid>{UUID}</uuid><memory>1024</memory><os>"
        f"<type arch='{arch}' machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    )
    ctx = BuildContext(
        domain,
        caps or emulator(),
        lambda: "52:54:00:00:00:01",
        lambda: UUID,
        host or HostFacts(),
        settings or Settings(),
    )
    if id is not None:
        ctx.launch.id = id
    complete(domain, ctx)
    return ctx


def complete(domain: Domain, ctx: BuildContext) -> None:
    """Ask the handlers for defaults, as the domain's own completion does."""
    asked = list(domain.devices.all())
    for dev in asked:
        handler(dev).defaults(dev, ctx)
    mirror_consoles(domain)
    add_default_video(ctx)
    add_default_audio(ctx)
    for dev in domain.devices.all():
        if not any(dev is known for known in asked):
            handler(dev).defaults(dev, ctx)


def validate(ctx: BuildContext) -> None:
    """Ask the handlers for what is wrong."""
    for dev in ctx.domain.devices.all():
        handler(dev).validate(dev, ctx)


def words(dev: Device, ctx: BuildContext) -> list[str]:
    """Return a device's part of the command line."""
    return [word for switch in records(dev, ctx) for word in switch.to_argv()]


def records(dev: Device, ctx: BuildContext) -> Iterator[Switch]:
    """Yield a device's records; every one must know where it comes from."""
    for switch in handler(dev).switches(dev, ctx):
        assert switch.origin is dev
        yield switch
