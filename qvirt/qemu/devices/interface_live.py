"""An ``<interface>`` of a running guest: what can be plugged and changed, in libvirt's sentences."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    DeviceMissing,
    OperationFailed,
    OperationUnsupported,
    QvirtError,
)
from qvirt.model.devices.address import PciAddress, pci_name
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.qemu.addresses.pci_flags import said

#: what libvirt does not plug into a running guest
_NOT_PLUGGED = (
    InterfaceType.SERVER,
    InterfaceType.CLIENT,
    InterfaceType.MCAST,
    InterfaceType.UDP,
    InterfaceType.INTERNAL,
    InterfaceType.VDS,
    InterfaceType.NULL,
)

#: what no update of a running guest changes; where it is left out it stays as it is
_FIXED: tuple[tuple[str, str], ...] = (
    ("script.path", "cannot modify network device script attribute"),
    ("target.dev", "cannot modify network device tap name"),
    ("rom.bar", "cannot modify network device rom bar setting"),
    ("rom.file", "cannot modify network rom file"),
    ("rom.enabled", "cannot modify network device rom enabled setting"),
    ("boot.order", "cannot modify network device boot index setting"),
)
_DRIVER = (
    *("name", "txmode", "ioeventfd", "event_idx", "queues", "rx_queue_size", "tx_queue_size"),
    *("rss", "rss_hash_report"),
)
_OPTIONS = ("host", "guest", "iommu", "ats", "packed", "page_per_vq")
#: what stays as it is where it is left out; what is decided when the card is made, whatever a document says
_KEPT_UNSAID = ("script", "rom", "boot", "mtu")
_KEPT = ("downscript", "guest", "backend", "teaming")


def check_plug(dev: Interface) -> None:
    """Raise OperationUnsupported for an interface that cannot be plugged into a running guest."""
    if dev.type in _NOT_PLUGGED:
        raise OperationUnsupported(f"hotplug of interface type of {dev.type} is not implemented yet")


def missing(dev: Interface) -> QvirtError:
    """Return libvirt's error for an interface that is not there."""
    where = dev.address
    place = pci_name(where) if isinstance(where, PciAddress) else "(<null>)"
    mac, name = dev.mac.address or "(<null>)", dev.alias.name or "(<null>)"
    return DeviceMissing(
        f"no device found at address '{place}' matching MAC address '{mac}' and alias '{name}'",
        domain=ErrorDomain.DOMAIN,
    )


def _is_ours(dev: Interface) -> bool:
    """Tell whether its device on the host is one that we make, and change."""
    return dev.uses_tap and dev.target.managed is not False


def ambiguous(dev: Interface) -> QvirtError:
    """Return libvirt's error for a document that means several interfaces."""
    if dev.mac.address is not None:
        return OperationFailed(
            f"multiple devices matching MAC address {dev.mac.address} found", domain=ErrorDomain.DOMAIN
        )
    return OperationFailed("multiple matching devices found", domain=ErrorDomain.DOMAIN)


def keep(old: Interface, new: Interface) -> None:
    """Leave as it is what no update changes and the new document does not say, or says in vain."""
    new.target.dev = new.target.dev or old.target.dev
    if new.uses_tap != old.uses_tap:
        return  # which `check_update` refuses
    for name in (*_KEPT_UNSAID, *_KEPT):
        if name in _KEPT or not new.says(name):
            new.__dict__.pop(name, None)
            if old.says(name):
                setattr(new, name, getattr(old, name).copy())


def check_update(old: Interface, new: Interface) -> None:
    """Raise OperationUnsupported for what cannot change while the guest runs."""
    if old.type == InterfaceType.HOSTDEV or new.type == InterfaceType.HOSTDEV:
        raise OperationUnsupported(f"unable to change config on '{new.type}' network type")
    if new.model.type != old.model.type:
        raise OperationUnsupported(
            f"cannot modify network device model from {old.model.type or '(null)'} to "
            f"{new.model.type or '(null)'}"
        )
    if new.mac.address != old.mac.address:
        raise OperationUnsupported(
            f"cannot change network interface mac address from {old.mac.address} to {new.mac.address}"
        )
    if old.is_virtio:
        if any(said(new.driver, name) != said(old.driver, name) for name in _DRIVER):
            raise OperationUnsupported("cannot modify virtio network device driver attributes")
        if any(getattr(new.driver, name) != getattr(old.driver, name) for name in _OPTIONS):
            raise OperationUnsupported("cannot modify virtio network device driver options")
    for path, sentence in _FIXED:
        value = said(new, path)
        if value is not None and value != said(old, path):
            raise OperationUnsupported(sentence)
    size = said(new, "mtu.size")
    if size is not None and size != said(old, "mtu.size") and not (_is_ours(old) and _is_ours(new)):
        raise OperationUnsupported("cannot modify MTU")
    if new.tune != old.tune:
        raise OperationUnsupported(f"unable to change config on '{new.type}' network type: its send buffer")
    if new.uses_tap != old.uses_tap or (
        not old.uses_tap and (new.type, new.source) != (old.type, old.source)
    ):
        raise OperationUnsupported(f"unable to change config on '{new.type}' network type")
