"""qvirtd as it is, which on SIGUSR2 also writes what it holds into a file; `soak` watches it.

python -m bench.watched FILE [OPTIONS OF QVIRTD]
"""

import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

from qvirt.daemon.main import main


def held() -> dict[str, int]:
    """Count objects that the garbage collector knows, behind a collection, and tasks of the running loop."""
    gc.collect()
    return {"objects": len(gc.get_objects()), "tasks": len(asyncio.all_tasks())}


def watch(file: Path) -> None:
    """Write what is held whenever SIGUSR2 comes; the file is whole whenever it is there."""

    def tell(*_: object) -> None:
        new = file.with_suffix(".new")
        new.write_text(json.dumps(held()))
        new.rename(file)

    signal.signal(signal.SIGUSR2, tell)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
