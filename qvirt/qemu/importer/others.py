"""The other kinds: balloon, random numbers, shared folders, memory modules, devices of the host."""

import re

from qvirt.model.devices.address import (
    DimmAddress,
    IsaAddress,
)
from qvirt.model.devices.device import Device
from qvirt.model.devices.filesystem import Filesystem, FilesystemSource, FilesystemTarget
from qvirt.model.devices.hostdev import (
    Hostdev,
    HostdevSource,
    MdevHostAddress,
    PciHostAddress,
    ProductId,
    UsbHostAddress,
    VendorId,
)
from qvirt.model.devices.iommu import Iommu
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.memory import Memory, MemorySize, MemorySource, MemoryTarget
from qvirt.model.devices.panic import Panic
from qvirt.model.devices.rng import Rate, Rng, RngBackend
from qvirt.model.devices.tpm import Tpm, TpmBackend, TpmHostDevice
from qvirt.model.devices.vsock import Cid, Vsock
from qvirt.model.devices.watchdog import Watchdog
from qvirt.qemu.devices.filesystem import SECURITY_MODELS
from qvirt.qemu.devices.iommu import INTEL as INTEL_IOMMU
from qvirt.qemu.devices.memballoon import PROPS as BALLOON
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS
from qvirt.qemu.importer.chars import take_chardev
from qvirt.qemu.importer.parts import Unfit, size, switch
from qvirt.qemu.importer.reader import Reading
from qvirt.qemu.importer.storage import model_unless_plain


def read_balloon(r: Reading) -> Device:
    dev = Memballoon(model=r.virtio_model())
    if r.line.domain.devices.memballoons:
        raise Unfit("XML has one balloon")
    BALLOON.read(dev, dict(r.part.props))
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    return dev


def read_rng(r: Reading) -> Device:
    dev = Rng(model=r.virtio_model())
    backend = r.line.parts.find("object", r.part.props.get("rng"))
    if backend is None:
        dev.backends = [RngBackend(model="builtin")]
    elif backend.settled:
        raise Unfit("its source belongs to another device already")
    else:
        kind = backend.text("qom-type")
        if kind == "rng-random":
            dev.backends = [RngBackend(model="random", path=backend.text("filename") or "/dev/urandom")]
        elif kind == "rng-builtin":
            dev.backends = [RngBackend(model="builtin")]
        else:
            egd = RngBackend(model="egd")
            r.used += take_chardev(r.line, backend, egd)
            dev.backends = [egd]
        r.used.append(backend)
    most, period = r.part.number("max-bytes"), r.part.number("period")
    if most:
        dev.rate = Rate(bytes=most, period=period)
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    return dev


def read_ninep(r: Reading) -> Device:
    backend = r.line.parts.find("fsdev", r.part.props.get("fsdev"))
    if backend is None or backend.settled:
        raise Unfit("its fsdev is nowhere defined")
    if backend.text("fsdriver") != "local":
        raise Unfit(f"fsdev '{backend.text('fsdriver')}' has no XML")
    strange = set(backend.props) - {
        "fsdriver", "id", "path", "security_model", "readonly", "writeout", "multidevs", "fmode", "dmode"
    }  # fmt: skip
    if strange:
        raise Unfit(f"its fsdev says {', '.join(sorted(strange))}, which has no XML")
    model = backend.text("security_model") or "none"
    modes = {"mapped-xattr": "mapped", **{qemu: word for word, qemu in SECURITY_MODELS.items()}}
    if model not in modes:
        raise Unfit(f"security model '{model}' has no XML")
    dev = Filesystem(type="mount", accessmode=modes[model])
    dev.source = FilesystemSource(dir=backend.text("path"))
    dev.target = FilesystemTarget(dir=r.part.text("mount_tag"))
    dev.readonly = bool(backend.flag("readonly"))
    dev.multidevs = backend.text("multidevs")
    if backend.text("writeout") == "immediate":
        dev.driver.wrpolicy = "immediate"
    for key in ("fmode", "dmode"):
        value = backend.text(key)
        if value is not None:
            setattr(dev, key, int(value, 8))
    kind = r.virtio_model()
    if kind != "virtio":
        dev.model = kind
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    r.used.append(backend)
    return dev


def read_virtiofs(r: Reading) -> Device:
    """A folder that a virtiofsd of somebody else's serves."""
    chardev = r.line.parts.find("chardev", r.part.props.get("chardev"))
    if chardev is None or chardev.settled or chardev.text("backend") != "socket":
        raise Unfit("its chardev is no socket")
    strange = set(chardev.props) - {"backend", "id", "path", "server"}
    if strange or chardev.flag("server") or chardev.text("path") is None:
        raise Unfit("its chardev is no socket that a virtiofsd listens on")
    dev = Filesystem(type="mount", accessmode="passthrough")
    dev.driver.type = "virtiofs"
    dev.driver.queue = r.part.number("queue-size")
    dev.source = FilesystemSource(socket=chardev.text("path"))
    dev.target = FilesystemTarget(dir=r.part.text("tag"))
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.common(dev)
    r.place(dev)
    r.used.append(chardev)
    return dev


