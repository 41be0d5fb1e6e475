"""An encrypted image for a test to open.

qemu-img sizes the key derivation by the processor time that a first round of
it took, and gives up ("Unable to get accurate CPU usage") where the kernel's
accounting was too coarse to see that round. The next round is seen.
"""

import subprocess
from pathlib import Path

_TRIES = 20


def luks_image(path: Path, passphrase: Path) -> None:
    """Make `path` a LUKS image of 1 MiB that the words in `passphrase` open.

    Raises AssertionError with qemu-img's words where it cannot be made.
    """
    command = [
        *("qemu-img", "create", "-q", "-f", "luks"),
        *("--object", f"secret,id=words,file={passphrase}"),
        *("-o", "key-secret=words,iter-time=10", str(path), "1M"),
    ]
    for left in reversed(range(_TRIES)):
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if made.returncode == 0:
            return
        assert "accurate CPU usage" in made.stderr, made.stderr
        assert left, made.stderr
