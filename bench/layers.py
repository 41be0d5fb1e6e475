"""Time the layers: what a document goes through, what a call takes on the wire, making a process.

Microseconds, best of rounds.

.venv/bin/python -m bench.layers [--profile LAYER] [FILE.xml]
"""

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable
from pathlib import Path

from bench import plumbing
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.build import build, native_domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext
from qvirt.qemu.importer import Surroundings, import_command_line
from qvirt.qemu.names import assign_aliases

HERE = Path(__file__).parent
CAPS = HERE.parent / "tests" / "data" / "caps" / "qemu-7.2-x86_64.json"
DOCUMENT = HERE / "domain.xml"


def read_caps() -> EmulatorCaps:
    """Return the facts of the emulator that the layers are measured for."""
    return EmulatorCaps.from_json(json.loads(CAPS.read_bytes()))


def measure(run: Callable[[], object], rounds: int = 7, seconds: float = 0.15) -> float:
    """Return the microseconds one call takes, in the best of some rounds."""
    count = 1
    while True:
        begin = time.perf_counter()
        for _ in range(count):
            run()
        took = time.perf_counter() - begin
        if took > seconds / 4:
            break
        count *= 4
    best = took / count
    for _ in range(rounds - 1):
        begin = time.perf_counter()
        for _ in range(count):
            run()
        best = min(best, (time.perf_counter() - begin) / count)
    return best * 1e6


class Layers:
    """The layers over one document, each ready to be called again and again."""

    def __init__(self, text: str, caps: EmulatorCaps) -> None:
        self.text = text
        self.caps = caps
        self.ready = parse_domain(text)
        complete(self.ready, self._context(self.ready))
        self.written = self.ready.to_xml()
        self.parsed = parse_domain(text)
        self.native = native_domain(self.ready.copy())
        ctx = self._context(self.native)
        complete(self.native, ctx)
        assign_aliases(self.native, ctx)
        self.argv = build(self.native, ctx).argv()
        self.around = Surroundings(caps=caps, context=self._context)

    def _context(self, domain: Domain) -> BuildContext:
        return BuildContext(
            domain=domain,
            caps=self.caps,
            generate_mac=lambda: "52:54:00:12:34:56",
            generate_uuid=lambda: "c7a5fdbd-edaf-9455-926a-d65c16db1809",
        )

    def parse(self) -> object:
        """Text to Domain."""
        return parse_domain(self.text)

    def format(self) -> object:
        """Domain to text."""
        return self.ready.to_xml()

    def copy(self) -> object:
        """Domain to Domain."""
        return self.ready.copy()

    def define(self) -> object:
        """All that a define does in these layers: parse, complete, format."""
        domain = parse_domain(self.text)
        complete(domain, self._context(domain))
        return domain.to_xml()

    def complete(self) -> object:
        """A copy of the parsed document, completed."""
        domain = self.parsed.copy()
        complete(domain, self._context(domain))
        return domain

    def build(self) -> object:
        """A complete domain with aliases to the command line's words."""
        return build(self.native, self._context(self.native)).argv()

    def to_native(self) -> object:
        """All that domxml-to-native does for a domain without interfaces, with them."""
        domain = parse_domain(self.text)
        ctx = self._context(domain)
        complete(domain, ctx)
        assign_aliases(domain, ctx)
        return build(domain, ctx).argv()

    def from_native(self) -> object:
        """What domxml-from-native does with the words of this document's own command line."""
        return import_command_line(self.argv, {}, self.around).domain


NAMES = ("parse", "format", "copy", "complete", "build", "define", "to_native", "from_native")


def every_layer(layers: Layers) -> dict[str, Callable[[], object]]:
    """Return all layers by name, those beside the document's last."""
    return {name: getattr(layers, name) for name in NAMES} | plumbing.layers(layers.text)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=DOCUMENT)
    parser.add_argument("--profile", choices=(*NAMES, *plumbing.NAMES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    layers = Layers(options.file.read_text(), read_caps())
    every = every_layer(layers)
    if options.profile:
        run = every[options.profile]
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(500):
            run()
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        return
    result = {name: round(measure(run), 1) for name, run in every.items()}
    if options.json:
        print(json.dumps(result))
        return
    lines, written = len(layers.text.splitlines()), len(layers.written)
    print(f"{options.file.name}: {lines} lines, {written} characters written")
    for name, micros in result.items():
        print(f"{name:12} {micros:9.1f} us")


if __name__ == "__main__":
    main()
