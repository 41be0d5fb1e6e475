"""QEMU command lines in, domains out: the inverse of ``qvirt.qemu.build``. Pure, like all of ``qvirt.qemu``.

text.py       a shell script's worth of text -> words and environment
options.py    words -> arguments (every switch of every age) -> records
legacy.py     -vga, -serial … -> the parts they stand for (old_drives.py: -hda, old_networks.py: -net)
machine.py    what is no device; clock.py cpu.py numa.py sysinfo.py: the larger parts of it
devices.py    disks.py networks.py chars.py …: parts -> elements
managed.py    switches that are no part of a machine
boarded.py    machines whose devices have no XML
settle.py     the document is built again; what comes out otherwise becomes an override
account.py    what became of every argument
"""

from qvirt.qemu.importer.account import Account
from qvirt.qemu.importer.reading import Imported, Surroundings, emulator_target, import_command_line
from qvirt.qemu.importer.text import Command, parse_commands

__all__ = [
    "Account",
    "Command",
    "Imported",
    "Surroundings",
    "emulator_target",
    "import_command_line",
    "parse_commands",
]