def read_watchdog(r: Reading) -> Device:
    dev = Watchdog(model=r.part.driver, action=r.part.text("action"))
    said = r.line.given("watchdog-action")
    dev.action = (said[-1].value if said else None) or "reset"
    r.line.to_xml(said, "<watchdog action=…>")
    if r.part.driver == "i6300esb":
        dev.address = r.buses.place_pci(r.part)
    return dev


def read_panic(r: Reading) -> Device:
    dev = Panic(model="isa")
    if r.line.domain.devices.panics:
        raise Unfit("XML has one of a kind")
    base = r.part.number("ioport")
    if base is not None:
        dev.address = IsaAddress(iobase=base)
    return dev


def read_iommu(r: Reading) -> Device:
    dev = Iommu(model="intel")
    INTEL_IOMMU.read(dev, dict(r.part.props))
    return dev


def read_vsock(r: Reading) -> Device:
    dev = Vsock(model=model_unless_plain(r) or "virtio")
    cid = r.part.number("guest-cid")
    dev.cid = Cid(address=cid) if cid is not None else Cid(auto=True)
    VIRTIO_OPTIONS.read(dev.driver, dict(r.part.props))
    r.place(dev)
    return dev


def read_dimm(r: Reading) -> Device:
    backend = r.line.parts.find("object", r.part.props.get("memdev"))
    if backend is None or backend.settled:
        raise Unfit("its memory backend is nowhere defined")
    if backend.text("qom-type") not in ("memory-backend-ram", "memory-backend-file"):
        raise Unfit(f"memory backend '{backend.text('qom-type')}' has no XML here")
    if set(backend.props) - {"qom-type", "id", "size", "mem-path", "share", "host-nodes", "policy"}:
        raise Unfit("its memory backend says what XML cannot")
    if r.line.domain.max_memory is None:
        raise Unfit("XML has memory modules beside -m slots= and maxmem= only")
    amount = size(backend.text("size") or "0", "size", "b") >> 10
    target = MemoryTarget(size=MemorySize(value=amount, unit="KiB"))
    cpu = r.line.domain.cpu
    if cpu is None or cpu.numa is None:
        raise Unfit("XML has memory modules beside NUMA nodes only")
    target.node = r.part.number("node") or 0
    dev = Memory(model="nvdimm" if r.part.driver == "nvdimm" else "dimm", target=target)
    if backend.text("mem-path") is not None:
        dev.source = MemorySource(path=backend.text("mem-path"))
    share = switch(backend.props.get("share"))
    if share is not None:
        dev.access = "shared" if share else "private"
    slot, base = r.part.number("slot"), r.part.number("addr")
    if slot is not None or base is not None:
        dev.address = DimmAddress(slot=slot, base=base)
    if r.line.domain.memory is not None:
        r.line.domain.memory.value += amount  # <memory> counts the modules in
    r.used.append(backend)
    return dev


def read_tpm(r: Reading) -> Device:
    backend = r.line.parts.find("tpmdev", r.part.props.get("tpmdev"))
    if backend is None:
        raise Unfit("its tpmdev is nowhere defined")
    model = "tpm-tis" if r.part.driver == "tpm-tis-device" else r.part.driver
    dev = Tpm(model=model)
    if backend.text("type") == "passthrough":
        dev.backends = [TpmBackend(type="passthrough", device=TpmHostDevice(path=backend.text("path")))]
    else:
        raise Unfit("its emulator runs already; the daemon would start one of its own for a <tpm>")
    r.used.append(backend)
    return dev


_PCI_NAME = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$")
_LAST_SLOT = 0x1F


def read_vfio(r: Reading) -> Device:
    dev = Hostdev(mode="subsystem", type="pci", managed=True)
    host, path = r.part.text("host"), r.part.text("sysfsdev")
    if host is not None:
        match = _PCI_NAME.match(host.lower())
        if match is None or int(match[3], 16) > _LAST_SLOT:
            raise Unfit(f"'{host}' is no PCI address")
        dev.source = HostdevSource(
            address=PciHostAddress(
                domain=int(match[1] or "0", 16),
                bus=int(match[2], 16),
                slot=int(match[3], 16),
                function=int(match[4]),
            )
        )
    elif path is not None:
        dev.type, dev.managed = "mdev", None
        dev.model = "vfio-pci"
        dev.source = HostdevSource(address=MdevHostAddress(uuid=path.rstrip("/").rpartition("/")[2]))
        dev.display, dev.ramfb = r.part.flag("display"), r.part.flag("ramfb")
    else:
        raise Unfit("it names no device of the host")
    dev.address = r.buses.place_pci(r.part)
    r.common(dev)
    return dev


def read_usb_host(r: Reading) -> Device:
    dev = Hostdev(mode="subsystem", type="usb", managed=True)
    vendor, product = r.part.number("vendorid"), r.part.number("productid")
    bus, address = r.part.number("hostbus"), r.part.number("hostaddr")
    source = dev.source = HostdevSource()
    if vendor and product:
        source.vendor, source.product = VendorId(id=vendor), ProductId(id=product)
    elif bus is not None and address is not None:
        source.address = UsbHostAddress(bus=bus, device=address)
    else:
        raise Unfit("XML names a USB device by vendor and product, or by bus and number")
    source.startup_policy = "optional"  # as QEMU, which waits for one to be plugged in
    r.usb_address(dev)
    return dev
