"""libvirt's clients of Debian 13 (11.3), in a root of their own; the machine needs none of them.

Making the root takes a minute or more and 200 MB, so tests that find none are skipped, unless
QVIRT_DEBIAN13=build says to make it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qvirt-tests/debian13"
PACKAGES = "libvirt-clients,python3-libvirt"
BUILD_DEADLINE = 900

#: $0: the root; $1: a folder to be seen there under its own path; then what to run
_ENTER = """
mount -t tmpfs tmpfs "$0/tmp" && mkdir -p "$0$1" && mount --bind "$1" "$0$1" && shift && exec chroot "$0" "$@"
"""


def root() -> Path:
    """Return the root, which is made if it is asked for; skips where there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root can enter another root")
    if not CACHE.is_dir():
        if os.environ.get("QVIRT_DEBIAN13") != "build":
            pytest.skip("no root of Debian 13 is cached; QVIRT_DEBIAN13=build makes one, in a minute or more")
        if shutil.which("mmdebstrap") is None:
            pytest.skip("mmdebstrap is not installed")
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        fresh = CACHE.with_suffix(f".{os.getpid()}")
        call = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(fresh)]
        subprocess.run(call, check=True, capture_output=True, timeout=BUILD_DEADLINE)
        fresh.rename(CACHE)
    return CACHE


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the root, with a folder below /tmp in sight. Nothing of the mounts stays."""
    call = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        _ENTER,
        str(root()),
        str(folder),
        *words,
    ]
    return subprocess.run(
        call,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
