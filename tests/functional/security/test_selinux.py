"""Under an enforcing SELinux: one boot, in it all cases of `tests/inside/selinux`, and the daemon."""

import sysconfig
from pathlib import Path

import pytest

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
    --durations 12 tests/inside/selinux.py >> $out 2>&1 < /dev/null
    code=$?; cat $out; [ $code = 0 ] || failed=1; }
"""

#: the policy module, which labels the daemon's entry
_MODULE = """
chcon -t bin_t /usr/local/sbin/qvirtd
semodule -i $QVIRT_PACKAGING/selinux/qvirt.cil || failed=1
semodule -l | grep -x qvirt || failed=1
restorecon -F /usr/local/sbin/qvirtd
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
cat $log
"""


def test_under_an_enforcing_policy() -> None:
    site = Path(sysconfig.get_path("platlib"))
    script = f"""SITE={site}
        {testbed.LABELLED}
        {_PREPARE}
        failed=0
        cases
        {_MODULE}
        {_DAEMON}
        tail -n 5 $out
        exit $failed
    """
    done = testbed.boot("selinux", ["sh", "-c", script], "--context", testbed.INIT)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "\nsystem_u:system_r:virtd_t:s0-s0:c0.c1023\n" in done.stdout
    assert "<baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel>" in done.stdout
    assert "<baselabel type='qemu'>system_u:system_r:svirt_t:s0</baselabel>" in done.stdout
    assert "setsebool -P virt_use_execmem on" in done.stdout
    assert "Security model: selinux" in done.stdout
    assert "(enforcing)" in done.stdout
    assert "Domain 'a' destroyed" in done.stdout
