"""Small guests for the tests: no disk, no network, emulated without acceleration."""

from uuid import uuid4


def guest_xml(name: str, devices: str = "") -> str:
    """Give the definition of a guest of 16 MiB that does nothing but run its firmware."""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid4()}</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><bios useserial='yes'/></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='pty'/>
    <video><model type='vga'/></video>
    <graphics type='vnc'><listen type='socket'/></graphics>
    {devices}
  </devices>
</domain>"""
