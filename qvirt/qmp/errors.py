"""What can go wrong between this daemon and a monitor or a guest agent.

    QvirtError
    ├── WireError        the peer sent what is no message
    ├── QmpError         QEMU refused a command; carries QEMU's error class and description
    ├── AgentError       the guest agent refused a command
    └── MonitorClosed    the connection is gone
OperationTimeout (monitor), AgentUnresponsive and its subclass AgentTimeout (agent) report a missed deadline.
"""

from qvirt.errors import AgentUnresponsive, InternalError


class WireError(InternalError):
    """The peer sent bytes that are not a message of its protocol."""


class MonitorClosed(InternalError):
    """The monitor connection ended; nothing more can be asked of this QEMU."""


class QmpError(InternalError):
    """QEMU refused a command.

    command: the QMP command. desc: QEMU's own sentence.
    error_class: QEMU's class ("GenericError", "CommandNotFound", "DeviceNotFound", "DeviceNotActive", ...).
    """

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        self.command = command
        self.error_class = error_class
        self.desc = desc
        super().__init__(f"unable to execute QEMU command '{command}': {desc or error_class}")


class AgentError(InternalError):
    """The guest agent refused a command; fields as in QmpError."""

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        self.command = command
        self.error_class = error_class
        self.desc = desc
        super().__init__(f"unable to execute QEMU agent command '{command}': {desc or error_class}")


class AgentTimeout(AgentUnresponsive):
    """The guest agent took a command and did not finish it in time."""
