"""The ``qemu:`` namespace: what the user hands straight to QEMU."""

from qvirt.xml.codecs import string, words
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"


class QemuNode(Node):
    """Base: an element of the namespace, written with the prefix ``qemu:`` whatever the document used."""

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        super().write(out, indent, "qemu:" + (tag or self.tag).rpartition("}")[2], force)


def _tag(name: str) -> str:
    return f"{{{QEMU_NAMESPACE}}}{name}"


class QemuArg(QemuNode, tag=_tag("arg")):
    value: str = attr(string, required=True)


class QemuEnv(QemuNode, tag=_tag("env")):
    """An environment variable; without a value it is set and empty."""

    name: str = attr(string, required=True)
    value: str | None = attr(string)


class QemuCommandline(QemuNode, tag=_tag("commandline")):
    """Words appended to the command line, and variables of the environment."""

    args: list[QemuArg] = children(QemuArg)
    envs: list[QemuEnv] = children(QemuEnv)


class QemuCapability(QemuNode):
    capability: str = attr(string, required=True)


class QemuCapabilities(QemuNode, tag=_tag("capabilities")):
    """Facts about the emulator that the user overrules."""

    adds: list[QemuCapability] = children(QemuCapability, _tag("add"))
    dels: list[QemuCapability] = children(QemuCapability, _tag("del"))


class QemuProperty(QemuNode, tag=_tag("property")):
    name: str = attr(string, required=True)
    type: str = attr(words("string", "signed", "unsigned", "bool", "remove"), required=True)
    value: str | None = attr(string)


class QemuFrontend(QemuNode, tag=_tag("frontend")):
    properties: list[QemuProperty] = children(QemuProperty)


class QemuOverrideDevice(QemuNode, tag=_tag("device")):
    alias: str = attr(string, required=True)
    frontend: QemuFrontend | None = child(QemuFrontend)


class QemuOverride(QemuNode, tag=_tag("override")):
    """Properties of ``-device`` that the user overrules, by the device's alias."""

    devices: list[QemuOverrideDevice] = children(QemuOverrideDevice)


class QemuDeprecation(QemuNode, tag=_tag("deprecation")):
    """What QEMU does when told something deprecated."""

    behavior: str = attr(words("none", "omit", "reject", "crash"), required=True)
