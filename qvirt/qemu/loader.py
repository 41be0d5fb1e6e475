"""Firmware images: the choice when a start needs one, the variables' file, the flash chips.

What the descriptors say and how the choice is made is in firmware.py.
"""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlDetail
from qvirt.model.domain import Domain
from qvirt.model.features import Smm
from qvirt.model.os import Loader, Nvram
from qvirt.qemu.context import Context
from qvirt.qemu.firmware import Firmware, Wanted, nvram_template, select
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_q35, is_x86
from qvirt.qemu.switches import Blockdev, Option, Switch
from qvirt.xml.node import Node


def default_loader(ctx: Context) -> None:
    """Give a read-only firmware the user named a file for its variables; drop what means nothing."""
    os = ctx.domain.os
    if os.nvram is not None and not os.nvram.to_xml().strip().removeprefix("<nvram/>"):
        os.nvram = None
    loader = os.loader
    if loader is None:
        return
    if os.firmware is None and loader.path and loader.type is None:
        loader.type = "rom"
    is_flash_to_read = loader.type == "pflash" and loader.readonly and loader.path
    if is_flash_to_read and loader.stateless is not True and os.firmware is None:
        os.nvram = os.nvram or Nvram()
        if os.nvram.type is None and os.nvram.path is None:
            os.nvram.path = f"{ctx.dirs.nvram}/{ctx.domain.name}_VARS.fd"
    if os.firmware is not None and loader.is_empty():
        os.loader = None


def check_firmware_choice(domain: Domain) -> None:
    """Raise XmlDetail for a firmware that is chosen and named at once, or neither."""
    os = domain.os
    loader = os.loader
    if os.firmware is not None:
        for name in ("readonly", "type", "secure"):
            if loader is not None and getattr(loader, name) is not None:
                raise XmlDetail(
                    f"loader attribute '{name}' cannot be specified when firmware autoselection is enabled"
                )
        if loader is not None and loader.path:
            raise XmlDetail("loader path cannot be specified when firmware autoselection is enabled")
        if os.nvram is not None and os.nvram.template:
            raise XmlDetail(
                "nvram attribute 'template' cannot be specified when firmware autoselection is enabled"
            )
        _check_features(domain)
    else:
        if os.firmware_choice is not None:
            raise XmlDetail(
                "cannot use feature-based firmware autoselection when firmware autoselection is disabled"
            )
        if (loader is not None or os.nvram is not None) and (loader is None or not loader.path):
            raise XmlDetail("no loader path specified and firmware auto selection disabled")
    if loader is not None and loader.readonly is False and loader.secure:
        raise XmlDetail("secure boot needs a read-only loader")
    _check_stateless(domain)


def _check_features(domain: Domain) -> None:
    os = domain.os
    said = {x.name: x.enabled for x in os.firmware_choice.features} if os.firmware_choice is not None else {}
    if said and os.firmware != "efi":
        raise XmlDetail(f"firmware features are not available for firmware type '{os.firmware}'")
    if said.get("enrolled-keys") and said.get("secure-boot") is False:
        raise XmlDetail(
            "firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is "
            "disabled"
        )
    if os.firmware == "bios" and os.nvram is not None:
        raise XmlDetail(f"firmware type '{os.firmware}' does not support nvram")


def _check_stateless(domain: Domain) -> None:
    loader = domain.os.loader
    if loader is None or loader.stateless is None:
        return
    if not loader.stateless:
        if domain.os.firmware == "bios":
            raise XmlDetail("Only EFI firmware permits NVRAM")
        if domain.os.firmware is None and loader.type != "pflash":
            raise XmlDetail("Only pflash loader type permits NVRAM")
    elif domain.os.nvram is not None:
        raise XmlDetail("NVRAM is not permitted when loader is stateless")


