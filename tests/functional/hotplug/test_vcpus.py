"""vCPUs of a real guest come and go, by virsh."""

import json
import os
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import AGENT, Shell, booted, linux_xml
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

ONLINE = (
    "for i in 1 2 3 4 5 6 7 8 9 10; do for c in /sys/devices/system/cpu/cpu[1-9]*/online; do "
    '[ "$(cat $c 2>/dev/null)" = 0 ] && echo 1 >$c 2>/dev/null; done; sleep 0.2; done; nproc'
)


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    """A guest called ``grows`` with two of four vCPUs."""
    xml = linux_xml(linux, "grows", AGENT, vcpus="<vcpu current='2'>4</vcpu>")
    with booted(daemon, "grows", xml) as shell:
        yield shell


def counts(daemon: Daemon, *words: str) -> int:
    return int(daemon.virsh("vcpucount", "grows", *words))


def refusal(daemon: Daemon, *words: str) -> str:
    done = daemon.virsh_run(*words)
    assert done.returncode, done.stdout
    return done.stderr


def test_guest_sees_a_cpu_come(daemon: Daemon, guest: Shell) -> None:
    daemon.virsh("setvcpus", "grows", "3", "--live")
    assert counts(daemon, "--live", "--current") == 3
    assert guest.ask(ONLINE).split()[-1] == "3"
    xml = daemon.virsh("dumpxml", "grows")
    assert "<vcpu placement='static' current='3'>4</vcpu>" in xml
    assert "<vcpu id='2' enabled='yes' hotpluggable='yes' order='3'/>" in xml
    assert "<vcpu id='3' enabled='no' hotpluggable='yes'/>" in xml
    stats = daemon.virsh("domstats", "grows", "--vcpu")
    assert "vcpu.current=3" in stats
    assert "vcpu.2.time=" in stats
    assert daemon.virsh("vcpuinfo", "grows").count("VCPU:") == 3


def test_single_vcpus(daemon: Daemon, guest: Shell) -> None:
    assert "vcpu '2' is already in requested state" in refusal(
        daemon, "setvcpu", "grows", "2", "--enable", "--live"
    )
    assert "vcpu '1' can't be hotunplugged" in refusal(daemon, "setvcpu", "grows", "1", "--disable", "--live")
    assert "vcpu 7 is not present in live config" in refusal(
        daemon, "setvcpu", "grows", "7", "--enable", "--live"
    )
    daemon.virsh("setvcpu", "grows", "3", "--enable", "--live")
    assert "<vcpu id='3' enabled='yes' hotpluggable='yes' order='4'/>" in daemon.virsh("dumpxml", "grows")
    assert guest.ask(ONLINE).split()[-1] == "4"


def test_refused_counts(daemon: Daemon, guest: Shell) -> None:
    message = refusal(daemon, "setvcpus", "grows", "5", "--live")
    assert "requested vcpus is greater than max allowable vcpus for the live domain: 5 > 4" in message
    message = refusal(daemon, "setvcpus", "grows", "1", "--live")
    assert "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count" in message


def test_agent_turns_cpus_off(daemon: Daemon, guest: Shell) -> None:
    wait_until(lambda: daemon.virsh_run("guestvcpus", "grows").returncode == 0, "the agent answers")
    daemon.virsh("setvcpus", "grows", "1", "--guest")
    assert guest.ask("nproc").split()[-1] == "1"
    assert counts(daemon, "--guest") == 1
    daemon.virsh("guestvcpus", "grows", "1-3", "--enable")
    assert guest.ask("nproc").split()[-1] == "4"
    assert "greater than the count of enabled vcpus in the domain: 5 > 4" in refusal(
        daemon, "setvcpus", "grows", "5", "--guest"
    )


def test_pinning(daemon: Daemon, guest: Shell) -> None:
    daemon.virsh("vcpupin", "grows", "0", "0", "--live")
    daemon.virsh("emulatorpin", "grows", "0", "--live")
    (pid,) = daemon.qemu_pids()
    assert os.sched_getaffinity(pid) == {0}
    assert "<vcpupin vcpu='0' cpuset='0'/>" in daemon.virsh("dumpxml", "grows")
    assert "<emulatorpin cpuset='0'/>" in daemon.virsh("dumpxml", "grows")
    assert "vcpu 9 is out of range of live cpu count 4" in refusal(daemon, "vcpupin", "grows", "9", "0")


