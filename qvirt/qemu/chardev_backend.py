"""A character backend as QMP's ``chardev-add`` wants it, from the words of ``-chardev``.

The two spell the same things differently, and QEMU offers no common form before 10.
"""

from collections.abc import Mapping

from qvirt.qemu.keyval import JsonValue

#: option -> member, of the backends that only rename
_RENAMED: dict[str, dict[str, str]] = {
    "file": {"path": "out", "append": "append"},
    "pipe": {"path": "device"},
    "serial": {"path": "device"},
    "parallel": {"path": "device"},
    "spicevmc": {"name": "type"},
    "spiceport": {"name": "fqdn"},
    "qemu-vdagent": {"clipboard": "clipboard", "mouse": "mouse"},
    "dbus": {"name": "name"},
}
_SOCKET = ("server", "wait", "telnet", "reconnect", "tls-creds")


def to_backend(type: str, props: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the ``backend`` argument of chardev-add; the id is not part of it."""
    if type == "socket":
        # on the command line a socket connects unless it is told to serve, here it is the other way round
        data: dict[str, JsonValue] = {
            "addr": _address(props),
            "server": False,
            **{key: props[key] for key in _SOCKET if props.get(key) is not None},
        }
    elif type == "udp":
        data = {"remote": _inet(props.get("host"), props.get("port"))}
        if props.get("localaddr") or props.get("localport") not in (None, "0"):
            data["local"] = _inet(props.get("localaddr"), props.get("localport"))
    else:
        renamed = _RENAMED.get(type, {})
        data = {renamed[key]: value for key, value in props.items() if key in renamed and value is not None}
    for key in ("logfile", "logappend"):
        if props.get(key) is not None:
            data[key] = props[key]
    return {"type": type, "data": data}


def _address(props: Mapping[str, JsonValue]) -> JsonValue:
    if props.get("fd") is not None:
        return {"type": "fd", "data": {"str": str(props["fd"])}}
    if props.get("path") is not None:
        return {"type": "unix", "data": {"path": props["path"]}}
    return _inet(props.get("host"), props.get("port"))


def _inet(host: JsonValue, port: JsonValue) -> JsonValue:
    return {"type": "inet", "data": {"host": str(host or ""), "port": str(port or "0")}}
