"""Have atheris look for bytes that harm a target.

    pip install atheris
    python -m tests.fuzz TARGET [CORPUS] [-max_total_time=SECONDS] [other options of libFuzzer]

What it finds is written to a file crash-…; its bytes belong into the table of the target's unit test.
"""

import sys
import tempfile
from pathlib import Path

try:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    sys.exit("tests.fuzz needs atheris: pip install atheris")

with atheris.instrument_imports(include=["qvirt"]):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    """Run one target until something is found or the time is over."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [CORPUS] [options of libFuzzer]")
    target = TARGETS[sys.argv[1]]
    # Tables and passwords are made once, and that is nothing to learn from.
    target(b"")
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as folder:
        for number, seed in enumerate(seeds(sys.argv[1])):
            (Path(folder) / str(number)).write_bytes(seed)
        own = [word for word in sys.argv[2:] if not word.startswith("-")]
        # The first folder is where what is new is kept.
        corpus = own[0] if own else f"{folder}/new"
        Path(corpus).mkdir(parents=True, exist_ok=True)
        options = [word for word in sys.argv[2:] if word.startswith("-")]
        atheris.Setup([sys.argv[0], *options, corpus, *own[1:], folder], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
