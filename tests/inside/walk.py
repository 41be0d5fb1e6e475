"""Daemon and QEMU are killed at steps of a guest's life under a security model, in a machine that has it.

Run inside by `test_walk_apparmor` and `test_selinux`.

What there is in each state is compared as a whole; here is said beside, of the states themselves, that they
are those of a guest that is confined, and of one that has left nothing. A program of its own: what it takes
long to load is loaded once, and forked.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator

from qvirt.host.selinux import write_label
from tests.functional.runtime.instance import Instance, instance
from tests.support.walk import Walk, learn, node_in_dev
from tests.support.world import World

#: each lane takes every so many-th step, and each lane others; 1: every step
STRIDE = int(os.environ["QVIRT_WALK"])

#: the machine's security model
MODEL = os.environ["TESTBED"]

#: compiles in no time; what is walked here are files and profiles that come and go
TEMPLATE = """#include <tunables/global>
profile LIBVIRT_TEMPLATE flags=(attach_disconnected) {
  capability,
  network,
  unix,
  signal,
  /{usr,bin,lib,lib64}/** rmix,
  /{etc,sys,proc}/** r,
  /proc/*/task/*/comm rw,
  /dev/{null,zero,full,random,urandom,ptmx} rw,
}
"""

#: what only a guest that runs has: its marks
LENT = re.compile(r"(libvirt|qvirt)\.security")


@contextlib.contextmanager
def tree() -> Iterator[Instance]:
    with instance() as it, node_in_dev(it):
        it.paths.lib.mkdir(parents=True)
        if MODEL == "selinux":
            write_label(str(it.paths.lib), "system_u:object_r:svirt_runtime_t:s0")
            it.paths.log.mkdir(parents=True)
            write_label(str(it.paths.log), "system_u:object_r:virt_log_t:s0")
        else:
            folder = it.paths.etc.parent / "apparmor.d/libvirt"
            folder.mkdir(parents=True)
            (folder / "TEMPLATE.qemu").write_text(TEMPLATE)
        yield it


def processes(world: World, program: str) -> str:
    """Return what all processes of a program are like."""
    (found,) = {text for name, text in world.items() if name.endswith(f"/{program}")}
    return found


def check(worlds: dict[str, World]) -> None:
    """The model is at work where a guest runs, and nowhere else."""
    off = {name: text for name, text in worlds["off"].items() if not name.endswith("/var/lib/libvirt/qemu")}
    assert {name: text for name, text in off.items() if LENT.search(text)} == {}
    assert [name for name in off if name.startswith(("group ", "process ", "profile "))] == []
    assert [name for name in off if name.endswith(".files")] == []
    qemu = processes(worlds["running"], "qemu-system-x86_64")
    if MODEL == "selinux":
        assert ":svirt_t:s0:PAIR " in qemu
        assert ":qvirt_virtiofsd_t:s0:PAIR " in processes(worlds["running"], "virtiofsd")
    else:
        assert "libvirt-UUID (enforce)" in qemu
    for name, state in (("disk.img", "running"), ("plugged.img", "disk")):
        image = worlds[state][f"TREE/{name}"]
        assert "trusted.libvirt.security.dac" in image
        if MODEL == "selinux":
            assert ":svirt_image_t:s0:PAIR" in image
            assert "trusted.libvirt.security.selinux" in image
        else:
            rules = worlds[state]["rules TREE/etc/apparmor.d/libvirt/libvirt-UUID.files"]
            assert f'"TREE/{name}" rwk,' in rules
    assert "own /dev/walk/TREE/node" in worlds["node"]


def walk(victim: str, learnt: Walk, first: int) -> bool:
    learnt.steps = learnt.steps[first::STRIDE]
    began = time.monotonic()
    try:
        with tree() as it:
            Walk(it, learnt).go(victim)
    except BaseException:
        traceback.print_exc()
        return False
    print(f"walked: {victim}, {time.monotonic() - began:.0f} s", flush=True)
    return True


def main() -> int:
    began = time.monotonic()
    with tree() as it:
        learnt = Walk(it)
        learn(learnt)
    check(learnt.worlds)
    print(f"{len(learnt.steps)} steps are known after {time.monotonic() - began:.0f} s", flush=True)
    children = {}
    # where one process is a second, both at once are left to `test_walk`
    for first, victim in ((0, "daemon"), (STRIDE // 2, "qemu")):
        pid = os.fork()
        if not pid:
            os._exit(not walk(victim, learnt, first))
        children[pid] = victim
    failed = 0
    while children:
        pid, status = os.wait()
        failed += bool(children.pop(pid, "") and status)
    return failed


if __name__ == "__main__":
    sys.exit(main())
