"""What the guest agent of a real guest says and does, by virsh and python3-libvirt."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.functional.api.documents import PRELUDE
from tests.functional.guests.machines import AGENT, Shell, booted, linux_xml
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

MAC = "52:54:00:aa:bb:cc"


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    """A guest called ``talks`` with its agent, an interface and a mounted file system."""
    image = daemon.root / "data.img"
    subprocess.run(["truncate", "-s", "8M", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=60)
    image.chmod(0o666)
    devices = f"""{AGENT}
    <disk type='file'><driver name='qemu' type='raw' discard='unmap'/><source file='{image}'/>
      <target dev='vda' bus='virtio'/><serial>disk-one</serial></disk>
    <interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>"""
    with booted(daemon, "talks", linux_xml(linux, "talks", devices, vcpus="<vcpu>2</vcpu>")) as shell:
        assert shell.ask("mkdir /mnt; mount /dev/vda /mnt && echo mounted").endswith("mounted")
        shell.ask("until ip addr show dev eth0 | grep -q 10.0.2; do sleep 0.1; done")
        yield shell


def test_addresses(daemon: Daemon, guest: Shell) -> None:
    listed = [line.split() for line in daemon.virsh("domifaddr", "talks", "--source", "agent").splitlines()]
    assert ["eth0", MAC, "ipv4", "10.0.2.15/24"] in listed
    assert ["lo", "00:00:00:00:00:00", "ipv4", "127.0.0.1/8"] in listed
    full = daemon.virsh("domifaddr", "talks", "--source", "agent", "--interface", "eth0", "--full")
    rows = [line.split() for line in full.splitlines() if line]
    assert ["eth0", MAC, "ipv4", "10.0.2.15/24"] in rows
    assert {tuple(row[:2]) for row in rows} == {("eth0", MAC)}
    assert daemon.virsh("domifaddr", "talks", "--source", "arp").strip() == ""
    assert daemon.virsh("domifaddr", "talks").strip() == ""


def test_host_name(daemon: Daemon, guest: Shell) -> None:
    assert daemon.virsh("domhostname", "talks").strip() == "guest"
    assert daemon.virsh("domhostname", "talks", "--source", "agent").strip() == "guest"
    guest.ask("hostname other")
    assert daemon.virsh("domhostname", "talks", "--source", "agent").strip() == "other"
    done = daemon.virsh_run("domhostname", "talks", "--source", "lease")
    assert "no hostname found for domain talks" in done.stderr


def test_ssh_keys(daemon: Daemon, guest: Shell) -> None:
    guest.ask("mkdir -p /root; echo root:x:0:0::/root:/bin/sh >/etc/passwd")
    keys = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{name} {name}" for name in ("one", "two", "three")]

    def given(*which: int) -> str:
        path = daemon.root / "keys.pub"
        path.write_text("".join(f"{keys[number]}\n" for number in which))
        return str(path)

    def there() -> set[str]:
        listed = daemon.virsh("get-user-sshkeys", "talks", "root")
        return {name for name, key in zip(("one", "two", "three"), keys, strict=True) if key in listed}

    daemon.virsh("set-user-sshkeys", "talks", "root", "--file", given(0, 1))
    assert there() == {"one", "two"}
    daemon.virsh("set-user-sshkeys", "talks", "root", "--file", given(2))
    assert keys[2] in guest.ask("cat /root/.ssh/authorized_keys")
    daemon.virsh("set-user-sshkeys", "talks", "root", "--remove", "--file", given(0))
    assert there() == {"two", "three"}
    daemon.virsh("set-user-sshkeys", "talks", "root", "--reset", "--file", given(0))
    assert there() == {"one"}
    done = daemon.virsh_run("get-user-sshkeys", "talks", "nobody-of-that-name")
    assert done.returncode
    assert "guest-ssh-get-authorized-keys" in done.stderr


def test_file_systems(daemon: Daemon, guest: Shell) -> None:
    (line,) = daemon.virsh("domfsinfo", "talks").splitlines()[:1]
    assert line.split() == ["/mnt", "vda", "ext4", "vda"]
    daemon.virsh("domfsthaw", "talks")


def test_freeze_and_thaw(daemon: Daemon, guest: Shell) -> None:
    daemon.python(
        PRELUDE.replace("@atexit.register", "")
        + """
