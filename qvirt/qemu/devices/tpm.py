"""Trusted platform modules: the host's, an emulated one of the guest's own, or one somebody else serves."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.tpm import Tpm, TpmHostDevice
from qvirt.qemu import machines
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import (
    FileResource,
    HandedResource,
    Handler,
    OpenResource,
    ReachedResource,
    Resource,
)
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import AddFd, Chardev, Device, KeyValue, Switch

_DEFAULT_DEVICE = "/dev/tpm0"


class TpmHandler(Handler[Tpm], kind=Tpm):
    config = False

    def defaults(self, dev: Tpm, ctx: Context) -> None:
        if dev.model is None:
            dev.model = "tpm-spapr" if machines.is_pseries(ctx.domain) else "tpm-tis"
        backend = dev.backend
        if backend.type == "passthrough":
            backend.device = backend.device or TpmHostDevice()
            backend.device.path = backend.device.path or _DEFAULT_DEVICE
        elif backend.type == "emulator" and backend.version in (None, "default"):
            newer = dev.model in ("tpm-spapr", "tpm-crb") or ctx.domain.os.type.arch == "aarch64"
            backend.version = "2.0" if newer else "1.2"

    def validate(self, dev: Tpm, ctx: Context) -> None:
        real = [tpm for tpm in ctx.domain.devices.tpms if tpm.model != "spapr-tpm-proxy"]
        if len(real) > 1:
            raise ConfigUnsupported("only a single TPM non-proxy device is supported")
        if len(ctx.domain.devices.tpms) - len(real) > 1:
            raise ConfigUnsupported("only a single TPM Proxy device is supported")
        backend = dev.backend
        if backend.type == "emulator" and backend.version == "1.2":
            if backend.active_pcr_banks is not None:
                raise XmlError("<active_pcr_banks/> requires TPM version '2.0'")
            if dev.model == "tpm-crb":
                raise ConfigUnsupported(f"Unsupported interface '{dev.model}' for TPM 1.2")
        if backend.type == "external" and (backend.source is None or backend.source.path is None):
            raise XmlError("missing socket source path for external TPM", domain=ErrorDomain.DOMAIN)
        # what somebody else serves is to QEMU what a swtpm of ours is
        if ("emulator" if backend.type == "external" else backend.type) not in ctx.caps.tpm_types:
            raise ConfigUnsupported(
                f"The QEMU executable {ctx.caps.emulator} does not support TPM backend type {backend.type}"
            )
        if dev.model not in ctx.caps.tpm_models and not ctx.caps.has_device(_type(dev, ctx)):
            raise ConfigUnsupported(
                f"The QEMU executable {ctx.caps.emulator} does not support TPM model {dev.model}"
            )

    def resources(self, dev: Tpm, ctx: Context) -> Iterable[Resource]:
        device = dev.backend.device
        if device is not None and device.path is not None:
            yield FileResource(dev, device.path)
            if dev.model != "spapr-tpm-proxy":
                # one of version 2.0 has no such file; QEMU wants some all the same
                yield HandedResource(dev, _cancel_path(device.path))
                yield OpenResource(dev, (_cancel_path(device.path), "/dev/null"), f"{dev.alias.name}-cancel")
        external = dev.backend.source
        if external is not None and external.path is not None:
            yield ReachedResource(dev, external.path)
        elif dev.backend.type == "emulator" and isinstance(ctx, BuildContext):
            yield ReachedResource(dev, swtpm_socket(ctx))

    def switches(self, dev: Tpm, ctx: BuildContext) -> Iterator[Switch]:
        backend, name = dev.backend, dev.alias.name
        if dev.model == "spapr-tpm-proxy":
            path = backend.device.path if backend.device else None
            yield Device({"driver": dev.model, "id": name, "host-path": path}, origin=dev)
            return
        props: dict[str, JsonValue] = {"type": backend.type, "id": f"tpm-{name}"}
        if backend.type == "passthrough":
            path = (backend.device.path if backend.device else None) or _DEFAULT_DEVICE
            cancel = _cancel_path(path)
            if ctx.launch.has(f"{name}-cancel"):
                number = ctx.launch.fdset(cancel)
                yield AddFd(number, ctx.launch.fd_for_set(f"{name}-cancel"), cancel, origin=dev)
                cancel = f"/dev/fdset/{number}"
            props |= {"path": path, "cancel-path": cancel}
        elif backend.type == "external":
            path = backend.source.path if backend.source else None
            yield Chardev("socket", {"id": "chrtpm", "path": path}, origin=dev)
            props |= {"type": "emulator", "chardev": "chrtpm"}
        else:
            if ctx.launch.id < 0:
                # a command line for nobody: no swtpm serves it, and libvirt writes it so
                yield Chardev("null", {"id": "chrtpm"}, origin=dev)
            else:
                yield Chardev("socket", {"id": "chrtpm", "path": swtpm_socket(ctx)}, origin=dev)
            props["chardev"] = "chrtpm"
        yield KeyValue("tpmdev", props, "type", origin=dev)
        yield Device(
            {"driver": _type(dev, ctx), "tpmdev": f"tpm-{name}", "id": name, **placement(dev, ctx)},
            origin=dev,
        )


def _cancel_path(device: str) -> str:
    """Return the file by which a command that a host's TPM works on is called off."""
    return f"/sys/class/tpm/{device.rpartition('/')[2]}/device/cancel"


def swtpm_socket(ctx: BuildContext) -> str:
    """Return where the swtpm of the guest listens."""
    return f"{ctx.dirs.swtpm}/{ctx.folder_name.removeprefix('domain-')}-swtpm.sock"


def _type(dev: Tpm, ctx: Context) -> str:
    if dev.model == "tpm-tis" and not machines.is_x86(ctx.domain):
        return "tpm-tis-device"
    return dev.model or ""