def test_memory(daemon: Daemon, guest: Shell) -> None:
    daemon.virsh("setmem", "grows", "150M", "--live")
    wait_until(
        lambda: "<currentMemory unit='KiB'>153600</currentMemory>" in daemon.virsh("dumpxml", "grows"),
        "the balloon has the size asked for",
    )
    assert "cannot set memory higher than max memory" in refusal(daemon, "setmem", "grows", "1G", "--live")
    assert "cannot resize the maximum memory on an active domain" in refusal(
        daemon, "setmaxmem", "grows", "1G", "--live"
    )
    daemon.virsh("dommemstat", "grows", "--period", "3", "--live")
    assert "<stats period='3'/>" in daemon.virsh("dumpxml", "grows")


def test_iothreads(daemon: Daemon, guest: Shell) -> None:
    daemon.virsh("iothreadadd", "grows", "3", "--live")
    assert "<iothread id='3'/>" in daemon.virsh("dumpxml", "grows")
    assert daemon.virsh("iothreadinfo", "grows").split()[0] == "3"
    daemon.virsh("iothreadset", "grows", "3", "--poll-max-ns", "1000", "--live")
    assert "iothread.3.poll-max-ns=1000" in daemon.virsh("domstats", "grows", "--iothread")
    daemon.virsh("iothreadpin", "grows", "3", "0", "--live")
    assert "<iothreadpin iothread='3' cpuset='0'/>" in daemon.virsh("dumpxml", "grows")
    assert "an IOThread is already using iothread_id '3'" in refusal(daemon, "iothreadadd", "grows", "3")
    daemon.virsh("iothreaddel", "grows", "3", "--live")
    assert "iothread" not in daemon.virsh("dumpxml", "grows")
    assert "cannot find IOThread '3' in iothreadids list" in refusal(daemon, "iothreaddel", "grows", "3")


def test_guest_sees_a_cpu_go(daemon: Daemon, guest: Shell) -> None:
    daemon.virsh("setvcpus", "grows", "3", "--live")
    assert counts(daemon, "--live", "--current") == 3
    assert guest.ask("nproc").split()[-1] == "3"
    assert "<vcpu id='3' enabled='no' hotpluggable='yes'/>" in daemon.virsh("dumpxml", "grows")


def test_kept_over_a_kill_of_the_daemon(daemon: Daemon, guest: Shell) -> None:
    before = daemon.virsh("dumpxml", "grows")
    daemon.kill()
    daemon.start()
    assert "<vcpu id='2' enabled='yes' hotpluggable='yes' order='3'/>" in before
    assert daemon.virsh("dumpxml", "grows") == before
    # without KVM a fifth one in one run would be QEMU's end, and the guest's
    for words in (("setvcpus", "grows", "4", "--live"), ("setvcpu", "grows", "3", "--enable", "--live")):
        assert "1 of its vCPUs were unplugged since it was started" in refusal(daemon, *words)
    assert daemon.virsh("domstate", "grows").strip() == "running"


PLAIN = """<domain type='qemu'><name>plain</name><memory unit='MiB'>64</memory>
  <currentMemory unit='MiB'>64</currentMemory><vcpu current='1'>2</vcpu>{vcpus}
  <os><type arch='x86_64' machine='pc'>hvm</type></os><devices/></domain>"""


def test_definition(own_daemon: Daemon) -> None:
    daemon = own_daemon
    path = daemon.root / "plain.xml"
    path.write_text(PLAIN.format(vcpus=""))
    daemon.virsh("define", str(path))
    daemon.virsh("setvcpus", "plain", "6", "--config", "--maximum")
    daemon.virsh("setvcpus", "plain", "3", "--config")
    assert "<vcpu placement='static' current='3'>6</vcpu>" in daemon.virsh("dumpxml", "plain")
    assert "greater than max allowable vcpus for the persistent domain: 7 > 6" in refusal(
        daemon, "setvcpus", "plain", "7", "--config"
    )
    daemon.virsh("setvcpus", "plain", "4", "--config", "--hotpluggable")
    daemon.virsh("setvcpu", "plain", "5", "--enable", "--config")
    xml = daemon.virsh("dumpxml", "plain")
    assert "<vcpu id='2' enabled='yes' hotpluggable='no'/>" in xml
    assert "<vcpu id='3' enabled='yes' hotpluggable='yes'/>" in xml
    assert "<vcpu id='5' enabled='yes' hotpluggable='yes'/>" in xml
    assert "vCPU '0' must be enabled" in refusal(daemon, "setvcpu", "plain", "0", "--disable", "--config")
    daemon.virsh("setmaxmem", "plain", "80M", "--config")
    daemon.virsh("setmem", "plain", "70M", "--config")
    daemon.virsh("iothreadadd", "plain", "2", "--config")
    daemon.virsh("iothreadpin", "plain", "2", "0", "--config")
    daemon.virsh("vcpupin", "plain", "5", "0", "--config")
    daemon.virsh("emulatorpin", "plain", "0", "--config")
    daemon.virsh("start", "plain")
    xml = daemon.virsh("dumpxml", "plain")
    assert "<memory unit='KiB'>81920</memory>" in xml
    assert "<iothread id='2'/>" in xml
    assert "<vcpu id='5' enabled='yes' hotpluggable='yes' order='5'/>" in xml
    assert "<vcpu id='4' enabled='no' hotpluggable='yes'/>" in xml
    (pid,) = daemon.qemu_pids()
    assert os.sched_getaffinity(pid) == {0}
    daemon.virsh("setvcpus", "plain", "6", "--live", "--config")
    assert "<vcpu placement='static'>6</vcpu>" in daemon.virsh("dumpxml", "plain")
    assert "<vcpu placement='static'>6</vcpu>" in daemon.virsh("dumpxml", "plain", "--inactive")


