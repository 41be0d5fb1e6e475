"""``qvirt pki``: a set made from nothing, examined, and spoilt."""

from pathlib import Path

import pytest

from qvirt.cli.main import main


def pki(*words: str) -> int:
    return main(["-q", "pki", *words])


def test_a_set_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(tmp_path / "ca"), tmp_path / "admin"
    assert pki("init", "--dir", folder, "--name", "Mine") == 0
    assert (
        pki("issue", "server", "--dir", folder, "--name", "localhost", "--host", "::1", "--host", "a.b") == 0
    )
    assert (
        pki("issue", "client", "--dir", folder, "--out", str(out), "--name", "me", "--days", "9", "--rsa")
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "cacert.pem",
        "cacrl.pem",
        "clientcert.pem",
        "clientkey.pem",
    ]
    assert (out / "clientkey.pem").stat().st_mode & 0o777 == 0o600
    assert pki("check", "--dir", folder) == 0
    text = capsys.readouterr().out
    assert "for clients that connect to localhost, ::1, a.b" in text
    assert pki("check", "client", "--dir", str(out)) == 0
    assert pki("revoke", str(out / "clientcert.pem"), "--dir", folder) == 0
    (out / "cacrl.pem").write_bytes((tmp_path / "ca/cacrl.pem").read_bytes())
    assert pki("check", "client", "--dir", str(out)) == 1
    assert "The certificate has been revoked." in capsys.readouterr().out
    (tmp_path / "ca/serverkey.pem").write_bytes((out / "clientkey.pem").read_bytes())
    assert pki("check", "server", "--dir", folder) == 1
    assert "is not the one of the certificate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("magic",), "unknown action 'magic', expected one of init"),
        (("issue",), "issue needs 'server' or 'client'"),
        (("issue", "server"), "issue server needs --name: a host's name"),
        (("issue", "server", "--name", "x"), "there is no authority in"),
        (("issue", "client", "--name", "x", "--days", "0"), "'0' is no number of days"),
        (("revoke",), "revoke needs the file"),
        (("check",), "no certificates are there"),
    ],
)
def test_mistakes(
    words: tuple[str, ...], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--days" in words:
        assert pki("init", "--dir", str(tmp_path)) == 0
    assert pki(*words, "--dir", str(tmp_path)) == 1
    assert error in capsys.readouterr().err
