"""What `packaging/selinux` adds, under an enforcing SELinux: helpers, shared memory, the kernel's own words.

Run inside the testbed by `test_selinux`, when the module is loaded.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from qvirt.errors import QvirtError
from qvirt.host.selinux import Kernel, read_label, write_label
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.security.contexts import parse
from tests.functional.runtime.helping import UUID, helped, shared_folder
from tests.functional.runtime.instance import Instance, document, run, until
from tests.inside import selinux
from tests.inside.selinux import CONTENT, IMAGES, context, labels, lost
from tests.support import inside, proof

TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
SWTPM = Path("/usr/bin/swtpm")

#: where the policy lets QEMU write its last words
LOGS = "system_u:object_r:virt_log_t:s0"

needs_swtpm = pytest.mark.skipif(not SWTPM.exists(), reason="there is no swtpm")


@contextlib.contextmanager
def tree() -> Iterator[Instance]:
    with selinux.tree() as it:
        it.paths.log.mkdir(parents=True)
        write_label(str(it.paths.log), LOGS)
        yield it


async def _started(hv: Hypervisor, *devices: str) -> tuple[dict[str, str], str]:
    """Start a guest; returns the contexts of its helpers by name, and its own."""
    domain = await hv.create(helped(*devices), paused=True)
    running = domain.need_running()
    await running.execute("query-status", {})
    return {name: context(helper.process.pid) for name, helper in running.helpers.items()}, labels(domain)[0]


def test_virtiofsd_is_in_a_domain_of_its_own_with_the_guests_categories() -> None:
    async def scenario() -> None:
        with tree() as it:
            async with it.serve() as hv:
                found, own = await _started(hv, shared_folder(it.root))
                ((name, label),) = found.items()
                assert name == "fs0-virtiofsd"
                assert parse(label).type == "qvirt_virtiofsd_t"
                assert parse(label).range == parse(own).range
                assert parse(own).type == "svirt_t"
                await hv.domains.by_uuid(UUID).destroy()
            assert lost(it.root) == []

    run(scenario())


@needs_swtpm
def test_swtpm_is_in_the_guests_domain_and_its_state_is_the_guests_while_it_runs() -> None:
    async def scenario() -> None:
        with tree() as it:
            state = it.paths.swtpm_storage / UUID / "tpm2"
            async with it.serve() as hv:
                domain = await hv.define(helped(TPM))  # it keeps its state
                for end in ("destroy", "crash"):
                    found, own = await _started(hv, TPM)
                    assert found == {"swtpm": own}
                    assert await domain.need_running().execute("query-tpm", {}) != []
                    image = labels(domain)[1]
                    assert {read_label(str(path)) for path in (state, *state.iterdir())} == {image}
                    if end == "destroy":
                        await domain.destroy()
                    else:
                        os.kill(domain.need_running().pid, 9)
                        await until(lambda: not domain.active, "the guest's end")
                    assert {read_label(str(path)) for path in (state, *state.iterdir())} == {IMAGES}
                    assert lost(it.root) == []
                await domain.undefine()

    run(scenario())


@pytest.mark.parametrize(
    ("target", "kind", "permission", "is_allowed"),
    [
        ("virt_image_t:s0", "file", "write", True),
        ("user_home_t:s0", "file", "create", True),
        ("svirt_image_t:s0:c1,c2", "file", "write", True),
        ("svirt_image_t:s0:c3,c4", "file", "read", False),
        ("svirt_tmpfs_t:s0:c1,c2", "file", "map", True),
        ("svirt_tmpfs_t:s0:c3,c4", "file", "write", False),
        ("shadow_t:s0", "file", "read", False),
        ("policy_config_t:s0", "file", "write", False),
        ("fixed_disk_device_t:s0", "blk_file", "open", False),
        ("bin_t:s0", "file", "execute", False),
    ],
)
def test_what_virtiofsd_gets_at(target: str, kind: str, permission: str, is_allowed: bool) -> None:
    """The kernel says so: what a guest can make virtiofsd do lies in one folder."""
    source = "system_u:system_r:qvirt_virtiofsd_t:s0:c1,c2"
    denied = Kernel().denied(source, f"system_u:object_r:{target}", kind, (permission,))
    assert denied == ([] if is_allowed else [permission])


#: where `test_selinux` has somebody serve who may trace; the policy lets no daemon
ASKED = Path("/var/lib/libvirt/images/asked")


async def asked(pid: int, attempts: dict[str, inside.Attempt], *, enforcing: bool) -> dict[str, str]:
    """Have attempts made in a guest's QEMU, with the policy enforced meanwhile or not."""
    answer = ASKED / "answer"
    (ASKED / "request.new").write_bytes(inside.request(pid, attempts, enforcing=enforcing))
    (ASKED / "request.new").rename(ASKED / "request")
    await until(answer.exists, "the answer", inside.DEADLINE)
    found = json.loads(answer.read_text())
    answer.unlink()
    return dict(found)


@pytest.mark.parametrize("enforcing", [True, False])
def test_its_label_alone_stops_what_the_table_says(enforcing: bool) -> None:
    """And nothing where the kernel only logs: whatever is refused is refused by the label."""

    async def scenario() -> tuple[dict[str, str], dict[str, str]]:
        with tree() as it:
            trier = partial(asked, enforcing=enforcing)
            # as where firmware comes from: nobody labels it for a guest
            write_label(str(it.image("code.fd", 1 << 20)), CONTENT)
            gain, conf = Path("/usr/local/bin/gain"), proof.options("SELinux")
            proving = proof.proving(it, conf, "/dev/vda", gain=gain, trier=trier)
            async with proving as two:
                return await two.all(apart=False)

    found, back = run(scenario())
    layers = ("SELinux",) if enforcing else ()
    for rows, said in ((proof.ROWS, found), (proof.ABOUT_OTHERS, back)):
        here = [name for name in rows if "TPM" not in name or SWTPM.exists()]
        assert proof.unlike(said, here, *layers) == {}


def test_what_the_kernel_denied_is_in_the_error() -> None:
    async def scenario() -> None:
        with tree() as it:
            text = document("denied", extra=_ARGUMENT).replace("<domain ", f"<domain xmlns:qemu='{_QEMU}' ")
            async with it.serve() as hv:
                with pytest.raises(QvirtError) as caught:
                    await hv.create(text, paused=True)
            assert "selinux refused file" in str(caught.value)
            assert "/srv/foreign" in str(caught.value)
            assert lost(it.root) == []

    run(scenario())


_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_ARGUMENT = (
    "<qemu:commandline><qemu:arg value='-blockdev'/>"
    "<qemu:arg value='driver=file,node-name=foreign,filename=/srv/foreign'/></qemu:commandline>"
)
