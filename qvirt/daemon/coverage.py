"""Writes docs/api-coverage.md: every procedure of the protocol, and which of them are answered.

python -m qvirt.daemon.coverage > docs/api-coverage.md
"""

import sys
from typing import Final

import qvirt.daemon.admin
import qvirt.daemon.auth
from qvirt.api import calls
from qvirt.api.names import public_function
from qvirt.api.registry import CALLS, ProgramName
from qvirt.rpc import protocol

__all__ = ["page"]

_PROGRAMS: Final[tuple[tuple[ProgramName, int, str], ...]] = (
    ("remote", protocol.REMOTE, "Main program"),
    ("qemu", protocol.QEMU, "QEMU program"),
    ("admin", protocol.ADMIN, "Administration program"),
)

_HEAD: Final = """\
# API coverage

Which calls of libvirt's protocol are answered. Every other one is refused as `unknown procedure`, which
libvirt's clients take as "not supported" and work around where they can. Written by
`python -m qvirt.daemon.coverage`; a test fails when it is stale.
"""


def page() -> str:
    """Give the page."""
    calls.load()
    # imported for the calls they register
    assert qvirt.daemon.auth  # noqa: S101
    assert qvirt.daemon.admin  # noqa: S101
    parts = [_HEAD]
    for name, number, title in _PROGRAMS:
        program = protocol.program(number)
        there = [p for p in program.by_number.values() if not p.event and (name, p.name) in CALLS]
        missing = [p for p in program.by_number.values() if not p.event and (name, p.name) not in CALLS]
        total = len(there) + len(missing)
        parts.append(
            f"\n## {title}: {len(there)} of {total}\n\n| call | procedure | what it does |\n|---|---|---|\n"
        )
        for procedure in there:
            summary = (CALLS[name, procedure.name].function.__doc__ or "").split("\n")[0]
            public = public_function(procedure.name, name)
            parts.append(f"| `{public}` | {procedure.number} `{procedure.name}` | {summary} |\n")
        parts.append("\n### Not answered yet\n\n")
        parts += [f"{p.number} `{p.name}`{_release(p)}  \n" for p in missing]
    parts.append(_events())
    return "".join(parts)


def _release(procedure: protocol.Procedure) -> str:
    return " (after 9.0)" if procedure.since else ""


def _events() -> str:
    names = [f"{each.number} `{each.name}`" for each in protocol.event_ids("domain").values()]
    return (
        "\n## Domain events\n\nEvery number can be registered, in the old style (up to 15) and with callback "
        "ids: " + ", ".join(names) + ".\n"
    )


if __name__ == "__main__":
    sys.stdout.write(page())
