"""Random numbers, TPM, smartcards, redirected USB, vsock, shared memory."""

import json

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, XmlError
from qvirt.model.devices.device import Device
from qvirt.qemu.context import Launch
from qvirt.qemu.devices.base import FileResource, HandedResource, VsockResource, handler
from tests.unit.qemu.devices.guests import guest, validate, words

PCI = (
    "<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>"
    "<controller type='usb' index='0' model='nec-xhci'><alias name='usb'/></controller>"
)
AT = "<alias name='it'/><address type='pci' domain='0' bus='0' slot='3' function='0'/>"


def only(document: str, kind: str) -> tuple[Device, list[str]]:
    ctx = guest(PCI + document)
    dev = next(dev for dev in ctx.domain.devices.all() if dev.tag == kind)
    return dev, words(dev, ctx)


# ------------------------------------------------------------------------------------------------ rng


def test_the_hosts_own_random_numbers() -> None:
    dev, made = only(
        f"<rng model='virtio'><rate bytes='5'/><backend model='random'/><driver packed='on'/>{AT}</rng>",
        "rng",
    )
    assert json.loads(made[1]) == {"qom-type": "rng-random", "id": "objit", "filename": "/dev/random"}
    assert json.loads(made[3]) == {
        "driver": "virtio-rng-pci", "packed": True, "rng": "objit", "id": "it", "max-bytes": 5,
        "period": 1000, "bus": "pci.0", "addr": "0x3",
    }  # fmt: skip
    assert "<backend model='random'>/dev/random</backend>" in dev.to_xml()


def test_random_numbers_from_a_daemon() -> None:
    dev, made = only(
        "<rng model='virtio-transitional'><backend model='egd' type='tcp'>"
        f"<source host='a' service='1'/></backend>{AT}</rng>",
        "rng",
    )
    assert made[1] == "socket,id=charit,host=a,port=1"
    assert json.loads(made[3]) == {"qom-type": "rng-egd", "id": "objit", "chardev": "charit"}
    assert json.loads(made[5])["driver"] == "virtio-rng-pci-transitional"
    assert "<protocol type='raw'/>" in dev.to_xml()


# ------------------------------------------------------------------------------------------------ tpm


@pytest.mark.parametrize(
    ("arch", "machine", "model", "version"),
    [
        ("x86_64", "pc-q35-7.2", "tpm-tis", "1.2"),
        ("aarch64", "virt", "tpm-tis", "2.0"),
        ("ppc64", "pseries", "tpm-spapr", "2.0"),
    ],
)
def test_the_tpm_of_each_machine(arch: str, machine: str, model: str, version: str) -> None:
    tpm = guest("<tpm><backend type='emulator'/></tpm>", arch=arch, machine=machine).domain.devices.tpms[0]
    assert (tpm.model, tpm.backend.version) == (model, version)