def check_loader(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for a firmware this machine cannot have."""
    os = domain.os
    is_efi = os.firmware == "efi" or (os.loader is not None and os.loader.type == "pflash")
    arch = os.type.arch
    if is_efi and is_x86(domain) and not domain.features.acpi:
        raise ConfigUnsupported("UEFI requires ACPI on this architecture")
    if not is_efi and arch == "aarch64" and domain.features.acpi:
        raise ConfigUnsupported("ACPI requires UEFI on this architecture")
    if os.loader is not None and os.loader.secure:
        if not is_q35(domain):
            raise ConfigUnsupported("Secure boot is supported with q35 machine types only")
        if arch != "x86_64":
            raise ConfigUnsupported("Secure boot is supported for x86_64 architecture only")
        if os.firmware is None and (domain.features.smm is None or not domain.features.smm.state):
            raise ConfigUnsupported("Secure boot requires SMM feature enabled")


def choose_firmware(domain: Domain, ctx: Context) -> None:
    """Fill in loader and variables for ``<os firmware=…>``, and the template of a loader the user named.

    Asked for a start and by ``domxml-to-native``, on a copy. Raises OperationFailed, OperationInvalid.
    """
    os = domain.os
    if os.firmware is None:
        if os.nvram is not None and os.nvram.template is None and os.loader is not None and os.loader.path:
            os.nvram.template = nvram_template(ctx.host.firmwares, _wanted(domain))
        return
    if os.loader is not None and os.loader.path:
        return
    firmware = select(ctx.host.firmwares, _wanted(domain))
    if firmware is not None:
        _use(domain, ctx, firmware)
        # what runs has this firmware, whatever would be chosen another time
        os.firmware = os.firmware_choice = None


def _wanted(domain: Domain) -> Wanted:
    os = domain.os
    said = {x.name: x.enabled for x in os.firmware_choice.features} if os.firmware_choice is not None else {}
    pm = domain.__dict__.get("pm")
    security = domain.launch_security
    return Wanted(
        arch=os.type.arch or "",
        machine=os.type.machine or "",
        interface=os.firmware,
        loader=os.loader.path if os.loader is not None else None,
        nvram_template=os.nvram.template if os.nvram is not None else None,
        secure_boot=said.get("secure-boot"),
        enrolled_keys=said.get("enrolled-keys"),
        loader_secure=bool(os.loader is not None and os.loader.secure),
        stateless=os.loader.stateless if os.loader is not None else None,
        smm=domain.features.smm.state if domain.features.smm is not None else None,
        s3=bool(pm and pm.suspend_to_mem and pm.suspend_to_mem.enabled),
        s4=bool(pm and pm.suspend_to_disk and pm.suspend_to_disk.enabled),
        sev=security is not None and security.type == "sev",
        sev_es=security is not None and security.encrypts_registers,
    )


def _use(domain: Domain, ctx: Context, firmware: Firmware) -> None:
    os = domain.os
    loader = os.loader = os.loader or Loader()
    loader.path = firmware.executable
    if firmware.device == "flash":
        loader.type, loader.readonly = "pflash", True
        if firmware.mode == "split" and loader.stateless is not True:
            nvram = os.nvram = os.nvram or Nvram()
            nvram.template = nvram.template or firmware.nvram_template
            if nvram.type is None and nvram.path is None:
                nvram.path = f"{ctx.dirs.nvram}/{domain.name}_VARS.fd"
    elif firmware.device == "memory":
        loader.type = "rom"
    else:
        os.kernel, os.loader = firmware.executable, None
    if firmware.requires_smm:
        loader.secure = True
        if domain.features.smm is None:
            domain.features.smm = Smm(state=True)


def firmware_switches(domain: Domain) -> Iterator[Switch]:
    """Yield the flash images of a firmware, and where its variables are kept."""
    loader = domain.os.loader
    if loader is None or not loader.path or loader.type != "pflash":
        return
    storage: dict[str, JsonValue] = {"driver": "file", "filename": loader.path}
    # a combined image that may be written is its own place for variables
    yield from _flash("libvirt-pflash0", storage, bool(loader.readonly), loader)
    nvram = domain.os.nvram
    if nvram is not None:
        yield from _flash("libvirt-pflash1", _nvram_storage(nvram), False, nvram)


def _nvram_storage(nvram: Nvram) -> dict[str, JsonValue]:
    source = nvram.source
    if source is None or source.file is not None:
        return {"driver": "file", "filename": nvram.file}
    if source.dev is not None:
        return {"driver": "host_device", "filename": source.dev}
    if source.protocol == "nbd" and source.hosts:
        host = source.hosts[0]
        server: dict[str, JsonValue]
        if host.transport == "unix" or host.socket:
            server = {"type": "unix", "path": host.socket}
        else:
            server = {"type": "inet", "host": host.name, "port": host.port}
        return {"driver": "nbd", "server": server, "export": source.name}
    raise ConfigUnsupported(
        f"NVRAM of type '{nvram.type}' with protocol '{source.protocol}' is not supported"
        "; use file, block or nbd"
    )


def _flash(name: str, storage: dict[str, JsonValue], readonly: bool, origin: Node) -> Iterator[Switch]:
    yield Blockdev(
        {**storage, "node-name": f"{name}-storage", "auto-read-only": True, "discard": "unmap"}, origin=origin
    )
    yield Blockdev(
        {
            "node-name": f"{name}-format",
            "read-only": readonly,
            "driver": "raw",
            "file": f"{name}-storage",
        },
        origin=origin,
    )


def rom_switches(domain: Domain) -> Iterator[Switch]:
    """Yield a firmware that is loaded as a ROM."""
    loader = domain.os.loader
    if loader is not None and loader.path and loader.type != "pflash":
        yield Option("bios", loader.path, origin=loader)
