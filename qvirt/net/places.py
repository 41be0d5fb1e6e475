"""Where certificates, keys and revocation lists are, for servers and clients, by libvirt's rules.

The system's are in /etc/pki; an ordinary user's own in ~/.pki/libvirt come first. `pkipath=` names one folder
for all of a client's. (https://libvirt.org/kbase/tlscerts.html)
"""

import os
from pathlib import Path
from typing import Final, Literal

from qvirt.errors import SystemError_
from qvirt.record import Record

Role = Literal["server", "client"]

SYSTEM: Final = Path("/etc/pki")
MISSING: Final = 2  # ENOENT


class Places(Record):
    """Files of one end. cert, key: None where a client has none; crl: None where there is no list."""

    ca: Path
    cert: Path | None
    key: Path | None
    crl: Path | None = None


def system(role: Role, pki: Path = SYSTEM) -> Places:
    """Give where a machine's files are; they need not be there."""
    own = pki / "libvirt"
    return Places(
        ca=pki / "CA/cacert.pem",
        cert=own / f"{role}cert.pem",
        key=own / f"private/{role}key.pem",
        crl=pki / "CA/cacrl.pem",
    )


def flat(role: Role, folder: Path) -> Places:
    """Give the files' places in a folder that holds them all."""
    return Places(
        ca=folder / "cacert.pem",
        cert=folder / f"{role}cert.pem",
        key=folder / f"{role}key.pem",
        crl=folder / "cacrl.pem",
    )


def find_client(pkipath: str | None, *, euid: int, home: str | None) -> Places:
    """Choose a client's files.

    Its own certificate may be missing, the server then decides.
    Raises SystemError_ in libvirt's words when a file that must be there is not.
    """
    if pkipath:
        chosen = flat("client", Path(pkipath))
        _require(chosen.ca, "CA certificate")
        return _only_existing(chosen)
    places = system("client")
    if euid != 0 and home:
        own = flat("client", Path(home, ".pki/libvirt"))
        pair = own if _there(own.cert) and _there(own.key) else places
        places = Places(
            ca=own.ca if _there(own.ca) else places.ca,
            cert=pair.cert,
            key=pair.key,
            crl=own.crl if _there(own.crl) else places.crl,
        )
    _require(places.ca, "CA certificate")
    return _only_existing(places)


def check_server(places: Places) -> Places:
    """Leave out a revocation list that is not there; raises SystemError_ for another missing file."""
    _require(places.ca, "CA certificate")
    _require(places.cert, "server certificate")
    _require(places.key, "server key")
    return _only_existing(places)


def _only_existing(places: Places) -> Places:
    whole = _there(places.cert) and _there(places.key)
    return Places(
        ca=places.ca,
        cert=places.cert if whole else None,
        key=places.key if whole else None,
        crl=places.crl if _there(places.crl) else None,
    )


def _there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _require(path: Path | None, what: str) -> None:
    if path is None or not path.exists():
        missing = OSError(MISSING, os.strerror(MISSING))
        raise SystemError_(f"Cannot read {what} '{path}'", missing, domain=7)
