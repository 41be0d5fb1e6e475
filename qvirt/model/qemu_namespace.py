"""The ``qemu:`` namespace: what the user hands straight to QEMU."""

import re

from qvirt.errors import InternalError, XmlError
from qvirt.xml.codecs import string, words
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node, complain

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"


class QemuNode(Node):
    """Base: an element of the namespace, written with the prefix ``qemu:`` whatever the document used."""

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        super().write(out, indent, "qemu:" + (tag or self.tag).rpartition("}")[2], force)


def _tag(name: str) -> str:
    return f"{{{QEMU_NAMESPACE}}}{name}"


class QemuArg(QemuNode, tag=_tag("arg")):
    complaints = complain({"!value": (InternalError, "No qemu command-line argument specified")})
    value: str = attr(string, required=True)


class QemuEnv(QemuNode, tag=_tag("env")):
    """An environment variable; without a value it is set and empty."""

    complaints = complain({"!name": (InternalError, "No qemu environment name specified")})
    name: str = attr(string, required=True)
    value: str | None = attr(string)

    def check(self) -> None:
        if not re.match(r"[A-Za-z_]", self.name):
            raise InternalError("Invalid environment name, it must begin with a letter or underscore")
        if not re.fullmatch(r"[A-Za-z0-9_]*", self.name):
            raise InternalError("Invalid environment name, it must contain only alphanumerics and underscore")


class QemuCommandline(QemuNode, tag=_tag("commandline")):
    """Words appended to the command line, and variables of the environment."""

    args: list[QemuArg] = children(QemuArg)
    envs: list[QemuEnv] = children(QemuEnv)


class QemuCapability(QemuNode):
    complaints = complain({"!capability": (InternalError, "missing capability name")})
    capability: str = attr(string, required=True)


class QemuCapabilities(QemuNode, tag=_tag("capabilities")):
    """Facts about the emulator that the user overrules."""

    adds: list[QemuCapability] = children(QemuCapability, _tag("add"))
    dels: list[QemuCapability] = children(QemuCapability, _tag("del"))


class QemuProperty(QemuNode, tag=_tag("property")):
    complaints = complain({"!name": (XmlError, "missing 'name' attribute for qemu:property")})
    name: str = attr(string, required=True)
    type: str = attr(words("string", "signed", "unsigned", "bool", "remove"), required=True)
    value: str | None = attr(string)

    def check(self) -> None:
        if self.type == "remove":
            return
        if self.value is None:
            raise XmlError("missing 'value' attribute for 'qemu:property'")
        pattern = {"bool": "true|false", "unsigned": r"[0-9]+", "signed": r"-?[0-9]+"}.get(
            self.type, "(?s:.*)"
        )
        if not re.fullmatch(pattern, self.value):
            raise XmlError(f"invalid value '{self.value}' of 'value' attribute of 'qemu:property'")


class QemuFrontend(QemuNode, tag=_tag("frontend")):
    properties: list[QemuProperty] = children(QemuProperty)


class QemuOverrideDevice(QemuNode, tag=_tag("device")):
    complaints = complain({"!alias": (XmlError, "missing 'alias' attribute for qemu:device")})
    alias: str = attr(string, required=True)
    frontend: QemuFrontend | None = child(QemuFrontend)

    def check(self) -> None:
        if self.frontend is not None and not self.frontend.properties:
            self.frontend = None


class QemuOverride(QemuNode, tag=_tag("override")):
    """Properties of ``-device`` that the user overrules, by the device's alias."""

    devices: list[QemuOverrideDevice] = children(QemuOverrideDevice)


class QemuDeprecation(QemuNode, tag=_tag("deprecation")):
    """What QEMU does when told something deprecated."""

    behavior: str | None = attr(string)
