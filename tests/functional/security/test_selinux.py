"""Under an enforcing SELinux: one boot, in it all cases of `tests/inside/selinux`, and the daemon."""

import sysconfig
from pathlib import Path

import pytest

from tests.support import testbed

pytestmark = [pytest.mark.qemu, pytest.mark.root]

#: a daemon has all categories, as init starts it; so has what starts it here
_INIT = "system_u:system_r:initrc_t:s0-s0:c0.c1023"

_PREPARE = """
# what is compiled is executed only where a policy expects libraries; so are entries to a domain
packages=/usr/local/lib/python3.11/dist-packages
mkdir -p $packages /usr/local/sbin
tar -c --exclude '*.h' --exclude '*.c' --exclude '*.p[yx][xd]' --exclude __pycache__ \\
    -C $SITE uvloop lxml | tar -x -C $packages
printf '#!/usr/bin/python3\\nimport sys\\nfrom qvirt.daemon.main import main\\nsys.exit(main())\\n' \\
    > /usr/local/sbin/qvirtd
chmod 755 /usr/local/sbin/qvirtd
restorecon -RF /usr/local /var/lib/libvirt /var/log/libvirt
cases=/usr/local/sbin/cases
printf '#!/usr/bin/python3\\nimport sys, pytest\\nsys.exit(pytest.main(sys.argv[1:]))\\n' > $cases
chmod 755 $cases
chcon -t virtd_exec_t $cases /usr/local/sbin/qvirtd
for kind in nfs cifs; do
    mkdir -p /mnt/$kind
    mount -t tmpfs -o context=system_u:object_r:${kind}_t:s0 $kind /mnt/$kind
    truncate -s 1M /mnt/$kind/image
done
truncate -s 1M /srv/foreign
chcon -t etc_t /srv/foreign
setsebool virt_use_samba on
setsebool virt_use_nfs off
export TMPDIR=/var/lib/libvirt/images
out=/var/lib/libvirt/images/out
cases() { : > $out; $cases -q -p no:cacheprovider -c /dev/null --rootdir . \\
    --durations 12 tests/inside/selinux.py >> $out 2>&1 < /dev/null
    code=$?; cat $out; [ $code = 0 ] || failed=1; }
"""

_DAEMON = """
log=/var/log/libvirt/qvirtd.log
: > $log; chcon -t virt_log_t $log
/usr/local/sbin/qvirtd >> $log 2>&1 < /dev/null &
cp /usr/bin/virsh /usr/local/bin/vsh
until [ -S /run/libvirt/libvirt-sock ]; do kill -0 $! || break; sleep 0.1; done
ask() { echo "--- $*"; vsh -c qemu:///system "$@" 2>&1; }
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
        {_PREPARE}
        failed=0
        cases
        {_DAEMON}
        exit $failed
    """
    done = testbed.boot("selinux", ["sh", "-c", script], "--context", _INIT)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "<baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel>" in done.stdout
    assert "<baselabel type='qemu'>system_u:system_r:svirt_t:s0</baselabel>" in done.stdout
    assert "setsebool -P virt_use_execmem on" in done.stdout
    assert "Security model: selinux" in done.stdout
    assert "(enforcing)" in done.stdout
    assert "Domain 'a' destroyed" in done.stdout
