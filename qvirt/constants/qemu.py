"""libvirt-qemu.h: straight to QEMU's monitor and the guest agent."""

from typing import Final


class ConnectDomainQemuMonitorEventRegisterFlags:
    REGEX: Final = 1
    NOCASE: Final = 2


class DomainQemuAgentCommandTimeout:
    MIN: Final = -2
    BLOCK: Final = -2
    DEFAULT: Final = -1
    NOWAIT: Final = 0
    SHUTDOWN: Final = 60


class DomainQemuMonitorCommandFlags:
    DEFAULT: Final = 0
    HMP: Final = 1
