"""Switches that are no part of a machine: what the daemon does itself, and what is handed on as it is."""

from qvirt.qemu.importer.account import Outcome
from qvirt.qemu.importer.config import EXPANDED
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import is_known

#: switches that mean nothing under management, and why
_HOST_SIDE: dict[str, str] = {
    "S": "the daemon starts the guest when it is ready; virsh start --paused holds it",
    "daemonize": "the daemon runs the guest in the background anyway",
    "pidfile": "the daemon knows its guests; there is no file to read",
    "monitor": "the monitor is the daemon's; virsh qemu-monitor-command talks to it",
    "qmp": "the monitor is the daemon's; virsh qemu-monitor-command talks to it",
    "mon": "the monitor is the daemon's; virsh qemu-monitor-command talks to it",
    "sandbox": "how QEMU is confined is set in qemu.conf (seccomp_sandbox)",
    "runas": "the user QEMU runs as is set in qemu.conf",
    "chroot": "where QEMU may look is the daemon's to confine",
    "msg": "messages go to the guest's log, with the time",
    "D": "messages go to the guest's log",
    "no-user-config": "a start never reads QEMU's own configuration files",
    "nodefconfig": "a start never reads QEMU's own configuration files",
    "writeconfig": "QEMU's configuration is the document",
    "h": "a question, not a machine",
    "help": "a question, not a machine",
    "version": "a question, not a machine",
    "id": "QEMU has no such switch; it is a manager's own mark",
    "incoming": "the guest starts anew: none can be moved here or restored yet",
    "only-migratable": "whether a guest can be migrated is asked when it is",
    "win2k-hack": "Windows 2000's installer is no longer helped along",
    "no-fd-bootchk": "SeaBIOS boots floppies of every kind",
    "tdf": "QEMU has no such switch any more",
    "no-rtc": "QEMU has no such switch any more",
    "no-kvm-irqchip": "where interrupts are handled is <ioapic driver=…>",
    "no-kvm-pit": "QEMU has no such switch any more",
    "enable-nesting": "nested guests are a feature of the CPU: svm or vmx in <cpu>",
    "clock": "the host's clock source is QEMU's to choose now",
    "old-param": "QEMU has no such switch any more",
    "std-vga": "",
    "bt": "QEMU has no Bluetooth any more",
    "L": "where QEMU finds its firmware is its own",
    "preconfig": "the machine is configured by its document",
    "compat": "how deprecated uses are met is <qemu:deprecation>",
    "echr": "there is no terminal to escape from",
    "qtest": "a test's own",
    "qtest-log": "a test's own",
    "tb-size": "the size of TCG's cache is <tcg><tb-cache>",
    "singlestep": "TCG runs at its full speed",
    "xen-domid": "this is no Xen",
    "xen-attach": "this is no Xen",
    "xen-create": "this is no Xen",
    "smb": "QEMU has no such switch any more; -netdev user,smb= has it",
    "tftp": "QEMU has no such switch any more; -netdev user,tftp= has it",
    "bootp": "QEMU has no such switch any more; -netdev user,bootfile= has it",
    "vmchannel": "channels to the guest are <channel>",
    "set": "properties of devices are theirs to say",
}  # fmt: skip
#: switches that are handed on as they are
_AS_IS = frozenset(
    [
        "d",
        "trace",
        "dfilter",
        "icount",
        "semihosting",
        "semihosting-config",
        "gdb",
        "s",
        "prom-env",
        "option-rom",
        "g",
        "debugcon",
        "plugin",
        "acpitable",
        "iscsi",
        "add-fd",
        "loadvm",
        "snapshot",
        "seed",
        "async-teardown",
        "nvram",
        "perfmap",
        "enable-fips",
        "one-insn-per-tick",
        "readconfig",
    ]
)


def settle_rest(line: Line) -> None:
    """Settle what is left: what the daemon does itself, and what only QEMU understands."""
    settled = {
        entry.argument.number
        for entry in line.account.entries
        if entry.argument is not None and entry.outcome is not Outcome.NOTE
    }
    for argument in line.arguments:
        if argument.number in settled:
            continue
        name = argument.name
        if name == "mon" or name in _HOST_SIDE:
            line.drop([argument], _HOST_SIDE[name])
        elif name == EXPANDED:
            line.to_xml([argument], "its sections, which follow")
        elif name in _AS_IS:
            words = [f"-{name}"] if argument.value is None else [f"-{name}", argument.value]
            line.pass_on([argument], words, "no XML")
        elif not is_known(name):
            line.drop([argument], "no QEMU has this switch")
        elif name == "global":
            line.pass_on([argument], ["-global", argument.value or ""], "no XML")
        elif name in ("vga", "std-vga", "cirrusvga", "vmwarevga"):
            line.drop([argument], "another -vga, further on, replaces it")
        elif name in ("usb", "balloon", "watchdog-action", "watchdog", "redir", "soundhw"):
            line.drop([argument], "there is no device it would be about")
        else:
            line.pass_on(
                [argument], [f"-{name}"] if argument.value is None else [f"-{name}", argument.value], "no XML"
            )
