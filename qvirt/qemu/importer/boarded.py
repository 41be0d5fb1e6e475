"""Machines whose devices are their own to name: everything is handed to QEMU in the command line's own words.

A start says ``-nodefaults``, so what the board has by default is said as well.
"""

from qvirt.qemu.importer.account import Outcome
from qvirt.qemu.importer.firmware import old_flash
from qvirt.qemu.importer.gone import INSTEAD_OF_RAMFB, is_gone
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument, collect, split_opts, to_props

#: switches of devices and of what is behind them
_DEVICES = (
    "drive", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "mtdblock", "pflash", "", "device",
    "blockdev", "netdev", "net", "nic", "chardev", "object", "fsdev", "virtfs", "audiodev", "tpmdev",
    "serial", "parallel", "vga", "usb", "usbdevice", "bios", "snapshot", "watchdog", "audio",
)  # fmt: skip
_REASON = "this machine's devices have no XML"
_SHORT = {
    "fda": "if=floppy,index=0", "fdb": "if=floppy,index=1", "hda": "index=0", "hdb": "index=1",
    "hdc": "index=2", "hdd": "index=3", "": "index=0", "cdrom": "index=2,media=cdrom",
    "sd": "if=sd,format=raw", "mtdblock": "if=mtd,format=raw",
}  # fmt: skip


def read_board(line: Line, reason: str = _REASON) -> None:
    """Hand over every device, and spell out the defaults."""
    _defaults(line)
    monitors = _monitors(line)
    done = old_flash(line, reason)
    done += [argument for part in line.parts.of("object") if part.settled for argument in part.given]
    for argument in line.given(*_DEVICES):
        if argument in done or _is_gone(line, argument):
            continue
        if argument.name == "chardev" and str(to_props(argument)[0].get("id")) in monitors:
            line.drop([argument], "a monitor's line; the daemon has its own")
            continue
        words = _modern(line, argument)
        if words is None:
            continue
        line.pass_on([argument], words, reason)
    _old(line, reason)
    order = line.merged("boot", "order")[0].get("order")
    if order:
        line.pass_on(line.given("boot"), ["-boot", f"order={order}"], reason)
    for key in ("pflash0", "pflash1", "memory-backend", "confidential-guest-support"):
        value = line.machine.pop(key, None)
        if value is not None:
            line.pass_on(line.given("machine"), ["-machine", f"{key}={value}"], reason)
    for part in line.parts.all():
        part.settled = part.settled or "commandline"


def _is_gone(line: Line, argument: Argument) -> bool:
    """Tell whether a device is one that this emulator does not have, which is said; ramfb is replaced."""
    driver = str(to_props(argument)[0].get("driver")) if argument.name == "device" else ""
    if driver and is_gone(line.caps, driver):
        line.drop([argument], f"this emulator has no device '{driver}'")
        return True
    if driver != "ramfb" or not line.is_old_riscv:
        return False
    line.pass_on([argument], ["-device", INSTEAD_OF_RAMFB], "QEMU draws no ramfb on this machine")
    return True


def _monitors(line: Line) -> set[str]:
    """Return the chardevs of monitors that nothing else uses."""
    named = {str(to_props(argument)[0].get("chardev")) for argument in line.given("mon")}
    for argument in line.given("device", "serial", "parallel", "netdev", "object", "tpmdev"):
        props, _ = to_props(argument)
        named -= {str(props.get("chardev")), (argument.value or "").removeprefix("chardev:")}
    return named


def _modern(line: Line, argument: Argument) -> list[str] | None:
    name, value = argument.name, argument.value
    if name == "usb":
        return ["-machine", "usb=on"]
    if name == "bios":
        return ["-bios", value or ""]
    if name in ("serial", "parallel") and (value or "").startswith("mon:"):
        line.note("the monitor on it is the daemon's; the port stays", [argument])
        return [f"-{name}", (value or "").removeprefix("mon:")]
    if name in ("net", "nic"):
        props = collect(split_opts(value or "", "type"))
        hub = props.pop("vlan", None)
        if props.get("type") == "none":
            line.to_xml([argument], "no network")
            return None
        if hub not in (None, "0"):
            line.note("a second hub of cards is not kept apart on this machine", [argument])
        if hub is not None:
            text = ",".join(part for part in (value or "").split(",") if not part.startswith("vlan="))
            return [f"-{name}", text]
    if name in _SHORT and not value and name not in ("", "cdrom"):
        return ["-drive", _SHORT[name]]
    if name == "":
        return ["-drive", f"file={(value or '').replace(',', ',,')},index=0"]
    if name == "usbdevice":
        word = {"tablet": "usb-tablet", "mouse": "usb-mouse", "keyboard": "usb-kbd"}.get(value or "")
        return ["-usbdevice", value or ""] if word is None else ["-machine", "usb=on", "-device", word]
    return [f"-{name}"] if value is None else [f"-{name}", value]


