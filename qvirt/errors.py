"""Every error qvirt raises, one class per libvirt error number.

A class knows its libvirt code and the sentence libvirt puts around the detail, so a message reads the
same here, over the wire and in scripts that match on it. Raise the class with the detail only:

    raise NoDomain(f"no domain with matching name '{name}'")

The numbers are virErrorNumber and virErrorDomain of libvirt's public API.
"""

from typing import ClassVar

from qvirt.constants.error import ErrorDomain, ErrorLevel, ErrorNumber


class QvirtError(Exception):
    """The root: a libvirt error code and domain, and a message for people.

    detail: what, which object, which value, where, and what to do.
    domain: virErrorDomain; the part of libvirt that a client believes the error comes from.
    """

    code: ClassVar[int] = ErrorNumber.INTERNAL_ERROR
    template: ClassVar[str] = "internal error: %s"
    default_domain: ClassVar[int] = ErrorDomain.QEMU
    level: ClassVar[int] = ErrorLevel.ERROR

    def __init__(self, detail: str, *, domain: int | None = None) -> None:
        self.detail = detail
        self.domain = self.default_domain if domain is None else domain
        super().__init__(self.message)

    def add(self, text: str) -> None:
        """Say more: a reason, or a remedy, that was found out later."""
        self.detail = f"{self.detail}; {text}"
        self.args = (self.message,)

    @property
    def message(self) -> str:
        """The whole sentence, as a client shows it."""
        return self.template % self.detail if "%s" in self.template else self.template


class InternalError(QvirtError):
    """Something that should not happen happened."""


class NoSupport(QvirtError):
    """The driver does not have this call."""

    code = ErrorNumber.NO_SUPPORT
    template = "this function is not supported by the connection driver: %s"


class NoConnect(QvirtError):
    """No driver takes this URI."""

    code = ErrorNumber.NO_CONNECT
    template = "no connection driver available for %s"
    default_domain = ErrorDomain.NONE


class InvalidConnection(QvirtError):
    """The call needs another kind of connection."""

    code = ErrorNumber.INVALID_CONN
    template = "invalid connection pointer in %s"


class InvalidDomain(QvirtError):
    """The domain handle is not usable for this call."""

    code = ErrorNumber.INVALID_DOMAIN
    template = "invalid domain pointer in %s"


class InvalidArg(QvirtError):
    """An argument has a value it may not have."""

    code = ErrorNumber.INVALID_ARG
    template = "invalid argument: %s"


class OperationFailed(QvirtError):
    """The operation was tried and failed."""

    code = ErrorNumber.OPERATION_FAILED
    template = "operation failed: %s"


class OsType(QvirtError):
    """No emulator here runs this OS type, architecture or virtualisation type."""

    code = ErrorNumber.OS_TYPE
    template = "unknown OS type %s"


class NoSource(QvirtError):
    """A disk says nothing about where its bytes are; the detail is its target name."""

    code = ErrorNumber.NO_SOURCE
    template = "missing source information for device %s"
    default_domain = ErrorDomain.DOMAIN


class NoTarget(QvirtError):
    """A disk does not say what it is called in the guest; the detail is its source."""

    code = ErrorNumber.NO_TARGET
    template = "missing target information for device %s"
    default_domain = ErrorDomain.DOMAIN

    def __init__(self, detail: str | None, *, domain: int | None = None) -> None:
        super().__init__(detail or "", domain=domain)

    @property
    def message(self) -> str:
        return super().message.rstrip()


class NoName(QvirtError):
    """The document lacks a name."""

    code = ErrorNumber.NO_NAME
    template = "missing name information in %s"


class XmlError(QvirtError):
    """The document is well formed but says something impossible."""

    code = ErrorNumber.XML_ERROR
    template = "XML error: %s"
    default_domain = ErrorDomain.DOMAIN


class XmlDetail(QvirtError):
    """The document is not well formed."""

    code = ErrorNumber.XML_DETAIL
    template = "%s"
    default_domain = ErrorDomain.XML


class XmlInvalidSchema(QvirtError):
    """The document was to be validated and holds something unknown."""

    code = ErrorNumber.XML_INVALID_SCHEMA
    template = "XML document failed to validate against schema: %s"
    default_domain = ErrorDomain.XML


class DomainExists(QvirtError):
    """Name or UUID belong to another domain."""

    code = ErrorNumber.DOM_EXIST
    template = "domain %s exists already"


class OperationDenied(QvirtError):
    """The connection is read-only."""

    code = ErrorNumber.OPERATION_DENIED
    template = "operation forbidden: %s"
    default_domain = ErrorDomain.DOMAIN


class AccessDenied(QvirtError):
    """The access rules refuse this client."""

    code = ErrorNumber.ACCESS_DENIED
    template = "access denied: %s"
    default_domain = ErrorDomain.ACCESS


class SystemError_(QvirtError):
    """A system call failed; libvirt's message is the bare sentence with the errno's text."""

    code = ErrorNumber.SYSTEM_ERROR
    template = "%s"

    def __init__(self, detail: str, error: OSError | None = None, *, domain: int | None = None) -> None:
        super().__init__(f"{detail}: {error.strerror}" if error else detail, domain=domain)
        self.errno = error.errno if error and error.errno is not None else 0


class ConfigSyntax(QvirtError):
    """A configuration file cannot be read."""

    code = ErrorNumber.CONF_SYNTAX
    template = "configuration file syntax error: %s"
    default_domain = ErrorDomain.CONF


class RpcError(QvirtError):
    """The peer broke the protocol, or a call is not known."""

    code = ErrorNumber.RPC
    template = "%s"
    default_domain = ErrorDomain.RPC


