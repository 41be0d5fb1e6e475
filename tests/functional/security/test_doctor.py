"""``qvirt doctor DOMAIN`` tells all obstacles at once; the remedies it names help."""

import os
import subprocess

import pytest

from tests.functional.runtime.instance import disk, document
from tests.support.daemon import Daemon

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root runs QEMU as another"),
]


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
    done = daemon.qvirt("doctor", "ill")
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
    assert daemon.qvirt("doctor", "ill").stdout.strip().endswith("can get at all files.")
    daemon.virsh("start", "ill", "--paused")
    daemon.virsh("destroy", "ill")


def test_the_daemons_options_and_the_domains_label_count(own_daemon: Daemon) -> None:
    if "<model>dac</model>" not in own_daemon.virsh("capabilities"):
        pytest.skip("QEMU runs as the daemon's own user here")
    image, path = own_daemon.root / "a.img", own_daemon.root / "kept.xml"
    image.write_bytes(b"\0" * 4096)
    image.chmod(0o600)
    label = "<seclabel type='static' model='dac' relabel='yes'><label>+4711:+4712</label></seclabel>"
    path.write_text(document("kept", disk(image, "vda"), on=label))
    own_daemon.virsh("define", str(path))
    assert "user (+4711:+4712) can get at all files." in own_daemon.qvirt("doctor", "kept").stdout
    own_daemon.stop()
    conf = own_daemon.root / "etc/libvirt/qemu.conf"
    conf.write_text("dynamic_ownership = 0\n")
    own_daemon.start()
    done = own_daemon.qvirt("doctor", "kept")
    assert done.returncode == 1
    assert f"file '{image}': it stays as it is (mode 0600, owner root:root)" in done.stdout
    assert "it stays as it is" in own_daemon.virsh_run("start", "kept").stderr
