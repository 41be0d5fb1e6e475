"""Guests whose memory AMD SEV encrypts: what their owner gives, asks, and says before they run."""

from typing import TYPE_CHECKING, Final

from qvirt.constants.common import TypedParameterType
from qvirt.constants.domain import DomainState
from qvirt.errors import OperationInvalid, OperationUnsupported
from qvirt.model.domain import Domain as Definition
from qvirt.model.launch import LaunchSecurity
from qvirt.qemu.launch_security import owner_files
from qvirt.qmp.commands import as_object, int_of, text_of
from qvirt.qmp.wire import JsonValue
from qvirt.runtime.jobs import Job
from qvirt.runtime.life.launch import hand_over
from qvirt.runtime.records import Param
from qvirt.security.stack import Guard

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

UINT: Final = TypedParameterType.UINT
STRING: Final = TypedParameterType.STRING

#: what is told of an encrypted guest, and QEMU's name of it
_NUMBERS: Final = (
    ("sev-api-major", "api-major"),
    ("sev-api-minor", "api-minor"),
    ("sev-build-id", "build-id"),
    ("sev-policy", "policy"),
)


def write_files(definition: Definition, folder: str, guard: Guard) -> None:
    """Put what the owner gives to QEMU into the run's folder. Blocking. Raises SystemError_."""
    for name, text in owner_files(definition).items():
        hand_over(f"{folder}/{name}", text.encode(), guard, "launch security")


def _encryption(domain: "Domain") -> LaunchSecurity | None:
    security = domain.current.launch_security
    return security if security is not None and security.type == "sev" else None


async def info(domain: "Domain") -> list[Param]:
    """Return the measurement of an encrypted guest, by which its owner knows it, and the firmware's version.

    Nothing of another guest. Raises OperationInvalid for one that does not run.
    """
    if _encryption(domain) is None:
        return []
    async with domain.job(Job.QUERY, "launch security"):
        running = domain.need_running()
        measured = as_object(await running.execute("query-sev-launch-measure"), "query-sev-launch-measure")
        said = as_object(await running.execute("query-sev"), "query-sev")
    return [
        Param("sev-measurement", STRING, text_of(measured, "data", "query-sev-launch-measure")),
        *(Param(name, UINT, int_of(said, key, "query-sev") & 0xFFFFFFFF) for name, key in _NUMBERS),
    ]


async def set_secret(domain: "Domain", header: str, secret: str, address: int | None) -> None:
    """Give an encrypted guest that has not run yet its owner's secret; both in base64, as they were made.

    address: where in the guest's memory; None for the place its firmware says.
    Raises OperationUnsupported for other guests, OperationInvalid for one that does not wait for it.
    """
    refuse_secret(domain)
    async with domain.job(Job.MODIFY, "launch secret"):
        running = domain.need_running()
        if running.caps is None:
            running.caps = await domain.hypervisor.documents.start_caps(running.definition)
        if not running.caps.has_command("sev-inject-launch-secret"):
            raise OperationUnsupported("QEMU does not support setting a launch secret")
        if domain.state != DomainState.PAUSED:
            raise OperationInvalid("domain must be in a paused state")
        arguments: dict[str, JsonValue] = {"packet-header": header, "secret": secret}
        if address is not None:
            arguments["gpa"] = address
        await running.execute("sev-inject-launch-secret", arguments)


def refuse_secret(domain: "Domain") -> None:
    """Raise OperationUnsupported for a guest that takes no secret."""
    if _encryption(domain) is None:
        raise OperationUnsupported("setting a launch secret is only supported in SEV-enabled domains")
