"""``<launchSecurity>`` and ``<keywrap>``: what protects the guest's memory and keys from the host."""

from qvirt.errors import XmlError
from qvirt.xml.codecs import hex4, on_off, string, uint, words, yes_no
from qvirt.xml.fields import attr, children, text
from qvirt.xml.node import Node

#: the bit of SEV's policy that asks for encrypted registers
_ENCRYPTED_STATE = 0x4


class LaunchSecurity(Node, tag="launchSecurity"):
    """Memory encryption: SEV's policy and certificates, or s390's protected virtualisation."""

    type: str = attr(words("sev", "s390-pv"), required=True)
    kernel_hashes: bool | None = attr(yes_no, "kernelHashes")
    cbitpos: int | None = text(uint)
    reduced_phys_bits: int | None = text(uint, "reducedPhysBits")
    policy: int | None = text(hex4)
    dh_cert: str | None = text(string, "dhCert")
    session: str | None = text(string)

    @property
    def encrypts_registers(self) -> bool:
        """Tell whether SEV's policy asks for encrypted registers (SEV-ES)."""
        return self.type == "sev" and bool((self.policy or 0) & _ENCRYPTED_STATE)

    def check(self) -> None:
        if self.type == "sev" and self.policy is None:
            raise XmlError("failed to get launch security policy")


class Cipher(Node, tag="cipher"):
    name: str = attr(words("aes", "dea"), required=True)
    state: bool = attr(on_off, required=True)


class KeyWrap(Node, tag="keywrap"):
    """s390: whether the guest may wrap keys with the machine's."""

    ciphers: list[Cipher] = children(Cipher)
