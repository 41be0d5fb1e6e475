"""``-chardev`` as the host side of a device: the other direction of ``qvirt.qemu.devices.chardev``."""

from qvirt.model.devices.chardev import CharSource, HasChardev, Log, Protocol, Reconnect
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.parts import Part, Unfit, switch, without

#: what any backend may say, and what each means that has an element
_COMMON = ("id", "backend", "mux", "logfile", "logappend", "debug")
_OWN: dict[str, tuple[str, ...]] = {
    "null": (),
    "pty": ("path",),
    "vc": ("cols", "rows", "width", "height"),
    "stdio": ("signal",),
    "file": ("path", "append"),
    "pipe": ("path",),
    "serial": ("path",),
    "tty": ("path",),
    "parallel": ("path",),
    "parport": ("path",),
    "udp": ("host", "port", "localaddr", "localport", "ipv4", "ipv6"),
    "socket": (
        "path", "host", "port", "server", "wait", "telnet", "reconnect", "reconnect-ms", "delay", "nodelay",
        "ipv4", "ipv6",
    ),
    "spicevmc": ("name",),
    "spiceport": ("name",),
    "qemu-vdagent": ("name", "clipboard", "mouse"),
    "dbus": ("name",),
}  # fmt: skip
_TYPES = {"serial": "dev", "tty": "dev", "parallel": "dev", "parport": "dev"}


def take_chardev(line: Line, part: Part, dev: HasChardev, key: str = "chardev") -> list[Part]:
    """Give the device the backend its part names; return the parts used. Raises Unfit."""
    name = part.text(key)
    backend = line.parts.find("chardev", name)
    if backend is None:
        raise Unfit(f"its chardev '{name}' is nowhere defined" if name else "it has no chardev")
    if backend.settled:
        raise Unfit(f"its chardev '{name}' belongs to another device already")
    read_chardev(line, backend, dev)
    return [backend]


def read_chardev(line: Line, backend: Part, dev: HasChardev) -> None:
    """Say a backend in the document's words. Raises Unfit for what it cannot say."""
    kind = backend.text("backend") or ""
    allowed = _OWN.get(kind)
    if allowed is None:
        raise Unfit(f"chardev '{kind}' has no XML")
    if kind in ("spicevmc", "spiceport") and not any(
        shown.type == "spice" for shown in line.domain.devices.graphics
    ):
        raise Unfit("it belongs to a SPICE screen, and XML has none")
    strange = without(backend.props, (*_COMMON, *allowed))
    if strange:
        raise Unfit(f"its chardev says {', '.join(strange)}, which has no XML")
    source = CharSource()
    path = backend.text("path")
    dev.type = _TYPES.get(kind, kind)
    match kind:
        case "socket":
            _socket(line, backend, dev, source)
        case "udp":
            _udp(backend, dev)
        case "spiceport" | "dbus":
            source.channel = backend.text("name")
        case "file":
            source.path, source.append = path, backend.flag("append")
        case "pty" if path is not None:
            line.note(f"{path}: a pty's name is the kernel's to choose", backend.given)
        case _:
            source.path = path
    if not dev.sources and not source.is_empty():
        dev.sources = [source]
    if kind == "stdio":
        line.note(
            "what the port says goes to the guest's log; type='pty' would give it a console", backend.given
        )
    if backend.flag("mux"):
        line.note("several users share this line; the daemon gives it to one", backend.given)
    log = backend.text("logfile")
    if log is not None:
        dev.logs = [Log(file=log, append=backend.flag("logappend"))]


def _socket(line: Line, backend: Part, dev: HasChardev, source: CharSource) -> None:
    server = backend.flag("server") or False
    source.mode = "bind" if server else "connect"
    if backend.text("path") is not None:
        dev.type, source.path = "unix", backend.text("path")
    else:
        dev.type = "tcp"
        anywhere = "0.0.0.0" if server else "localhost"  # noqa: S104
        source.host, source.service = backend.text("host") or anywhere, backend.text("port")
        dev.protocols = [Protocol(type="telnet" if backend.flag("telnet") else "raw")]
    again = backend.text("reconnect")
    if again is None and backend.text("reconnect-ms") is not None:
        again = str(max(1, (backend.number("reconnect-ms") or 0) // 1000))
    if again is not None and int(again):
        source.reconnect = Reconnect(enabled=True, timeout=int(again))
    wait = switch(backend.props.get("wait"))
    if server and wait is not False:
        line.note("the guest does not wait for somebody to connect", backend.given)


def _udp(backend: Part, dev: HasChardev) -> None:
    dev.type = "udp"
    sources = []
    if backend.text("localport") is not None or backend.text("localaddr") is not None:
        sources.append(
            CharSource(mode="bind", host=backend.text("localaddr") or None, service=backend.text("localport"))
        )
    sources.append(
        CharSource(mode="connect", host=backend.text("host") or "localhost", service=backend.text("port"))
    )
    dev.sources = sources
