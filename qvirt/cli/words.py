"""virsh's words for numbers: domain states and their reasons."""

from typing import Final

from qvirt.constants.domain import DomainState

STATES: Final = (
    "no state",
    "running",
    "idle",
    "paused",
    "in shutdown",
    "shut off",
    "crashed",
    "pmsuspended",
)

REASONS: Final[dict[int, tuple[str, ...]]] = {
    DomainState.RUNNING: (
        "unknown",
        "booted",
        "migrated",
        "restored",
        "from snapshot",
        "unpaused",
        "migration canceled",
        "save canceled",
        "event wakeup",
        "crashed",
        "post-copy",
        "post-copy failed",
    ),
    DomainState.PAUSED: (
        "unknown",
        "user",
        "migrating",
        "saving",
        "dumping",
        "I/O error",
        "watchdog",
        "from snapshot",
        "shutting down",
        "creating snapshot",
        "crashed",
        "starting up",
        "post-copy",
        "post-copy failed",
        "api error",
    ),
    DomainState.SHUTDOWN: ("unknown", "user"),
    DomainState.SHUTOFF: (
        "unknown",
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from snapshot",
        "daemon",
    ),
    DomainState.CRASHED: ("unknown", "panicked"),
}


def word(words: tuple[str, ...], number: int, other: str = "unknown") -> str:
    """Give the word for a number, `other` for one that is newer than we are."""
    return words[number] if 0 <= number < len(words) else other


def state_word(state: int) -> str:
    """Give the word for a domain's state."""
    return word(STATES, state, "no state")


def reason_word(state: int, reason: int) -> str:
    """Give the words for the reason of a domain's state."""
    return word(REASONS.get(state, ()), reason)


def yes_no(value: bool) -> str:
    """Give "yes" or "no"."""
    return "yes" if value else "no"


def version_text(number: int) -> str:
    """Give a version number (major*1000000 + minor*1000 + micro) as text."""
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