d = conn.lookupByName("talks")
same(d.fsFreeze(), 1)
same(d.fsThaw(), 1)
d.fSTrim(None, 0)
(info,) = d.fsInfo()
same(info[:3], ("/mnt", "vda", "ext4"))
same(info[3], ["vda"])
same(d.hostname(libvirt.VIR_DOMAIN_GET_HOSTNAME_AGENT) != "", True)
addresses = d.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
same(addresses["eth0"]["addrs"][0], {"addr": "10.0.2.15", "prefix": 24, "type": 0})
info = d.guestInfo()
same((info["os.machine"], info["fs.count"], info["fs.0.fstype"]), ("x86_64", 1, "ext4"))
same(info["fs.0.disk.0.alias"], "vda")
assert info["fs.0.total-bytes"] > info["fs.0.used-bytes"] > 0
same([info[f"if.{i}.name"] for i in range(info["if.count"])], ["lo", "eth0"])
same(set(d.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_TIMEZONE)), {"timezone.name", "timezone.offset"})
disks = d.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_DISKS)
same((disks["disk.count"], disks["disk.0.name"], disks["disk.0.alias"]), (1, "/dev/vda", "vda"))
same(d.guestVcpus(), {"vcpus": "0-1", "online": "0-1", "offlinable": "1"})
same(d.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_GUEST), 2)
"""
    )
    guest.ask("echo 0 >/sys/devices/system/cpu/cpu1/online")
    assert daemon.virsh("vcpucount", "talks", "--guest").strip() == "1"
    assert daemon.virsh("guestvcpus", "talks").split() == (
        ["vcpus", ":", "0-1", "online", ":", "0", "offlinable", ":", "1"]
    )
    guest.ask("echo 1 >/sys/devices/system/cpu/cpu1/online")


def test_time(daemon: Daemon, guest: Shell) -> None:
    daemon.virsh("domtime", "talks", "--time", "1000000000")
    assert 0 <= int(guest.ask("date +%s")) - 1_000_000_000 < 60
    seconds = int(daemon.virsh("domtime", "talks").split()[1])
    assert 0 <= seconds - 1_000_000_000 < 60
    assert daemon.virsh("domtime", "talks", "--pretty").startswith("Time: 2001-09-09 01:4")
    daemon.virsh("domtime", "talks", "--now")
    host = int(daemon.python("import time; print(int(time.time()))"))
    assert abs(int(daemon.virsh("domtime", "talks").split()[1]) - host) < 60
    daemon.virsh("domtime", "talks", "--sync")


def test_commands_to_the_agent(daemon: Daemon, guest: Shell) -> None:
    assert json.loads(daemon.virsh("qemu-agent-command", "talks", '{"execute":"guest-ping"}')) == {
        "return": {}
    }
    asked = '{"execute":"guest-exec","arguments":{"path":"/bin/touch","arg":["/made"]}}'
    pid = json.loads(daemon.virsh("qemu-agent-command", "talks", asked, "--timeout", "10"))["return"]["pid"]
    assert pid > 1
    guest.ask("until [ -e /made ]; do sleep 0.1; done")
    refused = daemon.virsh_run("qemu-agent-command", "talks", '{"execute":"guest-nonsense"}')
    assert "unable to execute QEMU agent command 'guest-nonsense'" in refused.stderr
    assert "tainted: custom guest agent control commands issued" in daemon.virsh("dominfo", "talks")
    absent = daemon.virsh_run("set-user-password", "talks", "root", "secret")
    assert "unable to execute QEMU agent command 'guest-set-user-password'" in absent.stderr


def test_an_agent_that_ends(daemon: Daemon, guest: Shell) -> None:
    guest.ask("kill $(cat /run/qemu-ga.pid); until ! pidof qemu-ga ld.so; do sleep 0.1; done")
    done = daemon.virsh_run("domhostname", "talks", "--source", "agent")
    assert "Guest agent is not responding: QEMU guest agent is not connected" in done.stderr
    assert "state='disconnected'" in daemon.virsh("dumpxml", "talks")
    guest.ask(
        "/agent/ld.so --library-path /agent /agent/qemu-ga -d -m virtio-serial"
        " -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qemu-ga.pid"
    )
    wait_until(lambda: "state='connected'" in daemon.virsh("dumpxml", "talks"), "the agent is back")
    assert daemon.virsh("domhostname", "talks", "--source", "agent").strip() != ""
