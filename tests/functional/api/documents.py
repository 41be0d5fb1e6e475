"""Domain documents for the tests, small enough to start in a moment."""

import uuid

EMULATOR = "/usr/bin/qemu-system-x86_64"


def domain(name: str, devices: str = "", extra: str = "", *, uid: str | None = None, memory: int = 32) -> str:
    """Make a document of a guest that has firmware and nothing to boot; memory in MiB."""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uid or uuid.uuid4()}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  {extra}
  <devices>
    <emulator>{EMULATOR}</emulator>
    {devices}
  </devices>
</domain>"""


CONSOLE = "<serial type='pty'/><console type='pty'/>"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
SCREEN = "<graphics type='vnc' port='-1' autoport='yes'/><video><model type='vga'/></video>"

PRELUDE = '''
import atexit, os, time
libvirt.registerErrorHandler(lambda *_: None, None)

def fails(function, *arguments):
    """Call what must fail; gives code, domain and message of its error."""
    try:
        answer = function(*arguments)
    except libvirt.libvirtError as error:
        return error.get_error_code(), error.get_error_domain(), error.get_error_message()
    raise AssertionError(f"{function.__name__}{arguments} did not fail, it gave {answer!r}")

def same(seen, wanted):
    assert seen == wanted, f"\\nseen   {seen!r}\\nwanted {wanted!r}"

def until(happened, what="it happens", patience=30):
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {patience} s"
        time.sleep(0.02)

@atexit.register
def clean():
    for each in conn.listAllDomains():
        keeps = each.isPersistent()
        if each.isActive():
            each.destroy()
        if keeps:
            each.undefine()
'''
"""What the scripts for python3-libvirt begin with; at their end no domain is left."""
