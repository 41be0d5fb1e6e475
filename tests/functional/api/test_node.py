"""The host as the stock clients see it."""

import platform
import re
import subprocess
import sys

import pytest

from tests.functional.api.documents import PRELUDE
from tests.support.daemon import Daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


def test_virsh_about_the_host(daemon: Daemon) -> None:
    for words, pattern in (
        (("uri",), r"qemu:///system"),
        (("hostname",), re.escape(platform.node().partition(".")[0])),
        (("version", "--daemon"), r"Running against daemon: 9\.0\.0"),
        (("version",), r"Running hypervisor: QEMU \d+\.\d+"),
        (("nodeinfo",), r"CPU model: +x86_64"),
        (("nodecpumap", "--pretty"), r"CPUs online: +\d"),
        (("nodecpustats",), r"idle:"),
        (("nodecpustats", "--percent"), r"usage:"),
        (("nodememstats",), r"total *:"),
        (("freecell", "--all"), r"0: +\d+ KiB"),
        (("freepages", "--all"), r"4KiB: \d+"),
        (("node-memory-tune",), r"Shared memory:|shm_|^$"),
        (("maxvcpus",), r"^\d+$"),
        (("cpu-models", "x86_64"), r"^qemu64$"),
        (("capabilities",), r"<arch name='x86_64'>"),
        (("domcapabilities",), r"<domainCapabilities>"),
        (("domcapabilities", "--virttype", "qemu", "--machine", "q35"), r"<machine>pc-q35-"),
    ):
        assert re.search(pattern, daemon.virsh(*words), re.MULTILINE), words


def test_cpus_compared_and_combined(daemon: Daemon) -> None:
    document = daemon.root / "cpu.xml"
    document.write_text("<cpu><arch>x86_64</arch><model>qemu64</model></cpu>")
    assert "qemu64" in daemon.virsh("cpu-baseline", str(document))
    assert "<cpu mode='custom' match='exact'>" in daemon.virsh(
        "hypervisor-cpu-baseline", "--virttype", "qemu", str(document)
    )
    done = daemon.virsh_run("hypervisor-cpu-compare", "--virttype", "qemu", str(document))
    assert "CPU described in" in done.stdout


def test_python_about_the_host(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
same((conn.getType(), conn.getLibVersion(), conn.isAlive(), conn.isSecure(), conn.isEncrypted()),
     ("QEMU", 9000000, 1, 1, 0))
info = conn.getInfo()
same((info[0], info[2]), ("x86_64", os.cpu_count()))
cpus, online, count = conn.getCPUMap()
same((cpus, sum(online)), (count, count))
assert conn.getFreeMemory() > 1 << 20
same(len(conn.getCellsFreeMemory(0, 64)), info[4])
assert conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)["user"] > 0
same(fails(conn.getCPUStats, 4096)[::2], (8, "Invalid cpuNum in virHostCPUGetStatsLinux"))
same(sorted(conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)),
     ["buffers", "cached", "free", "total"])
same(fails(conn.getMemoryStats, 99)[0], 8)
same(fails(conn.getFreePages, [5], 0, 1), (9, 0, "operation failed: page size 5 is not available on node 0"))
same(conn.getMaxVcpus(None), 16)
same(fails(conn.getMaxVcpus, "zz")[0], 8)
same(conn.getSecurityModel()[0] in ("none", "selinux", "apparmor"), True)
same(fails(conn.getDomainCapabilities, None, "zz"), (8, 10, "invalid argument: unknown architecture: zz"))
same(fails(conn.getDomainCapabilities, "/nope")[0], 38)
same(fails(conn.getCPUModelNames, "zz")[0], 8)
""",
    )


def test_sockets_from_systemd(own_daemon: Daemon) -> None:
    own_daemon.stop()
    path = own_daemon.root / "activated-sock"
    starter = f"""
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind({str(path)!r})
sock.listen(5)
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "qvirt.daemon.main", "--root", {str(own_daemon.root)!r}])
"""

    own_daemon.process = subprocess.Popen([sys.executable, "-c", starter])
    own_daemon.socket = path

    wait_until(path.exists, "the socket is there")
    assert "QEMU" in own_daemon.virsh("version")
    assert not (own_daemon.root / "run/libvirt/libvirt-sock").exists()
    own_daemon.stop()
    assert path.exists(), "what systemd made is systemd's to remove"
