"""``qvirt pki``: a working set of certificates for TLS between clients and daemons, made and examined.

Without ``--dir`` the authority lives in /etc/pki/CA, and certificates go where libvirt looks for them. With
it, all is in one folder, which a client can name as ``pkipath=``.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qvirt.cli.command import Argument, Command, CommandError, Context, flag, option, place
from qvirt.errors import QvirtError
from qvirt.net import places
from qvirt.net.places import Places, Role

if TYPE_CHECKING:
    from qvirt.net.authority import Authority

_CA: Final = places.SYSTEM / "CA"
_ROLES: Final[tuple[Role, ...]] = ("server", "client")


async def pki(context: Context) -> None:
    """Do what the first word says."""
    args = context.args
    actions = {"init": _init, "issue": _issue, "revoke": _revoke, "check": _check}
    action = actions.get(args.action)
    if action is None:
        raise CommandError(f"unknown action '{args.action}', expected one of {', '.join(actions)}")
    try:
        action(context, args)
    except QvirtError as error:
        raise CommandError(f"pki {args.action} failed", error) from error
    except OSError as error:
        raise CommandError(f"pki {args.action} failed: '{error.filename}': {error.strerror}") from error


def _folder(args: Any) -> Path:
    return Path(args.dir) if args.dir else _CA


def _days(args: Any, default: int) -> int:
    if args.days is None:
        return default
    if not args.days.isdigit() or not int(args.days):
        raise CommandError(f"--days: '{args.days}' is no number of days")
    return int(args.days)


def _load(args: Any) -> "Authority":
    from qvirt.net.authority import Authority

    return Authority.load(_folder(args))


def _init(context: Context, args: Any) -> None:
    from qvirt.net.authority import CA_DAYS, Authority

    name = args.name or f"libvirt authority of {os.uname().nodename}"
    authority = Authority.create(_folder(args), name, use_rsa=args.rsa, days=_days(args, CA_DAYS))
    context.output.line(f"Authority '{name}' is in {authority.folder}; keep its cakey.pem to yourself")


def _issue(context: Context, args: Any) -> None:
    from qvirt.net.authority import DAYS, write_pair, write_public

    role = args.what
    if role not in _ROLES:
        raise CommandError(f"issue needs 'server' or 'client', not '{role or ''}'")
    if not args.name:
        raise CommandError(f"issue {role} needs --name: a {'host' if role == 'server' else 'client'}'s name")
    authority = _load(args)
    cert, key = authority.issue(
        role,
        args.name,
        hosts=args.host or (),
        organization=args.organization,
        use_rsa=args.rsa,
        days=_days(args, DAYS),
    )
    target = _target(args, role)
    assert target.cert is not None and target.key is not None  # noqa: S101, PT018 - the places are complete
    write_pair(target.cert, target.key, cert, key)
    for mine, theirs in (("cacert.pem", target.ca), ("cacrl.pem", target.crl)):
        source = authority.folder / mine
        if theirs is not None and theirs != source and source.exists():
            theirs.parent.mkdir(parents=True, exist_ok=True)
            write_public(theirs, source.read_bytes())
    context.output.line(f"Certificate of {role} '{args.name}' is {target.cert}, its key {target.key}")


def _target(args: Any, role: Role) -> Places:
    if args.out:
        return places.flat(role, Path(args.out))
    return places.flat(role, Path(args.dir)) if args.dir else places.system(role)


def _revoke(context: Context, args: Any) -> None:
    from qvirt.net import x509

    if not args.what:
        raise CommandError("revoke needs the file of the certificate")
    authority = _load(args)
    authority.revoke(*x509.read(Path(args.what), "revoked certificate"))
    crl = authority.folder / "cacrl.pem"
    context.output.line(f"{args.what} is on the list {crl}; bring it to the servers, and send them SIGHUP")


def _check(context: Context, args: Any) -> None:
    """Examine what is there for server and client; fails when something is wrong, or nothing is there."""
    from qvirt.net import x509

    wrong = found = 0
    for role in _ROLES:
        if args.what and args.what != role:
            continue
        chosen = places.flat(role, Path(args.dir)) if args.dir else places.system(role)
        assert chosen.cert is not None and chosen.key is not None  # noqa: S101, PT018 - the places are complete
        if not chosen.cert.exists() and not args.what:
            context.output.line(f"{role}: no certificate {chosen.cert}")
            continue
        found += 1
        try:
            crl = chosen.crl if chosen.crl and chosen.crl.exists() else None
            x509.check_set(chosen.cert, chosen.ca, crl, role)
            x509.check_key(chosen.cert, chosen.key)
        except QvirtError as error:
            wrong += 1
            context.output.line(f"{role}: {error}")
            continue
        for line in x509.describe(chosen.cert, role):
            context.output.line(f"{role}: {line}")
    if wrong or not found:
        raise CommandError("these certificates will not do" if found else "no certificates are there")


COMMANDS: Final = (
    Command(
        "pki",
        "make and examine certificates for TLS",
        pki,
        (
            place("action", "init, issue, revoke or check"),
            place("what", "of issue and check: server or client; of revoke: a file", required=False),
            option("dir", "the folder of the authority and of everything else"),
            option("out", "of issue: the folder for certificate, key and the authority's certificate"),
            option("name", "the authority's name, the server's host name, the client's name"),
            Argument("host", "another name or address the server is reached by", several=True),
            option("organization", "the organization the client or server belongs to"),
            option("days", "days until it has to be renewed"),
            flag("rsa", "make RSA keys, not keys on a curve"),
        ),
    ),
)
