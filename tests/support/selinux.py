"""A machine with SELinux as its files show it: a policy, a kernel that enforces it, a daemon in virtd_t."""

from pathlib import Path

OWN = "system_u:system_r:virtd_t:s0-s0:c0.c1023"
DOMAIN = "system_u:system_r:svirt_t:s0"
TCG = "system_u:system_r:svirt_tcg_t:s0"
IMAGE = "system_u:object_r:svirt_image_t:s0"
CONTENT = "system_u:object_r:virt_content_t:s0"

FILE_CONTEXTS = r"""
# the longest pattern is not the one that wins
/.*	system_u:object_r:default_t:s0
/var/lib/libvirt(/.*)?	system_u:object_r:virt_var_lib_t:s0
/var/lib/libvirt/images(/.*)?	system_u:object_r:virt_image_t:s0
/dev/[^/]*	-c	system_u:object_r:device_t:s0
/dev/kvm	-c	system_u:object_r:kvm_device_t:s0
/run/libvirtd\.pid	--	system_u:object_r:virt_runtime_t:s0
/proc/.*	<<none>>
/srv/vm[0-9]+/.*	system_u:object_r:virt_image_t:s0
/opt/a?b	system_u:object_r:bin_t:s0
/broken/(?P<	system_u:object_r:bin_t:s0
"""


def machine(
    root: Path,
    *,
    own: str = OWN,
    tcg: bool = False,
    enforcing: bool = True,
    booleans: dict[str, bool] | None = None,
    mounts: str = "",
) -> Path:
    """Write the files below a folder, and return it. tcg: the policy has a type for QEMU without KVM."""
    files = {
        "sys/fs/selinux/enforce": "1" if enforcing else "0",
        "sys/fs/selinux/context": "",
        "proc/self/attr/current": f"{own}\0",
        "proc/42/attr/current": f"{DOMAIN}:c1,c2\0",
        "proc/thread-self/attr/sockcreate": "",
        "proc/thread-self/attr/fscreate": "",
        "proc/self/mountinfo": mounts,
        "etc/selinux/config": "# which\nSELINUX=enforcing\nSELINUXTYPE=strict\n",
        "etc/selinux/strict/contexts/virtual_domain_context": f"{DOMAIN}\n{TCG}\n" if tcg else f"{DOMAIN}\n",
        "etc/selinux/strict/contexts/virtual_image_context": f"{IMAGE}\n{CONTENT}\n",
        "etc/selinux/strict/contexts/files/file_contexts": FILE_CONTEXTS,
        "etc/selinux/strict/contexts/files/file_contexts.local": (
            "/data(/.*)?	system_u:object_r:virt_image_t:s0\n"
        ),
        "etc/selinux/strict/contexts/files/file_contexts.subs_dist": "/var/run /run\n# x y\n",
    }
    for name, on in (booleans or {}).items():
        files[f"sys/fs/selinux/booleans/{name}"] = f"{on:d} {on:d}"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