def test_killed_before_it_was_written_down(own_daemon: Daemon) -> None:
    """What QEMU was told and the status file does not have is found again."""
    daemon = own_daemon
    path = daemon.root / "plain.xml"
    path.write_text(PLAIN.format(vcpus=""))
    daemon.virsh("create", str(path))
    done = daemon.virsh("qemu-monitor-command", "plain", '{"execute":"query-hotpluggable-cpus"}')
    (slot,) = [item for item in json.loads(done)["return"] if "qom-path" not in item]
    plug = {"driver": slot["type"], "id": "vcpu1", **slot["props"]}
    for command, arguments in (
        ("device_add", plug),
        ("object-add", {"qom-type": "iothread", "id": "iothread7"}),
    ):
        text = json.dumps({"execute": command, "arguments": arguments})
        assert "error" not in daemon.virsh("qemu-monitor-command", "plain", text)
    assert "iothread" not in daemon.virsh("dumpxml", "plain")
    daemon.kill()
    daemon.start()
    xml = daemon.virsh("dumpxml", "plain")
    assert "<vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>" in xml
    assert "<iothread id='7'/>" in xml
    daemon.virsh("iothreaddel", "plain", "7", "--live")


def test_qemu_refuses(own_daemon: Daemon) -> None:
    """A slot that somebody else has taken: the error is QEMU's, and what was plugged before it is told."""
    daemon = own_daemon
    path = daemon.root / "plain.xml"
    path.write_text(PLAIN.format(vcpus="").replace("<vcpu current='1'>2<", "<vcpu current='1'>3<"))
    daemon.virsh("create", str(path))
    done = daemon.virsh("qemu-monitor-command", "plain", '{"execute":"query-hotpluggable-cpus"}')
    slot = next(item for item in json.loads(done)["return"] if item["props"]["socket-id"] == 2)
    plug = {"execute": "device_add", "arguments": {"driver": slot["type"], "id": "mine", **slot["props"]}}
    daemon.virsh("qemu-monitor-command", "plain", json.dumps(plug))
    message = refusal(daemon, "setvcpus", "plain", "3", "--live")
    assert "unable to execute QEMU command 'device_add'" in message
    xml = daemon.virsh("dumpxml", "plain")
    assert "<vcpu id='1' enabled='yes' hotpluggable='yes'" in xml
    assert "<vcpu id='2' enabled='yes' hotpluggable='yes'" in xml


def test_booted_and_plugged_are_the_same(own_daemon: Daemon) -> None:
    """A vCPU there at boot and one plugged later have the same place and properties in QEMU's tree."""
    daemon = own_daemon
    vcpus = "<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/>{}</vcpus>"
    booted_one = vcpus.format("<vcpu id='1' enabled='yes' hotpluggable='yes'/>")
    trees = []
    for name, inner in (("boots", booted_one), ("plugs", vcpus.format(""))):
        path = daemon.root / f"{name}.xml"
        path.write_text(PLAIN.format(vcpus=inner).replace("<name>plain<", f"<name>{name}<"))
        daemon.virsh("create", str(path))
        if name == "plugs":
            daemon.virsh("setvcpus", name, "2", "--live")
        tree = [daemon.virsh("qemu-monitor-command", name, "--hmp", "info hotpluggable-cpus")]
        listed = {"execute": "qom-list", "arguments": {"path": "/machine/peripheral/vcpu1"}}
        found = json.loads(daemon.virsh("qemu-monitor-command", name, json.dumps(listed)))["return"]
        tree += sorted(f"{item['name']} {item['type']}" for item in found)
        tree.append(daemon.virsh("dumpxml", name, "--xpath", "//domain/vcpu | //domain/vcpus"))
        trees.append(tree)
    assert trees[0] == trees[1]
    assert len(trees[0]) > 20
