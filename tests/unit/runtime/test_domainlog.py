"""Logs of domains: what becomes of those that grow."""

import os
from pathlib import Path

import pytest

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
