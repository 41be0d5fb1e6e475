"""qvirtd: the command line. What it starts is in `life`."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import qvirt
from qvirt.errors import QvirtError


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; libvirtd's options and ``--root``."""
    parser = argparse.ArgumentParser(
        prog="qvirtd",
        description="Serve libvirt's protocol for QEMU guests. As root it is qemu:///system, for any other "
        "user qemu:///session. SIGTERM ends the daemon and leaves the guests, SIGHUP reads the settings.",
    )
    parser.add_argument(
        "--root", metavar="DIR", type=Path, help="keep everything below DIR, in the foreground"
    )
    parser.add_argument("-d", "--daemon", action="store_true", help="go to the background once ready")
    parser.add_argument(
        "-t", "--timeout", metavar="SECS", type=int, help="end after SECS seconds without clients and guests"
    )
    parser.add_argument(
        "-f", "--config", metavar="FILE", type=Path, help="settings, instead of libvirtd.conf"
    )
    parser.add_argument(
        "-l",
        "--listen",
        action="store_true",
        help="listen to networks, too, as the settings say (listen_tls, listen_tcp)",
    )
    parser.add_argument(
        "--default-network",
        action="store_true",
        help="with --root: define the network 'default' at the first start, as the machine's own daemon does",
    )
    parser.add_argument("-p", "--pid-file", metavar="FILE", type=Path, help="write the process id here")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more in the log")
    parser.add_argument("-V", "--version", action="version", version=f"qvirtd {qvirt.__version__}")
    options = parser.parse_args(argv)
    if options.timeout is not None and options.timeout <= 0:
        parser.error("Invalid value for timeout")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; gives the exit status."""
    options = parse_arguments(argv)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    ready = _go_to_background() if options.daemon and not options.root else None
    # Nothing of what is imported is ever garbage: looking for it is a fifth of the time a start takes.
    gc.disable()
    from qvirt.daemon.life import Daemon

    try:
        Daemon(options, ready).serve()
    except QvirtError as error:
        print(f"qvirtd: {error}", file=sys.stderr)
        return 1
    return 0


def _go_to_background() -> int:
    """Fork; the parent waits for the child's word and exits. Gives the pipe to say it on."""
    readable, writable = os.pipe()
    if os.fork():
        os.close(writable)
        word = os.read(readable, 1)
        os._exit(0 if word else 1)
    os.close(readable)
    os.setsid()
    return writable


if __name__ == "__main__":
    sys.exit(main())
