"""A shell script that starts a domain without us: what a start prepares, QEMU, and what is undone at the end.

`standalone` changes the records of a command line so that nothing in them needs a daemon: taps by name
instead of descriptors, secrets from files, sockets by path. `write` writes the script around it. Names that
only the running script knows stand in the words as ``@qvirt-NAME@`` and become the shell's variables.
"""

import re
from collections.abc import Iterable, Sequence

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.graphics import Graphics
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext, Dirs
from qvirt.qemu.devices.base import DirectoryResource, FileResource, handler, line
from qvirt.qemu.devices.interface import own_scripts
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.launch_security import owner_files, spawning
from qvirt.qemu.switches import Chardev, CommandLine, KeyValue, Netdev, Object, Option, Pairs, Switch
from qvirt.record import Record, field

RUN = "/@qvirt-run@"
"""The folder of one run of the script: sockets, secrets, memory kept in files."""

DIRS = Dirs(lib=RUN, channel=f"{RUN}/channel", run=RUN, log=RUN)

_FIRST_FD = 3
"""Where descriptors of the script begin; POSIX's shells know those of one digit only."""

_STAND_IN = re.compile(r"/?@qvirt-(\w+)@")
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class Secret(Record):
    """A secret the script asks for: the file below RUN it comes into, the variable that may name another.

    what: in words, for the prompt.
    """

    name: str
    variable: str
    what: str


class Needs(Record, frozen=False):
    """What the script does before QEMU and undoes after it; each a line of shell."""

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)
    redirections: list[str] = field(default_factory=list)


def check(domain: Domain) -> None:
    """Refuse what a script cannot prepare. Raises ConfigUnsupported."""
    nodes = [*domain.cputune.resource_groups, *([domain.launch_security] if owner_files(domain) else [])]
    found = [f"<{node.tag}>{line(node)}" for node in nodes if node is not None]
    for disk in domain.devices.disks:
        if disk.transient is not None:
            found.append(f"<transient> of disk '{disk.name}'")
        if disk.source is not None and disk.source.reservations is not None:
            found.append(f"<reservations> of disk '{disk.name}'")
    for dev in domain.devices.interfaces:
        if dev.actual_type in (InterfaceType.HOSTDEV, InterfaceType.VDPA):
            found.append(f"<interface type='{dev.actual_type}'>{line(dev)}")
    if found:
        raise ConfigUnsupported(f"a script cannot start domain '{domain.name}' with {', '.join(found)}")


def standalone(
    switches: Iterable[Switch], ctx: BuildContext, bridges: dict[str, str], needs: Needs
) -> list[Switch]:
    """Return the switches without what only a daemon gives; what the script has to do comes into ``needs``.

    bridges: the bridge of each virtual network that has one. Raises ConfigUnsupported.
    """
    made: list[Switch] = []
    for switch in switches:
        origin = switch.origin
        if isinstance(switch, Option) and switch.name in ("S", "no-shutdown"):
            continue  # nobody would let it run, or end it
        if isinstance(switch, Object) and switch.props.get("id") == "masterKey0":
            continue
        if isinstance(switch, Object) and switch.props.get("qom-type") == "secret":
            switch = _secret(str(switch.props["id"]), f"the secret of {switch.source()}", needs)
        elif isinstance(switch, Netdev) and isinstance(origin, Interface):
            switch = _backend(switch, origin, ctx, bridges, needs)
        elif isinstance(origin, Graphics) and isinstance(switch, (KeyValue, Pairs)):
            made += _display(switch, origin, ctx, needs)
            continue
        made.append(switch)
    made = list(spawning(made))
    _prepare(ctx, made, needs)
    return made


def _secret(id: str, what: str, needs: Needs) -> Object:
    needs.secrets.append(Secret(id, "SECRET_" + re.sub(r"\W", "_", id).upper(), what))
    return Object({"qom-type": "secret", "id": id, "format": "raw", "file": f"{RUN}/{id}"})


def _display(switch: KeyValue | Pairs, dev: Graphics, ctx: BuildContext, needs: Needs) -> Iterable[Switch]:
    """Yield a display whose password, if it has one, is a secret: nobody is there to set it later."""
    id = f"{dev.type}-password"
    if isinstance(switch, KeyValue) and switch.props.get("password"):
        if not ctx.caps.option_has("vnc", "password-secret"):
            raise ConfigUnsupported(
                f"a VNC password{line(dev)} needs a QEMU with -vnc password-secret; remove passwd"
            )
        yield _secret(id, "the VNC password", needs)
        props = {key: value for key, value in switch.props.items() if key != "password"}
        yield KeyValue(switch.name, {**props, "password-secret": id}, switch.implied, origin=dev)
        return
    if isinstance(switch, Pairs) and dev.type == "spice" and ("disable-ticketing", True) not in switch.props:
        yield _secret(id, "the SPICE password", needs)
        yield Pairs(switch.name, [*switch.props, ("password-secret", id)], switch.implied, origin=dev)
        return
    yield switch


# ------------------------------------------------------------ interfaces


