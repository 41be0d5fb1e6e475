"""``qvirt takeover``: libvirtd's guests change over to qvirtd, or back, without noticing.

Both daemons keep the same files and neither ends its guests when it ends itself, so a change of daemons is
all there is to it. What could go wrong is looked for before; if the new daemon does not serve, the one that
was there is started again.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from qvirt.errors import InternalError, OperationFailed, QvirtError
from qvirt.host.persist import is_leftover
from qvirt.host.proc import stat_fields
from qvirt.record import Record
from qvirt.runtime.foreign.takeover import Finding, examine, examine_ours, models_here
from qvirt.runtime.paths import Paths
from qvirt.runtime.state import read_status

#: seconds a daemon gets to end, and to serve
END_DEADLINE: Final = 30.0
START_DEADLINE: Final = 90.0

#: what serves the driver of QEMU, by the name of the program
_LIBVIRT: Final = ("libvirtd", "virtqemud")
_OURS: Final = ("qvirtd", "qvirt.daemon.main")


class Daemon(Record):
    """The daemon that serves a tree. words: its command line."""

    pid: int
    words: list[str]

    def is_one_of(self, names: Sequence[str]) -> bool:
        """Tell whether it is a program of these."""
        return any(os.path.basename(word) in names for word in self.words[:4])

    @property
    def unit(self) -> str | None:
        """The service it is, of a service manager."""
        try:
            text = Path(f"/proc/{self.pid}/cgroup").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        units = [part for part in text.strip().split("/") if part.endswith(".service")]
        return units[-1] if units and self.words and _parent(self.pid) == 1 else None


def find_daemon(paths: Paths) -> Daemon | None:
    """Return who serves a tree now, None when nobody does."""
    try:
        pid = int((paths.run / "driver.pid").read_text(encoding="ascii").strip() or 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
    except (OSError, ValueError):
        return None
    found = Daemon(pid, words)
    return found if found.is_one_of((*_LIBVIRT, *_OURS)) else None


def look(paths: Paths, *, back: bool) -> list[Finding]:
    """Examine all guests. back: those that libvirtd is to take. Raises what `models_here` raises."""
    found: list[Finding] = []
    models = () if back else models_here(paths)
    for path in sorted(paths.run.glob("*.xml")):
        if is_leftover(path):
            continue
        try:
            status = read_status(path.read_text("utf-8", "surrogateescape"), str(path))
        except (QvirtError, OSError) as error:
            found.append(Finding(path.stem, [f"its status file cannot be read: {error}".split("\n")[0]]))
            continue
        # a guest that was left alone is still the other's
        if (status.version != 0) is back:
            found.append(examine_ours(status) if back else examine(status, models))
    return found


def end(daemon: Daemon) -> None:
    """End a daemon; its guests go on. Raises OperationFailed."""
    try:
        fd = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(END_DEADLINE * 1000):
            raise OperationFailed(
                f"{daemon.words[0]} (pid {daemon.pid}) has not ended within {END_DEADLINE:g} s"
            )
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def start(words: Sequence[str], paths: Paths, log: Path) -> None:
    """Start a daemon that stays when we go, and wait until it serves. Raises OperationFailed."""
    socket = paths.sockets / "libvirt-sock"
    socket.unlink(missing_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    until = time.monotonic() + START_DEADLINE
    while not (socket.exists() and (found := find_daemon(paths)) is not None and found.pid == process.pid):
        if process.poll() is not None:
            raise OperationFailed(f"{words[0]} ended with status {process.returncode}; '{log}' says why")
        if time.monotonic() > until:
            process.terminate()
            raise OperationFailed(f"{words[0]} does not serve within {START_DEADLINE:g} s; see '{log}'")
        time.sleep(0.02)


def change(paths: Paths, new: Sequence[str], old: Daemon | None) -> None:
    """Put one daemon in the place of another. Raises OperationFailed when the old one serves again."""
    if old is not None:
        unit = old.unit
        if unit is not None:
            raise OperationFailed(
                f"{old.words[0]} (pid {old.pid}) is the service {unit}, which would be started again: "
                f"stop it with its sockets (systemctl stop {unit} and what 'systemctl list-sockets' shows of "
                "it), and start the other daemon; guests go on meanwhile"
            )
        end(old)
    log = paths.log / "takeover.log"
    try:
        start(new, paths, log)
    except (OperationFailed, OSError) as error:
        if old is None:
            raise
        start([word for word in old.words if word not in ("-d", "--daemon")], paths, log)
        raise OperationFailed(
            f"{error.detail if isinstance(error, OperationFailed) else error}; {old.words[0]} serves again"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit status: 0 when all guests are ready, or have changed over."""
    options = _options(argv)
    root: Path | None = options.root
    paths = Paths.root(root) if root else Paths.system() if os.geteuid() == 0 else _session()
    try:
        found = look(paths, back=options.back)
    except InternalError as error:
        print(f"takeover: qvirtd would not start: {error.detail}", file=sys.stderr)
        return 1
    blocked = [one for one in found if one.obstacles]
    for one in found:
        print(f"{one.name}: {'ready' if not one.obstacles else 'not ready'}")
        for text in one.obstacles:
            print(f"    in the way: {text}")
        for text in one.notes:
            print(f"    note: {text}")
    if options.check:
        print(f"{len(found)} guest(s), {len(blocked)} with something in the way")
        return 1 if blocked else 0
    if blocked and options.back:
        print("nothing is changed: libvirtd would end what it cannot go on with", file=sys.stderr)
        return 1
    if blocked and not options.leave:
        print("nothing is changed; --leave goes on, and leaves alone what is not ready", file=sys.stderr)
        return 1
    try:
        _run(options, paths)
    except (OperationFailed, OSError) as error:
        print(f"takeover: {error.detail if isinstance(error, OperationFailed) else error}", file=sys.stderr)
        return 1
    print(f"{len(found) - len(blocked)} guest(s) changed over")
    return 0


def _run(options: argparse.Namespace, paths: Paths) -> None:
    daemon = find_daemon(paths)
    wanted, other = (_LIBVIRT, _OURS) if options.back else (_OURS, _LIBVIRT)
    if daemon is not None and not daemon.is_one_of(other):
        raise OperationFailed(f"{daemon.words[0]} (pid {daemon.pid}) serves these guests already")
    if options.daemon:
        new = [options.daemon]
    elif options.back:
        new = ["/usr/sbin/libvirtd"]
    else:
        new = [sys.executable, "-m", "qvirt.daemon.main"]
        if options.root:
            new += ["--root", str(options.root)]
    if options.back and options.root:
        raise OperationFailed(
            "libvirtd serves no folder of its own: give guests back on the machine's own tree"
        )
    if not any(os.path.basename(word) in wanted for word in new):
        raise OperationFailed(f"'{new[0]}' is none of {', '.join(wanted)}")
    change(paths, new, daemon)


def _session() -> Paths:
    return Paths.session(os.environ, os.geteuid())


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="qvirt takeover")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--back", action="store_true")
    parser.add_argument("--leave", action="store_true")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--daemon")
    return parser.parse_args(argv)


def _parent(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[1]) if fields is not None else 0


if __name__ == "__main__":
    sys.exit(main())
