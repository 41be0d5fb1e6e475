"""Runs tests inside a small machine whose kernel has AppArmor or SELinux, where there is one to boot.

The machine boots once for a whole file of tests. Its image takes minutes to build, so a test that finds none
is skipped, unless QVIRT_TESTBED=build says to make it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTBED = ROOT.parent / "shared/testbed/testbed"

#: the interpreter that both sides have
_PYTHON = "/usr/bin/python3.11"

#: the context of who starts daemons: one has all categories, as init starts it
INIT = "system_u:system_r:initrc_t:s0-s0:c0.c1023"

#: a script's words that put the daemon where SELinux expects one, with its packages from $SITE
LABELLED = """
# what is compiled is executed only where a policy expects libraries; so are entries to a domain
packages=/usr/local/lib/python3.11/dist-packages
mkdir -p $packages /usr/local/sbin
tar -c --exclude '*.h' --exclude '*.c' --exclude '*.p[yx][xd]' --exclude __pycache__ \\
    -C $SITE uvloop lxml | tar -x -C $packages
printf '#!/usr/bin/python3\\nimport sys\\nfrom qvirt.daemon.main import main\\nsys.exit(main())\\n' \\
    > /usr/local/sbin/qvirtd
chmod 755 /usr/local/sbin/qvirtd
restorecon -RF /usr/local /var/lib/libvirt /var/log/libvirt
chcon -t virtd_exec_t /usr/local/sbin/qvirtd
"""

BUILD_DEADLINE = 900
RUN_DEADLINE = 900


def missing() -> str | None:
    """Say why nothing can be run inside, None when it can."""
    if not TESTBED.exists():
        return f"{TESTBED} is not there"
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is not installed"
    if os.geteuid() != 0:
        return "the image needs root"
    if os.path.realpath(sys.executable) != _PYTHON:
        return f"this environment was not made with {_PYTHON}"
    found = subprocess.run([TESTBED, "path"], capture_output=True, text=True, check=False, timeout=60)
    if not Path(found.stdout.strip() or "/nowhere").is_dir():
        if os.environ.get("QVIRT_TESTBED") != "build":
            return "no image of the testbed is cached; QVIRT_TESTBED=build makes one, in some minutes"
        subprocess.run([TESTBED, "build"], check=True, timeout=BUILD_DEADLINE)
    return None


def run_inside(variant: str, tests: str, *words: str) -> None:
    """Run a file of tests with this environment inside; skips where that cannot be, fails as the tests do.

    words: for the testbed, such as ``--context``.
    """
    done = boot(variant, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests], *words)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout, done.stdout


def boot(variant: str, command: list[str], *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command inside, in a copy of the sources; skips where that cannot be.

    words: for the testbed, such as ``--context``.
    """
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="qvirt-inside") as scratch:
        source = Path(scratch) / "source"
        for name in ("qvirt", "tests"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", source)
        # emulated, the machine would take half a minute for compiling what is compiled here in seconds
        compiled = [
            str(source / name)
            for name in ("qvirt", "tests/support", "tests/inside", "tests/functional/runtime")
        ]
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", *compiled], check=True, timeout=RUN_DEADLINE
        )
        call = [str(TESTBED), "run", "--variant", variant, "--timeout", str(RUN_DEADLINE), *words]
        # a busy machine may starve the emulated timer just when the kernel tries it
        call += ["--append", "no_timer_check"]
        call += ["--share", f"{ROOT}:ro", "--share", scratch, "--cwd", str(source)]
        call += ["--env", f"PYTHONPATH={source}", "--env", "PYTHONDONTWRITEBYTECODE=1"]
        call += ["--env", f"QVIRT_PACKAGING={ROOT / 'packaging'}"]
        return subprocess.run(
            [*call, "--", *command],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=RUN_DEADLINE + 60,
        )