def _backend(
    switch: Netdev, dev: Interface, ctx: BuildContext, bridges: dict[str, str], needs: Needs
) -> Switch:
    props = dict(switch.props)
    name = str(dev.alias.name)
    if props["type"] == "stream":
        path = f"{RUN}/{name}.sock"
        needs.before += [
            f"passt --foreground --quiet --socket {shell_word(path)} &",
            'helpers="$helpers $!"',
            f"wait_for_socket {shell_word(path)}",
        ]
        return Netdev({**props, "addr": {"type": "unix", "path": path}}, origin=dev)
    if props["type"] != "tap":
        return switch
    if dev.actual_type == InterfaceType.DIRECT:
        return _macvtap(props, dev, name, needs)
    many = "fds" in props
    kept: dict[str, JsonValue] = {
        key: value for key, value in props.items() if key not in ("fd", "fds") and not key.startswith("vhost")
    }
    variable = f"tap_{name}"
    if dev.type == InterfaceType.ETHERNET and dev.target.managed is False and dev.target.dev:
        needs.before.append(f"{variable}={shell_word(dev.target.dev)}")
    else:
        _make_tap(dev, variable, many, _bridge(dev, bridges), needs)
    kept |= {
        "ifname": f"@qvirt-{variable}@",
        **dict.fromkeys(("script", "downscript"), "no"),
        **own_scripts(dev),
    }
    if many:
        kept["queues"] = len(str(props["fds"]).split(":"))
    return Netdev(kept, origin=dev)


def _make_tap(dev: Interface, variable: str, many: bool, bridge: str | None, needs: Needs) -> None:
    name = shell_word(dev.target.dev) if dev.target.dev else f'"qv$$-{dev.alias.name}"'
    words = f'ip tuntap add dev "${variable}" mode tap' + (" multi_queue" if many else "")
    mac = f"fe{(dev.mac.address or '')[2:]}"
    needs.before += [
        f"{variable}={name}",
        f"{words} vnet_hdr",
        f'undo "ip tuntap del dev ${variable} mode tap{" multi_queue" if many else ""}"',
        f'ip link set dev "${variable}" address {mac}' + (f" mtu {dev.mtu.size}" if dev.mtu.size else ""),
    ]
    if bridge is not None:
        needs.before.append(f'ip link set dev "${variable}" master {shell_word(bridge)}')
    if dev.link is None or dev.link.state != "down":
        needs.before.append(f'ip link set dev "${variable}" up')


def _bridge(dev: Interface, bridges: dict[str, str]) -> str | None:
    source = dev.source
    if dev.type == InterfaceType.BRIDGE:
        return source.bridge if source is not None else None
    if dev.type == InterfaceType.NETWORK:
        network = (source.network if source is not None else None) or ""
        if network not in bridges:
            raise ConfigUnsupported(f"network '{network}'{line(dev)} has no bridge a script could use")
        return bridges[network]
    return None


def _macvtap(props: dict[str, JsonValue], dev: Interface, name: str, needs: Needs) -> Switch:
    """Return a backend on a macvtap, which is opened as a file."""
    source = dev.source
    if source is None or source.dev is None or "fds" in props:
        raise ConfigUnsupported(f"a script can make a macvtap{line(dev)} of one queue on a device only")
    variable = f"tap_{name}"
    mac = dev.mac.address
    mode = source.mode or "vepa"
    needs.before += [
        f'{variable}="qv$$-{name}"',
        f'ip link add link {shell_word(source.dev)} name "${variable}" address {mac}'
        f" type macvtap mode {mode}",
        f'undo "ip link del dev ${variable}"',
        f'ip link set dev "${variable}" up',
        f'index_{name}=$(cat "/sys/class/net/${variable}/ifindex")',
    ]
    number = _FIRST_FD + len(needs.redirections)
    if number > 9:
        raise ConfigUnsupported(f"a shell has no descriptor left for the macvtap{line(dev)}")
    needs.redirections.append(f'{number}<>"/dev/tap$index_{name}"')
    kept = {key: value for key, value in props.items() if not key.startswith("vhost")}
    return Netdev({**kept, "fd": str(number)}, origin=dev)


# ------------------------------------------------------------ files


def _prepare(ctx: BuildContext, switches: Sequence[Switch], needs: Needs) -> None:
    """Add the folders, files and firmware variables that a start makes."""
    domain = ctx.domain
    paths = [str(switch.props.get("path")) for switch in switches if isinstance(switch, Chardev)]
    folders = {path.rpartition("/")[0] for path in paths if path.startswith(f"{RUN}/channel/")}
    folders |= set(memory_folders(switches))
    for dev in domain.devices.all():
        for resource in handler(dev).resources(dev, ctx):
            if isinstance(resource, DirectoryResource):
                folders.add(resource.path)
            elif isinstance(resource, FileResource) and resource.create:
                needs.before.append(f"[ -e {shell_word(resource.path)} ] || : >{shell_word(resource.path)}")
    nvram = domain.os.nvram
    if nvram is not None and nvram.file and nvram.template:
        copy = f"cp -- {shell_word(nvram.template)} {shell_word(nvram.file)}"
        needs.before.append(f"[ -e {shell_word(nvram.file)} ] || {copy}")
    needs.before[:0] = [f"mkdir -p -- {shell_word(folder)}" for folder in sorted(folders)]