def test_an_emulated_tpm_has_a_socket_only_when_somebody_starts_it() -> None:
    ctx = guest("<tpm model='tpm-tis'><backend type='emulator' version='2.0'/><alias name='tpm0'/></tpm>")
    dev = ctx.domain.devices.tpms[0]
    assert words(dev, ctx)[:4] == [
        "-chardev", "null,id=chrtpm", "-tpmdev", "emulator,id=tpm-tpm0,chardev=chrtpm",
    ]  # fmt: skip
    ctx.launch.id = 7
    assert words(dev, ctx)[:2] == [
        "-chardev", "socket,id=chrtpm,path=/run/libvirt/qemu/swtpm/7-guest-swtpm.sock",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------- smartcard, redirdev


def test_smartcards() -> None:
    _, made = only(
        "<smartcard mode='host-certificates'><certificate>a</certificate><certificate>b</certificate>"
        "<certificate>c</certificate><alias name='it'/></smartcard>",
        "smartcard",
    )
    assert json.loads(made[1]) == {
        "driver": "ccid-card-emulated", "backend": "certificates", "cert1": "a", "cert2": "b", "cert3": "c",
        "db": "/etc/pki/nssdb", "id": "it", "bus": "ccid0.0",
    }  # fmt: skip


def test_redirected_devices_and_their_filter() -> None:
    dev, made = only(
        "<redirdev bus='usb' type='tcp'><source host='a' service='1'/><boot order='1'/><alias name='it'/>"
        "<address type='usb' bus='0' port='2'/></redirdev>"
        "<redirfilter><usbdev class='8' vendor='0xabc' product='18' version='1.1' allow='yes'/>"
        "<usbdev class='-1' allow='no'/></redirfilter>",
        "redirdev",
    )
    assert json.loads(made[3]) == {
        "driver": "usb-redir", "chardev": "charit", "id": "it",
        "filter": "0x08:0x0ABC:0x0012:0x0110:1|-1:-1:-1:-1:0", "bootindex": 1, "bus": "usb.0", "port": "2",
    }  # fmt: skip
    assert "<boot order='1'/>" in dev.to_xml()


def test_filter_rules_are_kept_in_libvirts_form() -> None:
    ctx = guest(
        "<redirfilter><usbdev class='8' vendor='0xabc' version='1.1' allow='yes'/>"
        "<usbdev vendor='-1' allow='no'/></redirfilter>"
    )
    assert ctx.domain.devices.redirfilters[0].to_xml() == (
        "<redirfilter>\n"
        "  <usbdev class='0x08' vendor='0x0ABC' version='1.10' allow='yes'/>\n"
        "  <usbdev allow='no'/>\n"
        "</redirfilter>\n"
    )


# --------------------------------------------------------------------------------------- vsock, shmem


def test_vsock() -> None:
    dev, made = only(f"<vsock><cid address='7'/>{AT}<driver packed='on'/></vsock>", "vsock")
    assert json.loads(made[1]) == {
        "driver": "vhost-vsock-pci", "packed": True, "id": "it", "guest-cid": 7, "vhostfd": "-1",
        "bus": "pci.0", "addr": "0x3",
    }  # fmt: skip
    assert [line.split()[0] for line in dev.to_xml().splitlines()] == [
        "<vsock", "<cid", "<alias", "<address", "<driver", "</vsock>",
    ]  # fmt: skip


def test_shared_memory() -> None:
    dev, made = only(f"<shmem name='a' role='peer'><model type='ivshmem-plain'/>{AT}</shmem>", "shmem")
    assert "<size unit='M'>4</size>" in dev.to_xml()
    assert json.loads(made[1])["size"] == 4 << 20
    assert json.loads(made[3])["master"] == "off"


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        ("<rng><backend model='builtin'/></rng>", XmlError, "missing RNG device model"),
        ("<rng model='virtio'/>", XmlError, "only one RNG backend is supported"),
        ("<rng model='virtio'><backend model='egd'/></rng>", XmlError, "missing EGD backend type"),
        ("<tpm/>", XmlError, "missing TPM device backend"),
        (
            "<tpm><backend type='passthrough'/></tpm><tpm><backend type='passthrough'/></tpm>",
            ConfigUnsupported,
            "only a single TPM non-proxy device is supported",
        ),
        (
            "<tpm model='tpm-spapr'><backend type='passthrough'/></tpm>",
            ConfigUnsupported,
            "The QEMU executable /usr/bin/qemu-system-x86_64 does not support TPM model tpm-spapr",
        ),
        (
            "<smartcard mode='host-certificates'><certificate>a</certificate></smartcard>",
            XmlError,
            "host-certificates mode needs exactly three certificates",
        ),
        (
            "<smartcard mode='passthrough'/>",
            XmlError,
            "passthrough mode requires a character device type attribute",
        ),
        ("<redirdev bus='usb'/>", InternalError, "missing type in redirdev"),
        (
            "<redirfilter><usbdev version='x' allow='no'/></redirfilter>",
            XmlError,
            "Cannot parse USB device version x",
        ),
        ("<vsock><cid address='2'/></vsock>", ConfigUnsupported, "guest CIDs must be >= 3"),
        ("<vsock/><vsock/>", XmlError, "only a single vsock device is supported"),
        (
            "<shmem><model type='ivshmem-plain'/></shmem>",
            XmlError,
            "shmem element must contain 'name' attribute",
        ),
        ("<shmem name='a/b'/>", ConfigUnsupported, "shmem name cannot include '/' character"),
        (
            "<shmem name='a'><model type='ivshmem-doorbell'/></shmem>",
            ConfigUnsupported,
            "shmem model 'ivshmem-doorbell' is supported only with server option enabled",
        ),
    ],
)
def test_what_is_refused(document: str, error: type[QvirtError], message: str) -> None:
    with pytest.raises(error) as refused:
        validate(guest(document))
    assert message in refused.value.message


