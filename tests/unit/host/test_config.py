"""qemu.conf: libvirt's grammar and what becomes of the values."""

import os
import re
from pathlib import Path

import pytest

from qvirt.errors import ConfigSyntax
from qvirt.host.conf import Conf, parse_conf
from qvirt.host.config import OPTIONS, QemuUser, make_config, read_config, resolve_user


def test_grammar() -> None:
    text = """# comment
user = "libvirt-qemu"   # behind
group='kvm'; max_files = +7 ; # twice
dynamic_ownership = 0
nvram = [
  "/a:/b", # one
  '/c:/d',
]
empty = []
long = \"\"\"two
lines\"\"\"
"""
    assert parse_conf(text, "f") == {
        "user": "libvirt-qemu",
        "group": "kvm",
        "max_files": 7,
        "dynamic_ownership": 0,
        "nvram": ["/a:/b", "/c:/d"],
        "empty": [],
        "long": "two\nlines",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "f:1: expecting an assignment"),
        ("\n\na = ", "f:3: expecting a value"),
        ("a = [ 'x' 'y' ]", "f:1: expecting ',' or ']'"),
        ("= 1", "f:1: expecting a name"),
        ("a = 'open", "f:1: expecting a value"),
        ("a = 1 b = 2", "f:1: expecting the end of the line"),
        ("a = 0x10", "f:1: expecting the end of the line"),
        ("a = 'b\"c'\na = 'b'c'", "f:2: expecting the end of the line"),
        ("a-b = 1", "f:1: expecting an assignment"),
        ("a = [ 1 ]", "f:1: expecting a string or ']'"),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(ConfigSyntax) as caught:
        parse_conf(text, "f")
    assert caught.value.detail == message


def conf(text: str) -> Conf:
    return parse_conf(text, "f")


def test_values_reach_the_settings(tmp_path: Path) -> None:
    config = make_config(
        conf(
            f"""vnc_listen = "192.0.2.1"
spice_tls = 1
max_core = "unlimited"
remote_display_port_min = 6000
memory_backing_dir = "/big"
default_tls_x509_verify = 0
default_tls_x509_cert_dir = "{tmp_path}"
spice_tls_x509_cert_dir = "{tmp_path}"
cgroup_controllers = [ "cpu" ]
cgroup_device_acl = [ "/dev/null" ]
"""
        ),
        privileged=False,
    )
    assert config.settings.vnc_listen == "192.0.2.1"
    assert config.settings.spice_tls is True
    assert config.settings.memory_backing_dir == "/big/libvirt/qemu"
    assert config.settings.chardev_tls_x509_verify is False
    assert config.settings.spice_tls_x509_cert_dir == str(tmp_path)
    assert config.max_core is None
    assert config.display_ports == (6000, 65535)
    assert config.controllers == ("cpu",)
    assert config.device_acl == ("/dev/null",)
    assert config.user is None
    assert [report.partition("' has no effect: ")[0] for report in config.reports] == [
        "f:9: option 'cgroup_controllers",
        "f:10: option 'cgroup_device_acl",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nremote_display_port_min = 10", "f:2: remote_display_port_min 10 and _max 65535 must be ordered"),
        ("remote_websocket_port_max = 1", "f:1: remote_websocket_port_min 5700 and _max 1 must be ordered"),
        ('dynamic_ownership = "yes"', r"f:1: expected a bool \(0\|1\) for 'dynamic_ownership' parameter"),
        ("max_files = -1", r"f:1: expected an unsigned integer \(at most 4294967295\) for 'max_files'"),
        ("max_files = 99999999999", "f:1: expected an unsigned integer"),
        ('user = ""', "f:1: Failed to parse user ''"),
        ('user = "+4294967295"', r"f:1: Failed to parse user '\+4294967295'"),
        ('group = "99999999999"', "f:1: Failed to parse group '99999999999'"),
        ('user = "٣"', "f:1: Failed to parse user"),
        ('default_tls_x509_cert_dir = "/nowhere"', "default_tls_x509_cert_dir directory '/nowhere' does not"),
        ("vnc_listen = 1", "f:1: expected a string for 'vnc_listen' parameter"),
        ('cgroup_device_acl = "/dev/null"', "f:1: expected a string list for 'cgroup_device_acl' parameter"),
        ('cgroup_controllers = [ "cpus" ]', "f:1: Unknown cgroup controller 'cpus'"),
        ('security_driver = [ "selinux", "dac" ]', "f:1: invalid security_driver 'dac'"),
        ('deprecation_behavior = "ignore"', "f:1: unknown deprecation_behavior 'ignore'"),
        ('vnc_tls_x509_cert_dir = "/nowhere"', "vnc_tls_x509_cert_dir directory '/nowhere' does not exist"),
        ('\n\nuser = "nobody-of-that-name"', "f:3: Failed to parse user 'nobody-of-that-name'"),
        ('user = "root"\ngroup = "none-of-that-name"', "f:2: Failed to parse group 'none-of-that-name'"),
    ],
)
def test_impossible_values_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(ConfigSyntax, match=message):
        make_config(conf(text), privileged=True)


def test_a_setting_that_is_there_twice_counts_the_first_time_as_with_libvirt() -> None:
    config = make_config(conf('user = "+0"\ngroup = "+0"\nuser = "+4711"\n'), privileged=True)
    assert config.user is not None
    assert config.user.uid == 0
    assert config.reports == ("f:3: 'user' is ignored: it is set in line 1 already",)


@pytest.mark.parametrize(("value", "on"), [("-1", True), ("0", False), ("1", True), ("2", True)])
def test_the_sandbox_is_a_number(value: str, on: bool) -> None:
    config = make_config(conf(f"seccomp_sandbox = {value}"), privileged=False)
    assert config.settings.seccomp_sandbox is on


def test_what_is_not_used_is_reported_with_its_line() -> None:
    config = make_config(
        conf('# c\nmac_filter = 1\nmax_fils = 3\nsecurity_driver = "apparmor"\n'), privileged=False
    )
    assert config.reports == (
        "f:2: option 'mac_filter' is not used yet",
        "f:3: unknown option 'max_fils' is ignored; did you mean 'max_files'?",
    )
    assert config.security_drivers == ("apparmor",)


def test_every_option_of_libvirts_file_is_known(tmp_path: Path) -> None:
    """The file as installed with every option uncommented."""
    installed = Path("/etc/libvirt/qemu.conf")
    if not installed.exists():
        pytest.skip("libvirt's qemu.conf is not installed")
    names = re.findall(r"^#([a-z_0-9]+) ?=", installed.read_text(), re.M)
    assert len(names) > 70
    assert not {name for name in names if name not in OPTIONS}


def test_users_by_name_and_number() -> None:
    assert resolve_user("root", "root").uid == 0
    assert resolve_user("+4711", "+4712").gid == 4712
    assert resolve_user("4711", None) == QemuUser(4711, 4711, (4711,))
    assert resolve_user("0", "0") == resolve_user("root", "root")
    assert make_config(conf('user = "root"\ngroup = "root"'), privileged=True).user == resolve_user(
        "+0", "+0"
    )


def test_missing_file_means_the_defaults(tmp_path: Path) -> None:
    config = read_config(tmp_path / "none.conf", privileged=False)
    assert config.settings.vnc_listen == "127.0.0.1"
    assert config.max_core == 0
    bad = tmp_path / "qemu.conf"
    bad.write_text("user = \n")
    with pytest.raises(ConfigSyntax, match=os.fspath(bad)):
        read_config(bad, privileged=False)


@pytest.mark.parametrize(
    ("text", "mounts"),
    [
        ("", None),
        ('hugetlbfs_mount = ""', ()),
        ('hugetlbfs_mount = "/a"', ("/a",)),
        ('hugetlbfs_mount = ["/a", "/b"]', ("/a", "/b")),
    ],
)
def test_where_huge_pages_are_mounted(text: str, mounts: tuple[str, ...] | None) -> None:
    assert make_config(parse_conf(text, "f"), privileged=True).hugetlb_mounts == mounts