class AuthFailed(QvirtError):
    """The client did not prove who it is."""

    code = ErrorNumber.AUTH_FAILED
    template = "authentication failed: %s"
    default_domain = ErrorDomain.RPC


class AuthCancelled(QvirtError):
    """Somebody was asked for a password and would not give it."""

    code = ErrorNumber.AUTH_CANCELLED
    template = "authentication cancelled: %s"
    default_domain = ErrorDomain.RPC


class AuthUnavailable(QvirtError):
    """Somebody would have to be asked, and nothing is there to ask with."""

    code = ErrorNumber.AUTH_UNAVAILABLE
    template = "authentication unavailable: %s"
    default_domain = ErrorDomain.RPC


class NoServer(QvirtError):
    """The daemon has no such server, in the sense of its administration."""

    code = ErrorNumber.NO_SERVER
    template = "Server not found: %s"
    default_domain = ErrorDomain.RPC


class NoClient(QvirtError):
    """A server has no such client."""

    code = ErrorNumber.NO_CLIENT
    template = "Client not found: %s"
    default_domain = ErrorDomain.RPC


class NoDomain(QvirtError):
    """No such domain."""

    code = ErrorNumber.NO_DOMAIN
    template = "Domain not found: %s"


class NoNetwork(QvirtError):
    """No such network."""

    code = ErrorNumber.NO_NETWORK
    template = "Network not found: %s"
    default_domain = ErrorDomain.NETWORK


class NoStoragePool(QvirtError):
    """No such storage pool."""

    code = ErrorNumber.NO_STORAGE_POOL
    template = "Storage pool not found: %s"
    default_domain = ErrorDomain.STORAGE


class InvalidSecret(QvirtError):
    """A secret that may not be used so."""

    code = ErrorNumber.INVALID_SECRET
    template = "Invalid secret: %s"
    default_domain = ErrorDomain.SECRET


class NoSecret(QvirtError):
    """No such secret."""

    code = ErrorNumber.NO_SECRET
    template = "Secret not found: %s"
    default_domain = ErrorDomain.SECRET


class OperationInvalid(QvirtError):
    """The object is not in a state that allows the operation."""

    code = ErrorNumber.OPERATION_INVALID
    template = "Requested operation is not valid: %s"


class ConfigUnsupported(QvirtError):
    """The configuration asks for what this QEMU, host or driver cannot do."""

    code = ErrorNumber.CONFIG_UNSUPPORTED
    template = "unsupported configuration: %s"


class OperationTimeout(QvirtError):
    """Somebody did not answer in time."""

    code = ErrorNumber.OPERATION_TIMEOUT
    template = "Timed out during operation: %s"


class DBusService(QvirtError):
    """A service on the host's message bus refused, or cannot be reached."""

    code = ErrorNumber.DBUS_SERVICE
    template = "error from service: %s"


class ArgumentUnsupported(QvirtError):
    """A flag or an argument this driver does not know."""

    code = ErrorNumber.ARGUMENT_UNSUPPORTED
    template = "argument unsupported: %s"


class OperationAborted(QvirtError):
    """Somebody stopped the operation."""

    code = ErrorNumber.OPERATION_ABORTED
    template = "operation aborted: %s"


class NoDomainMetadata(QvirtError):
    """The domain has no such metadata."""

    code = ErrorNumber.NO_DOMAIN_METADATA
    template = "metadata not found: %s"


class NumericalOverflow(QvirtError):
    """A number does not fit."""

    code = ErrorNumber.OVERFLOW
    template = "numerical overflow: %s"


class OperationUnsupported(QvirtError):
    """The operation exists, but not for this object."""

    code = ErrorNumber.OPERATION_UNSUPPORTED
    template = "Operation not supported: %s"


class AgentUnresponsive(QvirtError):
    """The guest agent does not answer."""

    code = ErrorNumber.AGENT_UNRESPONSIVE
    template = "Guest agent is not responding: %s"


class ResourceBusy(QvirtError):
    """Another user holds the resource."""

    code = ErrorNumber.RESOURCE_BUSY
    template = "resource busy: %s"


class CpuIncompatible(QvirtError):
    """The CPU asked for cannot run here."""

    code = ErrorNumber.CPU_INCOMPATIBLE
    template = "the CPU is incompatible with host CPU: %s"
    default_domain = ErrorDomain.CPU


class DeviceMissing(QvirtError):
    """The domain has no such device."""

    code = ErrorNumber.DEVICE_MISSING
    template = "device not found: %s"


class NoHostname(QvirtError):
    """No hostname is known."""

    code = ErrorNumber.NO_HOSTNAME
    template = "no hostname found: %s"


class CallFailed(QvirtError):
    """A library call failed."""

    code = ErrorNumber.CALL_FAILED
    template = "library call failed: %s"


class InvalidStream(QvirtError):
    """The stream is not usable for this."""

    code = ErrorNumber.INVALID_STREAM
    template = "invalid stream pointer in %s"
    default_domain = ErrorDomain.STREAMS


class InvalidMac(QvirtError):
    """What should be a MAC address is none; the detail is the text."""

    code = ErrorNumber.INVALID_MAC
    template = "invalid MAC address: %s"


class NoNetworkPort(QvirtError):
    """There is no such network port."""

    code = ErrorNumber.NO_NETWORK_PORT
    template = "network port not found: %s"
    default_domain = ErrorDomain.NETWORK


class NetworkPortExists(QvirtError):
    """A network port of this uuid is there already."""

    code = ErrorNumber.NETWORK_PORT_EXIST
    template = "network port %s exists already"
    default_domain = ErrorDomain.NETWORK


class NoNetworkMetadata(QvirtError):
    """The network has no such metadata."""

    code = ErrorNumber.NO_NETWORK_METADATA
    template = "metadata not found: %s"
    default_domain = ErrorDomain.NETWORK
