"""libvirt-admin.h: the administration of a daemon."""

from typing import Final


class AdmConnectDaemonShutdownFlags:
    PRESERVE: Final = 1


class ClientTransport:
    UNIX: Final = 0
    TCP: Final = 1
    TLS: Final = 2
