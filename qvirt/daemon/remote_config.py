"""What libvirtd.conf says about clients that come over a network: where to listen, TLS, SASL."""

import socket
from typing import Any, Final, Literal

from qvirt.errors import ConfigSyntax, InvalidArg
from qvirt.host.conf import Conf
from qvirt.net import priority
from qvirt.record import Record, fields

AuthMode = Literal["none", "polkit", "sasl"]

MIN_SSF: Final = 56
"""The weakest encryption a plain TCP connection may ask for, in bits; libvirt's own floor."""


class RemoteConfig(Record):
    """Settings under libvirt's names.

    listen_*: whether to listen, where the daemon listens to networks at all.
    Files: None for their usual places. *_list: None lets everybody in, an empty one nobody.
    tcp_min_ssf: bits. Ports are numbers or names of services.
    """

    listen_tls: bool = True
    listen_tcp: bool = False
    listen_addr: str | None = None
    tls_port: str = "16514"
    tcp_port: str = "16509"
    auth_tls: AuthMode = "none"
    auth_tcp: AuthMode = "sasl"
    tcp_min_ssf: int = MIN_SSF
    key_file: str | None = None
    cert_file: str | None = None
    ca_file: str | None = None
    crl_file: str | None = None
    tls_no_sanity_certificate: bool = False
    tls_no_verify_certificate: bool = False
    tls_allowed_dn_list: tuple[str, ...] | None = None
    tls_priority: str | None = None
    sasl_allowed_username_list: tuple[str, ...] | None = None
    max_queued_clients: int = 1000


NAMES: Final = frozenset(fields(RemoteConfig))
_BOOLS: Final = frozenset(
    ("listen_tls", "listen_tcp", "tls_no_sanity_certificate", "tls_no_verify_certificate")
)
_PORTS: Final = frozenset(("tls_port", "tcp_port"))
_LISTS: Final = frozenset(("tls_allowed_dn_list", "sasl_allowed_username_list"))
_AUTH: Final = frozenset(("auth_tls", "auth_tcp"))
_NUMBERS: Final = frozenset(("tcp_min_ssf", "max_queued_clients"))


def make_remote_config(values: Conf) -> RemoteConfig:
    """Take these settings out of a file's; raises ConfigSyntax with file and line."""
    known = {name: _convert(values, name) for name in values if name in NAMES}
    _check_files(values)
    return RemoteConfig(**known)


def _convert(values: Conf, name: str) -> Any:
    value, where = values[name], values.where(name)
    if name in _BOOLS:
        if value not in (0, 1) or not isinstance(value, int):
            raise ConfigSyntax(f"{where}: {name}: expected 0 or 1, not {value!r}")
        return bool(value)
    if name in _LISTS:
        if isinstance(value, int):
            raise ConfigSyntax(f"{where}: {name}: expected a list of quoted strings, not {value!r}")
        return (value,) if isinstance(value, str) else tuple(value)
    if name in _NUMBERS:
        if not isinstance(value, int) or value < 0:
            raise ConfigSyntax(f"{where}: {name}: '{value}' is no number it can have")
        if name == "tcp_min_ssf" and value < MIN_SSF:
            raise ConfigSyntax(
                f"{where}: minimum SSF levels lower than {MIN_SSF} are not supported: without encryption "
                f"passwords and everything else can be read on the way; {name} is {value}"
            )
        return value
    if not isinstance(value, str):
        raise ConfigSyntax(f"{where}: {name}: expected a quoted string, not {value!r}")
    if name in _AUTH and value not in ("none", "sasl"):
        raise ConfigSyntax(f"{where}: {name}: unsupported auth '{value}' for a network, use 'none' or 'sasl'")
    if name in _PORTS:
        _check_port(name, value, where)
    if name == "tls_priority":
        try:
            priority.parse(value)
        except InvalidArg as error:
            raise ConfigSyntax(f"{where}: {error.detail}") from None
    return value


def _check_port(name: str, value: str, where: str) -> None:
    if value.isdigit():
        if int(value) > 65535:
            raise ConfigSyntax(f"{where}: {name}: there is no port {value}, the last one is 65535")
        return
    try:
        socket.getservbyname(value, "tcp")
    except OSError:
        raise ConfigSyntax(
            f"{where}: {name}: '{value}' is neither a port's number nor a service of /etc/services"
        ) from None


def _check_files(values: Conf) -> None:
    """See that all three files are named, or none, as libvirt does: a mixture is seldom meant."""
    names = {"ca_file": "CA certificate", "cert_file": "server certificate", "key_file": "server key"}
    said = [name for name in names if name in values]
    for name, what in names.items():
        if said and name not in values:
            raise ConfigSyntax(
                f"{values.where(said[0])}: No {what} path set to match {said[0]}; set {name} too"
            )
