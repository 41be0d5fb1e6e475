"""Guests on a machine that systemd runs, with machined, logind and version 2 of control groups alone."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
TESTBED = REPOSITORY.parent / "shared/testbed/testbed"

#: seconds; the machine is emulated, and its guests once more
DEADLINE = 540


def test_in_a_machine_of_its_own() -> None:
    """One boot for all of `inside_systemd.py`."""
    if not TESTBED.exists():
        pytest.skip(f"{TESTBED} is missing")
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    image = subprocess.run([TESTBED, "path"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(image, "root.ext4").exists():
        pytest.skip(f"no image in {image}: '{TESTBED} build' makes it, which takes a few minutes")
    words = [
        str(TESTBED), "run", "--variant", "none", "--init", "systemd", "--share", f"{REPOSITORY}:ro",
        "--cwd", str(REPOSITORY), "--timeout", str(DEADLINE), "--env", "PYTHONDONTWRITEBYTECODE=1", "--",
        f"{REPOSITORY}/.venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "tests/functional/security/inside_systemd.py",
    ]  # fmt: skip
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE + 60, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout
