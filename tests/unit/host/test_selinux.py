"""What SELinux's files say: kernel, policy, labels."""

import os
import stat
from pathlib import Path

import pytest

from qvirt.host.filecontexts import usual_label
from qvirt.host.selinux import Kernel, read_label, write_label
from tests.support.selinux import CONTENT, DOMAIN, IMAGE, OWN, TCG, machine

FILE, DEVICE = stat.S_IFREG, stat.S_IFCHR


def test_the_kernel_and_the_policy(tmp_path: Path) -> None:
    kernel = Kernel(machine(tmp_path, tcg=True, booleans={"virt_use_nfs": True, "virt_use_usb": False}))
    assert (kernel.is_enabled, kernel.is_enforcing) == (True, True)
    assert kernel.context("self") == OWN
    assert kernel.context(4711) == ""
    assert kernel.policy == tmp_path / "etc/selinux/strict"
    assert kernel.contexts("virtual_domain_context") == [DOMAIN, TCG]
    assert kernel.contexts("virtual_image_context") == [IMAGE, CONTENT]
    assert kernel.contexts("nothing") == []
    assert [kernel.boolean(f"virt_use_{name}") for name in ("nfs", "usb", "x")] == [True, False, None]
    assert kernel.is_valid("a:b:c")  # nobody says otherwise
    assert kernel.denied("a", "b", "file", ("read",)) is None
    assert kernel.entered("a", "b") == ""


def test_a_machine_without(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    assert (kernel.is_enabled, kernel.is_enforcing) == (False, False)
    assert kernel.policy == tmp_path / "etc/selinux/targeted"


def test_what_a_thread_makes_is_labelled_and_no_more_afterwards(tmp_path: Path) -> None:
    kernel = Kernel(machine(tmp_path))
    told = tmp_path / "proc/thread-self/attr/sockcreate"
    inside = b""

    def fail() -> None:
        with kernel.making("sockcreate", "a:b:c"):
            nonlocal inside
            inside = told.read_bytes()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == b"a:b:c\0"
    assert told.read_bytes()[:1] == b"\n"


@pytest.mark.parametrize(
    ("path", "kind", "label"),
    [
        ("/var/lib/libvirt/images/a.img", FILE, "virt_image_t"),
        ("/var/lib/libvirt/images", stat.S_IFDIR, "virt_image_t"),
        ("/var/lib/libvirt/x", FILE, "virt_var_lib_t"),
        ("/var/run/libvirtd.pid", FILE, "virt_runtime_t"),
        ("/run/libvirtdxpid", FILE, "default_t"),
        ("/dev/kvm", DEVICE, "kvm_device_t"),
        ("/dev/kvm", FILE, "default_t"),
        ("/dev/other", DEVICE, "device_t"),
        ("/srv/vm12/a", FILE, "virt_image_t"),
        ("/srv/vm/a", FILE, "default_t"),
        ("/opt/b", FILE, "bin_t"),
        ("/opt/ab", FILE, "bin_t"),
        ("/data/x", FILE, "virt_image_t"),
        ("/broken/x", FILE, "default_t"),
    ],
)
def test_the_usual_label_of_a_path(tmp_path: Path, path: str, kind: int, label: str) -> None:
    policy = machine(tmp_path) / "etc/selinux/strict"
    assert usual_label(policy, path, kind | 0o644) == f"system_u:object_r:{label}:s0"


def test_paths_the_policy_leaves_alone(tmp_path: Path) -> None:
    policy = machine(tmp_path) / "etc/selinux/strict"
    assert usual_label(policy, "/proc/1", FILE) is None
    assert usual_label(tmp_path / "no policy", "/data", FILE) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root labels files")
def test_labels_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    try:
        write_label(str(path), IMAGE)
    except OSError as error:
        pytest.skip(f"no labels here: {error.strerror}")
    assert read_label(str(path)) == IMAGE
