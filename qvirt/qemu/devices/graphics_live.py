"""A ``<graphics>`` of a running guest: what can change, in libvirt's sentences.

Passwords and what belongs to them change, as in libvirt; the address VNC listens on does, too, where QEMU
can be told (``display-update``, since 7.1). libvirt refuses that.
"""

from collections.abc import Iterator

from qvirt.errors import OperationUnsupported
from qvirt.model.devices.graphics import Graphics
from qvirt.qemu.context import Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Step

#: what no update changes: the field, what libvirt's sentence says
_FIXED: tuple[tuple[str, str], ...] = (
    ("port", "cannot change port settings on {type} graphics"),
    ("tls_port", "cannot change port settings on {type} graphics"),
    ("autoport", "cannot change port settings on {type} graphics"),
    ("websocket", "cannot change port settings on {type} graphics"),
    ("keymap", "cannot change keymap setting on {type} graphics"),
    ("share_policy", "cannot change VNC share policy"),
    ("power_control", "cannot change VNC power control"),
)


def keep(old: Graphics, new: Graphics) -> None:
    """Leave ports, places and the password as they are where the new document leaves them open.

    A document that was read without the right to see secrets has no password; it is not meant to remove it.
    """
    if new.autoport and old.autoport:
        new.port, new.tls_port = old.port, old.tls_port
        new.autoport = old.autoport
    if new.websocket == -1:
        new.websocket = old.websocket
    for listen, had in zip(new.listens, old.listens, strict=False):
        if listen.type == had.type:
            listen.address = listen.address or had.address
            listen.socket = listen.socket or had.socket
    if new.passwd is None:
        new.passwd, new.passwd_valid_to, new.connected = old.passwd, old.passwd_valid_to, old.connected


def check(old: Graphics, new: Graphics) -> None:
    """Raise OperationUnsupported for what cannot change while the guest runs."""
    for name, sentence in _FIXED:
        if getattr(new, name) != getattr(old, name):
            raise OperationUnsupported(sentence.format(type=old.type))
    if len(old.listens) != len(new.listens):
        raise OperationUnsupported(f"cannot change the number of listen addresses on '{old.type}' graphics")
    for listen, had in zip(new.listens, old.listens, strict=True):
        if listen.type != had.type:
            raise OperationUnsupported(f"cannot change the type of listen address on '{old.type}' graphics")
        if listen.socket != had.socket or listen.network != had.network:
            raise OperationUnsupported(f"cannot change listen address setting on '{old.type}' graphics")
    then, now = _rest(old), _rest(new)
    if then != now:
        name = next(key for key in {**then, **now} if then.get(key) != now.get(key))
        raise OperationUnsupported(f"cannot change {name} setting on {old.type} graphics")


def _rest(dev: Graphics) -> dict[str, object]:
    """Return what is said of a display beside what is looked at by name."""
    looked_at = {"listen", "listens", "socket", "passwd", "passwd_valid_to", "connected", "alias", "line"}
    return {
        name: value for name, value in dev.__dict__.items() if name not in looked_at and value is not None
    }


def change_listen(old: Graphics, new: Graphics, ctx: Context) -> Iterator[Step]:
    """Yield the command that moves a display to another address."""
    before, after = _address(old), _address(new)
    if before == after:
        return
    if old.type != "vnc" or None in (before, after) or not ctx.caps.has_command("display-update"):
        raise OperationUnsupported(f"cannot change listen address setting on '{old.type}' graphics")
    # QEMU gives up the old place before it tries the new one, and has none when that fails; what leads back
    # belongs to a step before, which changes nothing
    there = _listening(old, str(before))
    yield Step(*there, undo=there)
    yield Step(*_listening(new, str(after)))


def _address(dev: Graphics) -> str | None:
    return dev.listens[0].address if dev.listens else None


def _listening(dev: Graphics, host: str) -> tuple[str, dict[str, JsonValue]]:
    where: dict[str, JsonValue] = {"type": "inet", "host": host, "port": str(dev.port)}
    return "display-update", {"type": "vnc", "addresses": [where]}
