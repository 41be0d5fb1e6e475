"""Under an enforcing SELinux: one boot, in it all cases of `tests/inside/selinux`, and the daemon."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.functional.runtime import helping
from tests.support import testbed

pytestmark = [pytest.mark.qemu, pytest.mark.root]

_PREPARE = """
cases=/usr/local/sbin/cases
printf '#!/usr/bin/python3\\nimport sys, pytest\\nsys.exit(pytest.main(sys.argv[1:]))\\n' > $cases
chmod 755 $cases
chcon -t virtd_exec_t $cases
for kind in nfs cifs; do
    mkdir -p /mnt/$kind
    mount -t tmpfs -o context=system_u:object_r:${kind}_t:s0 $kind /mnt/$kind
    truncate -s 1M /mnt/$kind/image
done
truncate -s 1M /srv/foreign
chcon -t etc_t /srv/foreign
chmod 666 /srv/foreign
setsebool virt_use_samba on
setsebool virt_use_nfs off
# who may trace, for a daemon that may not, and a program that gives a stranger's rights
mkdir /var/lib/libvirt/images/asked
python3 -m tests.support.inside serve /var/lib/libvirt/images/asked < /dev/null > /tmp/asked.log 2>&1 &
cp /bin/true /usr/local/bin/gain
chown 4711 /usr/local/bin/gain
chmod 4755 /usr/local/bin/gain
export TMPDIR=/var/lib/libvirt/images
out=/var/lib/libvirt/images/out
cases() { : > $out; $cases -q -p no:cacheprovider -c /dev/null --rootdir . \\
    --durations 12 "$@" >> $out 2>&1 < /dev/null
    code=$?; cat $out; [ $code = 0 ] || failed=1; }
"""

#: the policy module, which labels the daemon's entry and the programs of helpers
_MODULE = """
chcon -t bin_t /usr/local/sbin/qvirtd
cp $HELPERS/swtpm /usr/bin && cp $HELPERS/*.so.* /usr/lib/x86_64-linux-gnu && ldconfig
cp $HELPERS/swtpm_setup /usr/bin
restorecon -F /usr/bin/swtpm_setup /usr/lib/x86_64-linux-gnu/*.so.*
semodule -i $QVIRT_PACKAGING/selinux/qvirt.cil -i tests/inside/tests.cil || failed=1
semodule -l | grep -x qvirt || failed=1
restorecon -F /usr/local/sbin/qvirtd /usr/bin/swtpm /usr/lib/qemu/*
"""

#: daemon and QEMU killed at steps of a guest's life
_WALK = """
walk=/usr/local/sbin/walk
printf '#!/usr/bin/python3\\nimport sys\\nfrom tests.inside.walk import main\\nsys.exit(main())\\n' > $walk
chmod 755 $walk
chcon -t virtd_exec_t $walk
: > $out; $walk >> $out 2>&1 < /dev/null || failed=1; cat $out
"""

_DAEMON = """
log=/var/log/libvirt/qvirtd.log
: > $log; chcon -t virt_log_t $log
/usr/local/sbin/qvirtd >> $log 2>&1 < /dev/null &
cp /usr/bin/virsh /usr/local/bin/vsh
until [ -S /run/libvirt/libvirt-sock ]; do kill -0 $! || break; sleep 0.1; done
ask() { echo "--- $*"; vsh -c qemu:///system "$@" 2>&1; }
tr -d '\\0' < /proc/$!/attr/current; echo
ask capabilities | sed -n '/<secmodel>/,/<.secmodel>/p'
cat > /tmp/a.xml <<X
<domain type='qemu'><name>a</name><memory unit='MiB'>32</memory>
<os><type machine='pc'>hvm</type></os></domain>
X
setsebool virt_use_execmem off
ask create --paused /tmp/a.xml
setsebool virt_use_execmem on
ask create --paused /tmp/a.xml
ask dominfo a
cat /proc/$(cat /run/libvirt/qemu/a.pid)/attr/current; echo
ask destroy a
mkdir -p /srv/shared
chcon -t usr_t /srv/shared
cat > /tmp/b.xml <<X
<domain type='qemu'><name>b</name><memory unit='MiB'>32</memory>
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type machine='q35'>hvm</type></os>
<devices>
<filesystem><driver type='virtiofs'/><source dir='/srv/shared'/><target dir='shared'/></filesystem>
$([ -x /usr/bin/swtpm ] && echo "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
</devices>
</domain>
X
ask create --paused /tmp/b.xml
for pid in $(pidof qemu-system-x86_64 virtiofsd swtpm); do
    echo "$(cat /proc/$pid/comm): $(tr -d '\\0' < /proc/$pid/attr/current)"
done
ask destroy b
cat $log
"""


def stage(folder: Path) -> None:
    """Put into a folder what the machine's image lacks: swtpm with its libraries, where it is here."""
    folder.mkdir()
    helping.program(folder, "swtpm_setup", helping.QUICK_SETUP)
    swtpm = shutil.which("swtpm")
    if swtpm is not None:
        shutil.copy(swtpm, folder)
        linked = subprocess.run(["ldd", swtpm], capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"=> (\S*tpm\S*)", linked):
            shutil.copy(path, folder)


def test_under_an_enforcing_policy(tmp_path: Path) -> None:
    stage(tmp_path / "helpers")
    site = Path(sysconfig.get_path("platlib"))
    script = f"""SITE={site}
        {testbed.LABELLED}
        {_PREPARE}
        failed=0
        cases tests/inside/selinux.py
        {_MODULE}
        cases tests/inside/selinux_module.py
        {_WALK}
        {_DAEMON}
        exit $failed
    """
    words = ["--share", f"{tmp_path}:ro", "--env", f"HELPERS={tmp_path}/helpers", "--context", testbed.INIT]
    words += ["--env", f"QVIRT_WALK={os.environ.get('QVIRT_WALK', '4')}"]
    done = testbed.boot("selinux", ["sh", "-c", script], *words)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "\nsystem_u:system_r:virtd_t:s0-s0:c0.c1023\n" in done.stdout
    assert "<baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel>" in done.stdout
    assert "<baselabel type='qemu'>system_u:system_r:svirt_t:s0</baselabel>" in done.stdout
    assert "setsebool -P virt_use_execmem on" in done.stdout
    assert "Security model: selinux" in done.stdout
    assert "(enforcing)" in done.stdout
    assert "Domain 'a' destroyed" in done.stdout
    helped = done.stdout.partition("Domain 'b' created")[2].partition("Domain 'b' destroyed")[0]
    confined = ["qemu-system-x86: .*:svirt_t", "virtiofsd: .*:qvirt_virtiofsd_t"]
    confined += ["swtpm: .*:svirt_t"] if shutil.which("swtpm") else []
    for label in confined:
        assert re.search(label + r":s0:c\d+,c\d+\n", helped), (label, helped)
    assert done.stdout.count("walked: ") == 2
