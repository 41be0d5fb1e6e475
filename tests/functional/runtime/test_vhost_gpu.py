"""A card that is a process beside QEMU: it is there when QEMU comes, works, and ends with its guest."""

import os
import signal
from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, OperationFailed, QvirtError
from qvirt.runtime.helpers import vhost_user
from tests.functional.runtime.helping import helped, program
from tests.functional.runtime.instance import EMULATOR, Instance, document, instance, run, until

PROGRAM = "/usr/lib/qemu/vhost-user-gpu"

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not os.access(PROGRAM, os.X_OK), reason="vhost-user-gpu is not installed"),
]

CARD = "<video><driver name='vhostuser'/><model type='virtio' heads='1'/></video>"
SCREEN = "<graphics type='vnc' port='-1' autoport='yes'/>"


#: QEMU connects to such a card with KVM only: this one has a card of its own in its place, and the connection
STAND_IN = f"""#!/usr/bin/python3 -I
import json, os, sys
words = [{EMULATOR!r}]
for word in sys.argv[1:]:
    if word.startswith('{{"driver":"vhost-user-vga"'):
        card = json.loads(word)
        assert card.pop("chardev") == "chr-vu-video0"
        word = json.dumps(card | {{"driver": "virtio-vga"}})
    words.append(word)
os.execv(words[0], words)
"""


def served(it: Instance) -> str:
    """Return the document of a guest with such a card."""
    emulator = program(it.root / "bin", "qemu-system-x86_64", STAND_IN)
    return helped(SCREEN, CARD).replace(EMULATOR, str(emulator))


def test_it_lives_and_ends_with_its_guest() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve(autostart=False) as hv:
                domain = await hv.create(served(it))
                running = domain.need_running()
                assert list(running.helpers) == ["video0-vhost-user-gpu"]
                process = running.helpers["video0-vhost-user-gpu"].process
                assert Path(f"/proc/{process.pid}/exe").readlink() == Path(PROGRAM)
                status = Path(f"/proc/{process.pid}/status").read_text()
                assert "\nCapEff:\t0000000000000000\n" in status or os.geteuid()
                if hv.user is not None:
                    assert f"\nUid:\t{hv.user.uid}\t" in status
                chardevs = await running.execute("query-chardev")
                assert "chr-vu-video0" in str(chardevs)
                assert "disconnected" not in str(chardevs)
            async with it.serve(autostart=False) as hv:
                domain = hv.domains.by_name("helped")
                running = domain.need_running()
                assert running.helpers["video0-vhost-user-gpu"].process.pid == process.pid
                await domain.destroy()
                assert it.processes() == []
                assert it.traces() == []

    run(scenario())


def test_without_kvm_qemu_says_so() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve(autostart=False) as hv:
                with pytest.raises(QvirtError, match=r"requires kvm\s+This comes from <video> \(line"):
                    await hv.create(helped(SCREEN, CARD))
                assert it.processes() == []
                assert it.traces() == []

    run(scenario())


def test_one_that_dies_is_reported() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve(autostart=False) as hv:
                domain = await hv.create(served(it), paused=True)
                (helper,) = domain.need_running().helpers.values()
                os.kill(helper.process.pid, signal.SIGKILL)
                log = hv.paths.logfile("helped")
                said = "helper video0-vhost-user-gpu was killed by signal SIGKILL"
                await until(lambda: said in log.read_text(), said)
                await domain.destroy()
                assert it.traces() == []

    run(scenario())


def test_what_keeps_a_guest_from_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve(autostart=False) as hv:
                with pytest.raises(ConfigUnsupported, match=r"'vhostuser' requires shared memory \(line"):
                    await hv.create(document("alone", SCREEN, CARD))
                folder = it.root / "described"
                monkeypatch.setattr(vhost_user, "DESCRIPTIONS", (str(folder),))
                with pytest.raises(OperationFailed, match="satisfying vhost-user-gpu: none is described in"):
                    await hv.create(helped(SCREEN, CARD))
                says = program(it.root / "bin", "grumbler", "#!/bin/sh\necho I will not >&2\nexit 3\n")
                folder.mkdir()
                (folder / "50.json").write_text(f'{{"type": "gpu", "binary": "{says}"}}')
                with pytest.raises(QvirtError) as caught:
                    await hv.create(helped(SCREEN, CARD))
                assert "exited with status 3: I will not" in str(caught.value)
                assert it.processes() == []
                assert it.traces() == []

    run(scenario())