class Opened(Launch):
    """A start for which the descriptors are open."""

    def has(self, name: str) -> bool:
        return True

    def fds(self, name: str, count: int = 1) -> list[str]:
        return [f"{name}:{place}" for place in range(count)]


def test_a_vsock_gets_the_descriptor_that_was_opened() -> None:
    ctx = guest(PCI + f"<vsock>{AT}</vsock>")
    ctx.launch = Opened()
    (dev,) = ctx.domain.devices.vsocks
    assert json.loads(words(dev, ctx)[1])["vhostfd"] == "vhostfd-it:0"
    kinds = [type(resource) for resource in handler(dev).resources(dev, ctx)]
    assert kinds == [VsockResource, HandedResource]


@pytest.mark.parametrize(
    ("wanted", "known", "same"),
    [
        ("<vsock/>", "<vsock><cid auto='yes' address='7'/></vsock>", True),
        (
            "<vsock><cid auto='no' address='7'/></vsock>",
            "<vsock><cid auto='yes' address='7'/></vsock>",
            False,
        ),
        ("<vsock><cid address='7'/></vsock>", "<vsock><cid auto='no' address='7'/></vsock>", True),
        ("<vsock><cid address='8'/></vsock>", "<vsock><cid auto='no' address='7'/></vsock>", False),
    ],
)
def test_a_vsock_is_meant_by_what_its_document_says(wanted: str, known: str, same: bool) -> None:
    ctx, other = guest(known), guest(wanted)
    dev = ctx.domain.devices.vsocks[0]
    assert handler(dev).same(other.domain.devices.vsocks[0], dev, ctx) is same


@pytest.mark.parametrize(
    ("document", "path", "optional"),
    [
        ("<shmem name='a'><model type='ivshmem-plain'/></shmem>", "/dev/shm/a", True),
        (
            "<shmem name='a'><model type='ivshmem-doorbell'/><server/></shmem>",
            "/var/lib/libvirt/shmem-a-sock",
            False,
        ),
        ("<shmem name='a'><model type='ivshmem-doorbell'/><server path='/b'/></shmem>", "/b", False),
    ],
)
def test_memory_is_looked_for_where_others_look(document: str, path: str, optional: bool) -> None:
    ctx = guest(document)
    (dev,) = ctx.domain.devices.shmems
    twin = dev.copy()
    handler(dev).prepare(dev, ctx)
    (wanted,) = handler(dev).resources(dev, ctx)
    assert isinstance(wanted, FileResource)
    assert (wanted.path, wanted.optional, wanted.relabel) == (path, optional, False)
    assert handler(dev).same(twin, dev, ctx)


@pytest.mark.parametrize(
    ("size", "message"),
    [("<size unit='M'>3</size>", "must be a power of two"), ("<size unit='K'>512</size>", "at least 1 MiB")],
)
def test_a_size_no_bus_has_is_refused_before_the_start(size: str, message: str) -> None:
    ctx = guest(f"<shmem name='a'><model type='ivshmem-plain'/>{size}</shmem>")
    with pytest.raises(XmlError, match=message):
        handler(ctx.domain.devices.shmems[0]).prepare(ctx.domain.devices.shmems[0], ctx)


def test_an_accelerator_this_emulator_lacks_is_named() -> None:
    text = "<crypto model='virtio' type='qemu'><backend model='lkcf'/></crypto>"
    with pytest.raises(
        ConfigUnsupported, match=r"'lkcf' is not supported .* no cryptodev-backend-lkcf \(line"
    ):
        validate(guest(text))
    validate(guest(text.replace("lkcf", "builtin")))
