"""Logs of domains: what becomes of those that grow."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.switches import CommandLine
from qvirt.runtime import domainlog


def test_logs_that_grow_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domainlog, "MAX_SIZE", 100)
    log, small, missing = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c.log"
    small.write_text("few words")
    with log.open("ab", buffering=0) as qemu:
        for turn in range(5):
            qemu.write(b"%d" % turn * 300)
            domainlog.bound([log, small, missing])
            qemu.write(b"more")
            assert log.read_bytes() == b"more"
            assert (tmp_path / "a.log.0").read_bytes() == (b"%d" % turn * 300)[:100]
            os.truncate(log, 0)
    found = {path.name: path.read_bytes()[:1] for path in tmp_path.iterdir()}
    assert found == {"a.log": b"", "a.log.0": b"4", "a.log.1": b"3", "a.log.2": b"2", "b.log": b"f"}
    assert (tmp_path / "a.log.0").stat().st_mode & 0o777 == 0o600


def test_the_last_words_are_found_in_a_log_that_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("x" * 1000)
    log = domainlog.DomainLog(path)
    log._begin = 1000
    os.truncate(path, 0)
    os.write(log.fd, b"cannot do that\n")
    assert log.tail() == "cannot do that"
    log.close()


def test_a_log_that_cannot_be_set_aside_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(domainlog, "MAX_SIZE", 100)
    link, honest, secret = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "secret"
    secret.write_bytes(b"s" * 300)
    honest.write_bytes(b"h" * 300)
    link.symlink_to(secret)
    domainlog.bound([link, honest])
    assert secret.read_bytes() == b"s" * 300
    assert honest.read_bytes() == b""
    assert f"'{link}' cannot be bounded" in caplog.text


def test_a_command_line_that_does_not_fit_on_the_disk_is_no_reason_not_to_start() -> None:
    log = domainlog.DomainLog(Path("/dev/full"))
    caps = cast(EmulatorCaps, SimpleNamespace(version=(9, 0, 0), package=""))
    log.starting(CommandLine("/q", []), {}, caps, "1")
    log.close()


def test_what_a_terminal_would_obey_is_shown_instead() -> None:
    said = domainlog.legible(b"\x1b]0;owned\x07 a\0b\xff\r\n\tnext\r\xc2\x9b31m\n\n")
    assert said == "\\x1b]0;owned\\x07 a\\x00b\N{REPLACEMENT CHARACTER}\n\tnext\\x0d\\x9b31m"
