"""What tests of remote access need: ports that are theirs, certificates, a daemon that listens."""

import contextlib
import datetime
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qvirt.net.authority import Authority, write_pair
from tests.support.daemon import Daemon, make_root, wait_until


class Port:
    """A port of the loopback that nobody else gets: bound here, but not listened on, until the block ends.

    address: of the loopback, in either family.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        # A listener that sets this, too, may have the port, and ephemeral ports keep off it.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind((address, 0))
        self.number: int = self._sock.getsockname()[1]

    def __enter__(self) -> "Port":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


class Pki:
    """Certificates in folders: the server's, and clients' of every kind, each usable as `pkipath=`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = folder / "server"
        self.authority = Authority.create(folder / "ca", "Test authority")
        self.issue_server()

    def issue_server(self, **how: Any) -> None:
        """Give the server a new certificate."""
        how.setdefault("hosts", ["127.0.0.1"])
        by = how.pop("by", self.authority)
        self._write(self.server, "server", by.issue("server", "localhost", **how), by)

    def client(self, name: str, *, by: Authority | None = None, revoked: bool = False, **how: Any) -> Path:
        """Give a client its folder."""
        by = by or self.authority
        pair = by.issue("client", name, organization="Tests", **how)
        if revoked:
            by.revoke(pair[0])
        return self._write(self.folder / name, "client", pair, by)

    def below(self, name: str) -> Authority:
        """Make an authority that the one everybody knows vouches for."""
        return Authority.create(self.folder / f"{name}-ca", name, by=self.authority)

    def stranger(self) -> Authority:
        """Make an authority nobody knows."""
        return Authority.create(self.folder / "stranger-ca", "Strangers' authority")

    def nobody(self) -> Path:
        """Give the folder of a client that has no certificate."""
        folder = self.folder / "nobody"
        folder.mkdir()
        shutil.copy(self.authority.folder / "cacert.pem", folder)
        return folder

    def _write(self, folder: Path, role: str, pair: Any, by: Authority) -> Path:
        folder.mkdir(exist_ok=True)
        cert = folder / f"{role}cert.pem"
        write_pair(cert, folder / f"{role}key.pem", *pair)
        if by.cert.issuer != by.cert.subject:
            # Nobody knows that one: the chain goes along.
            cert.write_bytes(cert.read_bytes() + (by.folder / "cacert.pem").read_bytes())
        shutil.copy(self.authority.folder / "cacert.pem", folder)
        return folder

    def settings(self, *, crl: bool = True) -> str:
        """Give the lines of libvirtd.conf that name the server's files."""
        files = {"ca_file": "cacert.pem", "cert_file": "servercert.pem", "key_file": "serverkey.pem"}
        lines = [f'{name} = "{self.server / file}"' for name, file in files.items()]
        if crl:
            lines.append(f'crl_file = "{self.authority.folder / "cacrl.pem"}"')
        return "\n".join(lines) + "\n"


def days_from_now(days: float) -> datetime.datetime:
    """Give a moment."""
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


@contextlib.contextmanager
def listening_daemon(settings: str) -> Iterator[Daemon]:
    """Run a private daemon that listens to networks with these settings."""
    daemon = Daemon(make_root(), "--listen", "--verbose")
    try:
        write_settings(daemon, settings)
        yield daemon.start()
    finally:
        daemon.clean()


def wait_for_log(daemon: Daemon, start: int, words: str, count: int = 1) -> None:
    """Wait until words stand in a daemon's log so many times, behind a place in it."""
    wait_until(
        lambda: daemon.log.read_text()[start:].count(words) >= count, f"the log says {count} times: {words}"
    )
    assert daemon.log.read_text()[start:].count(words) == count


def write_settings(daemon: Daemon, settings: str, address: str = "127.0.0.1") -> None:
    """Write the settings of a daemon that is not started yet, or is to read them anew."""
    path = daemon.root / "etc/libvirt/libvirtd.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'listen_addr = "{address}"\n{settings}')
