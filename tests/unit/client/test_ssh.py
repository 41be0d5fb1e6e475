"""The command lines of connections by ssh."""

import shlex
import subprocess
from pathlib import Path

import pytest

from qvirt.client import uri
from qvirt.client.config import ClientConfig
from qvirt.client.ssh import remote_script, ssh_argv
from qvirt.errors import InvalidArg


def argv(text: str, *, readonly: bool = False, config: ClientConfig | None = None) -> list[str]:
    return ssh_argv(uri.parse(text), readonly=readonly, config=config or ClientConfig())


def test_what_ssh_is_told() -> None:
    made = argv("qemu+ssh://me@host:2222/system?keyfile=/k&no_tty=1&no_verify=1&command=/opt/ssh")
    assert made[:6] == ["/opt/ssh", "-p", "2222", "-l", "me", "-i"]
    assert made[6:10] == ["/k", "-T", "-e", "none"]
    assert made[10:14] == ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    assert made[14:16] == ["--", "host"]
    assert len(made) == 17
    assert argv("qemu+ssh:///system")[4:6] == ["--", "localhost"]


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("qemu+ssh://h/system?proxy=native", "virt-ssh-helper qemu:///system"),
        ("qemu+ssh://h/session", "virt-ssh-helper qemu:///session"),
        ("qemu+ssh://h/system?proxy=native&mode=direct", "virt-ssh-helper 'qemu:///system?mode=direct'"),
        ("qemu+ssh://h/system?proxy=native&socket=/s", "virt-ssh-helper 'qemu:///system?socket=/s'"),
        ("qemu+ssh://h/system?proxy=netcat", "nc $q -U /var/run/libvirt/libvirt-sock"),
        ("qemu+ssh://h/system?netcat=/opt/my nc", "'/opt/my nc' $q -U /var/run/libvirt/libvirt-sock"),
        ("qemu+ssh://h/system?socket=/a b", "nc $q -U '/a b'"),
    ],
)
def test_what_the_other_side_runs(text: str, command: str) -> None:
    script = remote_script(uri.parse(text), readonly=False, config=ClientConfig())
    assert script.endswith(f"exec {command}")


def test_reading_only_and_the_configured_proxy() -> None:
    target = uri.parse("qemu+ssh://h/system")
    script = remote_script(target, readonly=True, config=ClientConfig(remote_proxy="netcat"))
    assert script.endswith("-U /var/run/libvirt/libvirt-sock-ro")
    script = remote_script(target, readonly=True, config=ClientConfig(remote_proxy="native"))
    assert script == "exec virt-ssh-helper -r qemu:///system"
    with pytest.raises(InvalidArg, match="proxy value 'odd'"):
        remote_script(target, readonly=True, config=ClientConfig(remote_proxy="odd"))


def test_no_word_of_a_uri_is_a_command(tmp_path: Path) -> None:
    """Whatever stands in a URI, the shells on the way run nothing of it."""
    evil = f"/s'\"; touch {tmp_path}/made; $(touch {tmp_path}/made) `touch {tmp_path}/made` &"
    from urllib.parse import quote

    for parameter in ("socket", "netcat"):
        made = argv(f"qemu+ssh://h/system?proxy=auto&{parameter}={quote(evil)}")
        # what sshd does with it
        subprocess.run(["/bin/sh", "-c", made[-1]], capture_output=True, check=False, timeout=60)
        assert not (tmp_path / "made").exists()
        assert shlex.split(made[-1])[:2] == ["sh", "-c"]
    assert "--" in argv("qemu+ssh://-oProxyCommand=x/system")
