"""``qvirt doctor DOMAIN`` tells all obstacles at once; the remedies it names help."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.functional.runtime.instance import disk, document
from tests.support.daemon import Daemon, running_daemon

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root runs QEMU as another"),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as one:
        yield one


def doctor(daemon: Daemon, name: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "qvirt.cli.main", "-c", daemon.uri, "doctor", name]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_all_obstacles_and_their_remedies(daemon: Daemon) -> None:
    if "<model>dac</model>" not in daemon.virsh("capabilities"):
        pytest.skip("QEMU runs as the daemon's own user here")
    closed, image, frozen = daemon.root / "closed", daemon.root / "closed/a.img", daemon.root / "b.img"
    closed.mkdir(mode=0o700)
    for path in (image, frozen):
        path.write_bytes(b"\0" * 4096)
    frozen.chmod(0o400)
    text = document("ill", disk(image, "vda"), disk(frozen, "vdb"), disk(daemon.root / "gone.img", "vdc"))
    path = daemon.root / "ill.xml"
    path.write_text(text)
    daemon.virsh("define", str(path))
    done = doctor(daemon, "ill")
    assert done.returncode == 1, done
    assert (
        f"directory '{closed}' cannot be searched by QEMU's user (mode 0700, owner root:root)" in done.stdout
    )
    assert f"file '{frozen}': mode 0400 forbids it" in done.stdout
    assert "gone.img" in done.stdout
    refused = daemon.virsh_run("start", "ill")
    assert refused.returncode
    (daemon.root / "gone.img").write_bytes(b"\0" * 4096)
    for line in done.stdout.splitlines():
        if "allow it with '" in line:
            subprocess.run(line.split("allow it with '")[1].split("'")[0].split(), check=True)
    assert doctor(daemon, "ill").stdout.strip().endswith("can get at all files.")
    daemon.virsh("start", "ill", "--paused")
    daemon.virsh("destroy", "ill")
