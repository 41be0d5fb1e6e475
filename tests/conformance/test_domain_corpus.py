"""Libvirt 9.0's recorded answers to domain documents, judged in process by the corpus's own scorer.

The corpus lies beside the project, not in it; where it is missing these tests are skipped. What is asserted
is the share of equal answers in the areas that are done: a rule that is broken costs many cases.
"""

import collections
import importlib.util
import json
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qvirt.errors import QvirtError
from qvirt.host.firmware import firmware_dirs, read_firmwares
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.addresses import assign
from qvirt.qemu.build import build, native_domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext, Context, HostFacts
from qvirt.qemu.names import assign_aliases

AREAS = frozenset(
    {
        "disk", "net", "char", "boot-os", "graphics", "video", "pci-controller", "usb", "input", "cpu",
        "firmware", "memory",
    }
)  # fmt: skip
#: cases whose answer depends on the recording host, or that cannot be judged
APART = (
    "host-",
    "needs-kvm",
    "daemon-config",
    "qemu-build",
    "newer",
    "fixture-",
    "native-limit",
    "oracle-",
    "argv-",
)
DATA = Path(__file__).parent.parent / "data/caps"


@pytest.fixture(scope="module")
def score(conformance: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("qvirt_conformance_score", conformance / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _caps(emulator: str) -> EmulatorCaps:
    name = "i386" if emulator.endswith("i386") else "x86_64"
    return EmulatorCaps.from_json(json.loads((DATA / f"qemu-7.2-{name}.json").read_text()))


class Translator:
    """The pipeline with everything that is not the document held still."""

    def __init__(self) -> None:
        self._caps: dict[str, EmulatorCaps] = {}
        self._firmwares = read_firmwares(firmware_dirs())

    def context(self, kind: type[Any], domain: Domain) -> Any:
        dice = random.Random(1)  # noqa: S311 - generated values must repeat
        emulator = domain.devices.emulator or "/usr/bin/qemu-system-x86_64"
        if emulator not in self._caps:
            self._caps[emulator] = _caps(emulator)
        return kind(
            domain=domain,
            caps=self._caps[emulator],
            generate_mac=lambda: "52:54:00:" + ":".join(f"{dice.randrange(256):02x}" for _ in range(3)),
            generate_uuid=lambda: str(uuid.UUID(int=dice.getrandbits(128))),
            host=HostFacts(arch="x86_64", kvm=True, firmwares=self._firmwares),
        )

    def xml(self, text: str) -> str:
        domain = parse_domain(text)
        complete(domain, self.context(Context, domain))
        return domain.to_xml()

    def argv(self, text: str) -> tuple[list[str], dict[str, str]]:
        described = parse_domain(text)
        complete(described, self.context(BuildContext, described))
        domain = native_domain(described)
        context = self.context(BuildContext, domain)
        assign(domain, context)
        assign_aliases(domain, context)
        line = build(domain, context)
        return line.argv(), line.env


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator()


def cases(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "domain").glob("*.jsonl")):
        if path.stem.endswith("other"):
            continue
        for row in path.read_text().splitlines():
            case = json.loads(row)
            apart = any(tag.startswith(APART) for tag in case.get("tags", ()))
            wanted = case["area"] != "memory" or case["set"] == "input"
            wanted = wanted and case.get("arch", "x86_64") in ("x86_64", "i686")
            if case["area"] in AREAS and wanted and not apart and "crash" not in case:
                yield case


Answer = Callable[[dict[str, Any]], dict[str, Any]]


def judge(folder: Path, select: Callable[[dict[str, Any]], bool], answer: Answer) -> tuple[float, str]:
    """Return the share of equal answers, and the cases that differ with what differs."""
    counts: collections.Counter[bool] = collections.Counter()
    wrong: list[str] = []
    for case in cases(folder):
        if not select(case):
            continue
        try:
            verdict = answer(case)
        except QvirtError as error:
            verdict = {"equal": False, "diff": [f"refused: {error.message}"]}
        counts[bool(verdict["equal"])] += 1
        if not verdict["equal"]:
            wrong.append(f"{case['id']}\n    " + "\n    ".join(verdict["diff"][:4]))
    assert counts, "the corpus has cases"
    return counts[True] / counts.total(), "\n".join(wrong)


def test_documents_come_back_as_libvirt_gives_them(
    conformance: Path, score: ModuleType, translator: Translator
) -> None:
    paths = score.Paths()

    def answer(case: dict[str, Any]) -> dict[str, Any]:
        wanted = case["define"]["xml"]
        source = case["input"]
        got = score.placeholders(translator.xml(source), source)
        verdict: dict[str, Any] = score.compare_xml(source if wanted == "=input" else wanted, got, paths)
        return verdict

    share, wrong = judge(conformance, lambda case: bool(case["define"]["ok"]), answer)
    assert share >= 0.99, wrong


def test_command_lines_are_those_libvirt_makes(
    conformance: Path, score: ModuleType, translator: Translator
) -> None:
    paths = score.Paths()

    def answer(case: dict[str, Any]) -> dict[str, Any]:
        source = case["input"]
        words, env = translator.argv(source)
        words = [score.placeholders(word, source) for word in words]
        verdict: dict[str, Any] = score.compare_argv(
            score.Argv(case["argv"]["argv"], case["argv"].get("env"), source, paths),
            score.Argv(words, env, source, paths),
        )
        return verdict

    def select(case: dict[str, Any]) -> bool:
        return bool(case["define"]["ok"] and case.get("argv", {}).get("ok"))

    share, wrong = judge(conformance, select, answer)
    assert share >= 0.98, wrong


def test_what_libvirt_refuses_is_refused(conformance: Path, translator: Translator) -> None:
    def answer(case: dict[str, Any]) -> dict[str, Any]:
        try:
            translator.xml(case["input"])
            translator.argv(case["input"])
        except QvirtError:
            return {"equal": True}
        return {"equal": False, "diff": [f"accepted, libvirt says: {case['define']['message']}"]}

    share, wrong = judge(conformance, lambda case: not case["define"]["ok"], answer)
    assert share >= 0.95, wrong


def test_a_saved_document_keeps_what_it_says(
    conformance: Path, score: ModuleType, translator: Translator
) -> None:
    # libvirt, too, may sort the controllers it added itself into another place when it reads them again,
    # and it numbers a console anew that stood behind one it had put in front
    paths = score.Paths()

    def answer(case: dict[str, Any]) -> dict[str, Any]:
        once = translator.xml(case["input"])
        verdict: dict[str, Any] = score.compare_xml(once, translator.xml(once), paths)
        return {"equal": verdict["equal"] or verdict.get("order_only"), "diff": verdict.get("diff", [])}

    share, wrong = judge(conformance, lambda case: bool(case["define"]["ok"]), answer)
    assert share >= 0.99, wrong
