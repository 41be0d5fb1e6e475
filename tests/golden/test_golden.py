"""Documents and what becomes of them: ``x.xml`` -> ``x.out.xml`` and ``x.args``, one switch per line.

``pytest tests/golden --update-golden`` rewrites the answers; the diff is what is reviewed. What is refused
has ``x.error`` in place of the answers it does not get.
"""

import json
import re
from pathlib import Path

import pytest

from qvirt.errors import QvirtError
from qvirt.qemu.addresses import assign
from qvirt.qemu.build import build, native_domain
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import CommandLine
from tests.support.pure import completed, context

HERE = Path(__file__).parent
CONTROLLER = re.compile(r"^    <controller [^>]*(?:/>|[^/]>\n(?:.*\n)*?    </controller>)\n", re.MULTILINE)
DOCUMENTS = sorted(path for path in HERE.rglob("*.xml") if not path.name.endswith(".out.xml"))


def shown(command: CommandLine) -> str:
    """Return a command line, one switch per line, the environment first."""
    lines = [f"{name}={value}" for name, value in sorted(command.env.items())]
    lines.append(command.emulator)
    lines += [" ".join(switch.to_argv()) for switch in command.switches]
    return "\n".join(lines) + "\n"


def answers(text: str) -> dict[str, str]:
    """Return what becomes of a document, by the suffix of the file that holds it."""
    made: dict[str, str] = {}
    try:
        described = completed(text)
        made[".out.xml"] = described.to_xml()
        domain = native_domain(described)
        ctx = context(domain)
        assign(domain, ctx)
        assign_aliases(domain, ctx)
        made[".args"] = shown(build(domain, ctx))
    except QvirtError as error:
        made[".error"] = error.message + "\n"
    return made


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE))[:-4])
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    made = answers(path.read_text())
    files = {
        suffix: path.with_suffix("").with_name(path.stem + suffix)
        for suffix in (".out.xml", ".args", ".error")
    }
    if request.config.getoption("--update-golden"):
        for suffix, file in files.items():
            file.unlink(missing_ok=True)
            if suffix in made:
                file.write_text(made[suffix])
        return
    found = {suffix: file.read_text() for suffix, file in files.items() if file.exists()}
    assert made == found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE))[:-4])
def test_completed_documents_stay_as_they_are(path: Path) -> None:
    out = path.with_name(path.stem + ".out.xml")
    if not out.exists():
        pytest.skip("refused")
    assert settled(completed(out.read_text()).to_xml()) == settled(out.read_text())


def settled(text: str) -> tuple[list[str], str]:
    """Take the controllers out: reading puts them into libvirt's order, which those it added are not in."""
    return sorted(CONTROLLER.findall(text)), CONTROLLER.sub("", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE))[:-4])
def test_json_words_are_json(path: Path) -> None:
    args = path.with_name(path.stem + ".args")
    if not args.exists():
        pytest.skip("refused")
    for line in args.read_text().splitlines():
        word = line.partition(" ")[2]
        if word.startswith("{"):
            json.loads(word)
