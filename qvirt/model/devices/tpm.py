"""``<tpm>``: a trusted platform module."""

from qvirt.errors import XmlError
from qvirt.model.devices.device import Device
from qvirt.model.seclabel import DeviceSecLabel
from qvirt.xml.codecs import string, uuid, word, yes_no
from qvirt.xml.fields import attr, child, children, flag
from qvirt.xml.node import Node


class TpmHostDevice(Node, tag="device"):
    path: str | None = attr(string)


class TpmSource(Node, tag="source"):
    """``<source>`` of an external TPM: where its control socket is."""

    type: str | None = attr(string)
    mode: str | None = attr(word("connect", "bind"))
    path: str | None = attr(string)
    seclabels: list[DeviceSecLabel] = children(DeviceSecLabel)


class TpmEncryption(Node, tag="encryption"):
    secret: str = attr(uuid, required=True)


class PcrBanks(Node, tag="active_pcr_banks"):
    sha1: bool = flag()
    sha256: bool = flag()
    sha384: bool = flag()
    sha512: bool = flag()


class TpmBackend(Node, tag="backend"):
    """``<backend>``: the host's TPM, a swtpm of the domain's own, or a socket somebody else serves."""

    type: str = attr(word("passthrough", "emulator", "external"), required=True)
    version: str | None = attr(word("1.2", "2.0", "default"))
    persistent_state: bool | None = attr(yes_no, omit=False)
    device: TpmHostDevice | None = child(TpmHostDevice)
    source: TpmSource | None = child(TpmSource)
    encryption: TpmEncryption | None = child(TpmEncryption)
    active_pcr_banks: PcrBanks | None = child(PcrBanks)

    def check(self) -> None:
        wanted = {
            "passthrough": ("device",),
            "emulator": ("version", "persistent_state", "encryption", "active_pcr_banks"),
            "external": ("source",),
        }[self.type]
        for known in self.fields:
            if known.name != "type" and known.name not in wanted:
                self.__dict__.pop(known.name, None)
        if self.type == "external" and (self.source is None or self.source.type is None):
            raise XmlError("missing external TPM backend type")
        if self.active_pcr_banks is not None and self.active_pcr_banks.is_empty():
            self.active_pcr_banks = None


class Tpm(Device, tag="tpm"):
    """``<tpm>``."""

    model: str | None = attr(word("tpm-tis", "tpm-crb", "tpm-spapr", "spapr-tpm-proxy"))
    backends: list[TpmBackend] = children(TpmBackend)

    def check(self) -> None:
        if not self.backends:
            raise XmlError("missing TPM device backend")
        if len(self.backends) > 1:
            raise XmlError("only one TPM backend is supported")

    @property
    def backend(self) -> TpmBackend:
        """The backend."""
        return self.backends[0]
