"""An ordinary user's guest has a TPM, whose keys are certified by the user's own authority."""

import pwd
import shutil
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import write
from tests.functional.runtime.helping import SHARED_MEMORY, TPM
from tests.functional.runtime.instance import document
from tests.support import users
from tests.support.daemon import Daemon

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm-tools is not installed"),
]


@pytest.fixture
def users_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that runs as an ordinary user, whose home is the daemon's tree."""
    with users.users_daemon() as daemon:
        monkeypatch.setenv("HOME", str(daemon.root))
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
            monkeypatch.delenv(name, raising=False)
        yield daemon.start()


def test_a_users_tpm(users_daemon: Daemon) -> None:
    daemon = users_daemon
    text = document("mine", TPM).replace("machine='pc'", "machine='q35'")
    daemon.virsh("define", write(daemon, "mine", text))
    daemon.virsh("start", "mine")
    (state,) = (daemon.root / "var/lib/libvirt/swtpm").glob("*/tpm2")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (nobody, 0o700)
    assert (state / "tpm2-00.permall").stat().st_size > 1000
    assert (daemon.root / ".config/swtpm-localca.conf").exists()
    daemon.virsh("destroy", "mine")
    daemon.virsh("undefine", "mine")
    assert not state.exists()
    share = (
        f"<filesystem><driver type='virtiofs'/><source dir='{daemon.root}'/><target dir='x'/></filesystem>"
    )
    text = document("mine", share, extra=SHARED_MEMORY)
    refused = daemon.virsh_run("define", write(daemon, "mine", text)).stderr
    assert "virtiofs is not yet supported in session mode" in refused
