"""The folder tree is the architecture: imports go one way only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "qvirt"

#: what every room may import
EVERYWHERE = {"record"}

#: what each room may import, beside itself
MAY_IMPORT = {
    "record": set(),
    "constants": set(),
    "errors": {"constants"},
    "xml": {"errors", "constants"},
    "model": {"xml", "errors", "constants"},
    "qemu": {"model", "xml", "errors", "constants"},
    "qmp": {"errors", "constants"},
    "rpc": {"errors", "constants"},
    "net": {"errors", "constants"},
    "host": {"model", "xml", "qemu", "qmp", "errors", "constants"},
    "security": {"host", "model", "xml", "qemu", "errors", "constants"},
    "drivers": {"host", "security", "model", "xml", "qemu", "qmp", "errors", "constants"},
    "runtime": {"drivers", "host", "security", "model", "xml", "qemu", "qmp", "errors", "constants"},
    "api": {"runtime", "drivers", "host", "security", "model", "xml", "qemu", "qmp", "errors", "constants"},
    "daemon": {
        "api",
        "runtime",
        "drivers",
        "host",
        "security",
        "model",
        "xml",
        "qemu",
        "qmp",
        "rpc",
        "net",
        "errors",
        "constants",
    },
    "client": {"rpc", "net", "errors", "constants"},
    "cli": {"client", "model", "xml", "rpc", "net", "errors", "constants"},
}

#: programs that a room's files start as processes of their own, so that nobody loads what they import
PROGRAMS = {"cli/changeover.py": {"runtime", "host"}}

#: rooms that do no I/O, and what would be I/O
PURE = ("xml", "model", "qemu", "rpc")
IO_MODULES = {"asyncio", "socket", "subprocess", "threading", "uvloop", "select", "selectors"}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            names = {alias.name for alias in node.names} - {"__version__"}
            found.update(f"{node.module}.{name}" for name in names)
    return found


def _rooms() -> list[str]:
    return sorted(
        {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")} - {"__init__"}
    )


def test_every_room_has_a_rule() -> None:
    assert set(_rooms()) <= set(MAY_IMPORT), "a new top-level package needs a place in the order of imports"


@pytest.mark.parametrize("room", _rooms())
def test_imports_go_downwards(room: str) -> None:
    wrong = []
    single = ROOT / f"{room}.py"
    for path in [single] if single.exists() else sorted((ROOT / room).rglob("*.py")):
        may = {room} | MAY_IMPORT[room] | EVERYWHERE | PROGRAMS.get(str(path.relative_to(ROOT)), set())
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "qvirt" and len(parts) > 1 and parts[1] not in may:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_imports_a_program(program: str) -> None:
    module = f"qvirt.{program.removesuffix('.py').replace('/', '.')}"
    assert (ROOT / program).exists()
    assert not [str(path) for path in ROOT.rglob("*.py") if module in _imports(path)]


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_do_no_io(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in _imports(path)
        if name.split(".")[0] in IO_MODULES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["client", "rpc", "net"])
def test_the_client_needs_nothing_compiled(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in _imports(path)
        if name.split(".")[0] in {"lxml", "uvloop"}
    ]
    assert not wrong, "\n".join(wrong)