def _old(line: Line, reason: str) -> None:
    """Say in today's words what QEMU no longer takes."""
    cards = {
        "ac97": "AC97",
        "es1370": "ES1370",
        "sb16": "sb16",
        "hda": "intel-hda",
        "gus": "gus",
        "adlib": "adlib",
    }
    for argument in line.given("soundhw"):
        for word in (argument.value or "").split(","):
            if word in cards:
                line.pass_on([argument], ["-device", cards[word]], reason)
            else:
                line.drop([argument], f"'{word}' is no sound card of this machine")
    for argument in line.given("redir"):
        protocol, _, rest = (argument.value or "").partition(":")
        host, _, guest = rest.partition(":")
        address, _, port = guest.rpartition(":")
        text = f"hostfwd={protocol}::{host}-{address}:{port}"
        users = [
            words for _, words in line.extra if words[0] in ("-net", "-nic") and words[1].startswith("user")
        ]
        if users:
            users[0][1] += f",{text}"
            line.account.add([argument], Outcome.COMMANDLINE, f"-net user,{text} ({reason})")
        else:
            line.drop([argument], "there is no user network to forward from")
    for argument in line.given("balloon"):
        if argument.value != "none":
            line.pass_on([argument], ["-device", "virtio-balloon"], reason)
        else:
            line.drop([argument], "no balloon is what there is without one")


def _defaults(line: Line) -> None:
    """Say what the board has when nothing is said."""
    if not line.defaults:
        return
    board = line.board
    words = [["-device", device] for device in board.devices]
    has = {argument.name for argument in line.arguments}
    drivers = {str(to_props(argument)[0].get("driver")) for argument in line.given("device")}
    indexes = _indexes(line)
    if not has & {"net", "nic", "netdev"}:
        words += [["-net", "nic"], ["-net", "user"]]
    if board.vga and not has & {"vga"} and not any("vga" in driver.lower() for driver in drivers):
        words.append(["-vga", board.vga])
    if board.cdrom and 2 not in indexes and not drivers & {"ide-cd", "ide-hd", "scsi-cd", "scsi-hd"}:
        words.append(["-drive", "index=2,media=cdrom"])
    if board.floppy and not _uses(line, "floppy", "fda"):
        words.append(["-drive", "if=floppy,index=0"])
    if board.sd and not _uses(line, "sd", "sd"):
        words.append(["-drive", "if=sd"])
    if "serial" not in has:
        words.append(["-serial", "stdio" if line.nographic else "vc"])
    if "parallel" not in has:
        words.append(["-parallel", "null" if line.nographic else "vc"])
    if board.usb and not line.given("usb") and "usb" not in line.machine:
        words.append(["-machine", "usb=on"])
    for listed in words:
        line.extra.append(((), listed))
        line.account.add((), Outcome.COMMANDLINE, f"{' '.join(listed)} (what this machine has by default)")


def _indexes(line: Line) -> set[int]:
    """Return the numbers of the drives on the board's own bus."""
    found: set[int] = set()
    following = 0
    for argument in line.arguments:
        number = {"hda": 0, "hdb": 1, "hdc": 2, "hdd": 3, "cdrom": 2, "": 0}.get(argument.name)
        if argument.name == "drive":
            props = dict(split_opts(argument.value or ""))
            if props.get("if") in (None, "ide", "scsi"):
                said = props.get("index") or props.get("unit")
                number = int(said) if said is not None and said.isdigit() else following
                following += 1
        if number is not None:
            found.add(number)
    return found


def _uses(line: Line, kind: str, *names: str) -> bool:
    return bool(line.given(*names)) or any(
        dict(split_opts(argument.value or "")).get("if") == kind for argument in line.given("drive")
    )