def memory_folders(switches: Iterable[Switch]) -> list[str]:
    """Return the folders of files that hold the guest's memory."""
    found: list[str] = []
    for switch in switches:
        if isinstance(switch, Object) and switch.props.get("qom-type") == "memory-backend-file":
            path = str(switch.props.get("mem-path"))
            found.append(path if "/hugepages" in path else path.rpartition("/")[0])
        elif isinstance(switch, Option) and switch.name == "mem-path" and switch.value:
            found.append(switch.value)
    return sorted({path for path in found if (path and not path.startswith("/dev/")) or "/hugepages" in path})


# ------------------------------------------------------------ the script


def shell_word(word: str) -> str:
    """Quote a word for a POSIX shell; stand-ins become variables in double quotes."""
    parts: list[str] = []
    end = 0
    for found in _STAND_IN.finditer(word):
        parts.append(_quoted(word[end : found.start()]))
        slash = found[0].startswith("/") and found[1] != "run"
        parts.append(("/" if slash else "") + f'"${found[1]}"')
        end = found.end()
    parts.append(_quoted(word[end:]))
    return "".join(parts) or "''"


def _quoted(text: str) -> str:
    if not text or _SAFE.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def write(domain: Domain, command: CommandLine, ctx: BuildContext, needs: Needs) -> str:
    """Write the script."""
    folder = f"{RUN}/{ctx.folder_name}"
    words = [[word.replace(folder, RUN) for word in switch.to_argv()] for switch in command.switches]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", domain.name or "")
    lines = [
        _HEAD.replace("@TITLE@", re.sub(r"\s", " ", domain.name or "")).replace("@NAME@", name[:20]),
        *(text.replace(folder, RUN) for text in needs.before),
        *_secret_lines(needs.secrets),
        *(f"export {key}={shell_word(value.replace(folder, RUN))}" for key, value in command.env.items()),
        _run(command.emulator, words, needs.redirections),
    ]
    return "\n".join(lines) + "\n"


def _secret_lines(secrets: Sequence[Secret]) -> list[str]:
    return [
        f'secret {shell_word(secret.name)} "${{{secret.variable}:-}}" {_quoted(secret.what) or "it"} '
        f"{secret.variable}"
        for secret in secrets
    ]


def _run(emulator: str, words: list[list[str]], redirections: list[str]) -> str:
    lines = [shell_word(emulator), *(" ".join(shell_word(word) for word in switch) for switch in words)]
    lines += ["${PAUSED:+-S}", '"$@"', *redirections]
    return " \\\n    ".join(lines) + " &\n" + _TAIL


_HEAD = """\
#!/bin/sh
# Starts the virtual machine '@TITLE@' and ends with it. Needs QEMU and, for taps, root; nothing else.
#
#   RUN_DIR=DIR   keep the monitor's socket and the like in DIR (default: a folder that is removed)
#   PAUSED=1      do not let the guest run before the monitor says so
#   further words are given to QEMU
#
# The QMP monitor listens on monitor.sock in the folder of the run.
set -eu
umask 077

die() { echo "$0: $*" >&2; exit 1; }

own=
if [ -n "${RUN_DIR:-}" ]; then run=$RUN_DIR; mkdir -p -- "$run"; else
    run=$(mktemp -d "${TMPDIR:-/tmp}/@NAME@.XXXXXX"); own=yes
fi
case $run in
    /*) ;;
    *) run=$PWD/$run ;;
esac
case $run in *[!A-Za-z0-9/._-]*) die "the folder '$run' has characters that QEMU would misread" ;; esac

undo_list=
helpers=
qemu=
undo() { undo_list="$1
$undo_list"; }

finish() {
    status=$?
    trap - EXIT
    set +e
    if [ -n "$qemu" ] && kill -TERM "$qemu" 2>/dev/null; then wait "$qemu"; fi
    for helper in $helpers; do kill -TERM "$helper" 2>/dev/null; done
    printf '%s' "$undo_list" | while IFS= read -r command; do [ -z "$command" ] || $command; done
    if [ -n "$own" ]; then rm -rf -- "$run"; fi
    exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

wait_for_socket() {
    left=100
    while [ ! -S "$1" ]; do
        left=$((left - 1)); [ "$left" -gt 0 ] || die "nothing listens on $1"
        sleep 0.1
    done
}

# secret NAME FILE WHAT VARIABLE: the value comes from FILE, or from whoever sits at the terminal
secret() {
    if [ -n "$2" ]; then cat -- "$2" >"$run/$1"; return; fi
    [ -t 0 ] || die "name a file with $3 in $4"
    printf 'Enter %s: ' "$3" >&2
    stty -echo; IFS= read -r value || :; stty echo; echo >&2
    printf '%s' "$value" >"$run/$1"
    value=
}
"""

_TAIL = """\
qemu=$!
status=0
wait "$qemu" || status=$?
qemu=
exit "$status\""""
