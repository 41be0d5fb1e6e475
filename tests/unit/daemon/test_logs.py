"""Levels, filters and outputs of the log, and what becomes of a record in each output."""

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.daemon import log_outputs
from qvirt.daemon import logs as daemon_logs
from qvirt.daemon.log_outputs import Output, fields
from qvirt.daemon.logs import Logging, default_outputs, from_environment, parse_filters, parse_outputs
from qvirt.errors import InvalidArg, SystemError_


@pytest.fixture
def logs() -> Iterator[Logging]:
    """Give a logging that is taken away again."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = Logging()
    yield made
    made.stop()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "source", "level"),
    [
        ("", "qvirt.qmp.client", 3),
        ("1:qmp", "qvirt.qmp.client", 1),
        ("1:qmp", "qvirt.api.node", 3),
        ("4:qmp.client 1:qmp", "qvirt.qmp.client", 4),
        ("1:qemu", "qvirt.runtime.life.launch", 1),
        ("1:rpc", "qvirt.daemon.client", 1),
        ("1:event", "qvirt.runtime.events", 1),
        ("2:daemon*", "qvirt.daemon.client", 2),
    ],
)
def test_the_first_filter_that_fits_counts(logs: Logging, text: str, source: str, level: int) -> None:
    logs.configure(3, text, "")
    assert logs.level_of(source) == level * 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9:foo", "Invalid priority '9' for filter '9:foo'"),
        ("foo", "Malformed format for filter 'foo'"),
        ("1:", "Invalid match string ''"),
    ],
)
def test_filters_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InvalidArg, match=words):
        parse_filters(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stderr", "Malformed format for output 'stderr'"),
        ("5:stderr", "Invalid log priority '5' for log output '5:stderr'"),
        ("1:paper", "Invalid log destination 'paper' for log output '1:paper'"),
        ("1:file", "Log output '1:file' does not meet the format requirements"),
        ("1:stderr:x", "Log output '1:stderr:x' does not meet the format requirements"),
    ],
)
def test_outputs_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InvalidArg, match=words):
        parse_outputs(text)


def test_a_place_named_again_takes_the_last_level() -> None:
    assert [str(each) for each in parse_outputs("1:stderr 2:journald 3:stderr")] == ["3:stderr", "2:journald"]


def test_a_file_gets_what_reaches_its_level(logs: Logging, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    logs.configure(2, "1:loud", f"1:file:{one} 3:file:{other}")
    logs.start()
    logging.getLogger("loud").debug("heard", extra=fields(domain="web 1", nothing=None))
    logging.getLogger("quiet").debug("not heard")
    logging.getLogger("quiet").info("said")
    logging.getLogger("quiet").warning("shouted")
    logs.flush()
    lines = one.read_text().splitlines()
    assert [line.partition(" : ")[2].partition(" : ")[2] for line in lines] == [
        "heard domain='web 1'",
        "said",
        "shouted",
    ]
    assert other.read_text().endswith("shouted\n")
    assert len(other.read_text().splitlines()) == 1
    assert one.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_opened_changes_nothing(logs: Logging, tmp_path: Path) -> None:
    logs.configure(3, "1:a", f"1:file:{tmp_path}/log")
    with pytest.raises(SystemError_, match="failed to open /nonexistent/log"):
        logs.configure(1, "2:b", "1:file:/nonexistent/log")
    assert (logs.level, logs.filters_text, logs.outputs_text) == (3, "1:*a*", f"1:file:{tmp_path}/log")


def test_an_output_that_hangs_keeps_nobody_waiting(logs: Logging, tmp_path: Path) -> None:
    logs.configure(2, "", f"1:file:{tmp_path}/log")
    held, go = threading.Event(), threading.Event()
    (handler,) = logs._handlers

    def hang(record: logging.LogRecord) -> None:
        held.set()
        go.wait(10)

    handler.emit = hang  # type: ignore[method-assign]
    logs.start()
    log = logging.getLogger("x")
    log.error("first")
    assert held.wait(10)
    for _ in range(20_000):
        log.info("more")
    assert logs._lost > 0
    go.set()


class Reader:
    """Reads datagrams, as the journal and syslog do."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def read(self) -> bytes:
        return self.socket.recv(1 << 16)


def test_the_journal_gets_fields(logs: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    reader = Reader(path)
    monkeypatch.setattr(log_outputs, "JOURNAL", str(path))
    logs.configure(3, "", "1:journald")
    logging.getLogger("x").error("two\nlines", extra=fields(domain="web-1"))
    entry = reader.read()
    assert b"MESSAGE\n" + (9).to_bytes(8, "little") + b"two\nlines\n" in entry
    for line in (
        b"PRIORITY=3\n",
        b"SYSLOG_IDENTIFIER=qvirtd\n",
        b"LIBVIRT_SOURCE=x\n",
        b"QVIRT_DOMAIN=web-1\n",
    ):
        assert line in entry
    reader.socket.close()


def test_a_journal_that_comes_back_is_found(
    logs: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(log_outputs, "JOURNAL", str(path))
    logs.configure(3, "", "1:journald")
    logging.getLogger("x").error("nobody is there")
    for words in ("one", "two"):
        reader = Reader(path)
        logging.getLogger("x").error(words)
        assert f"MESSAGE={words}\n".encode() in reader.read()
        reader.socket.close()
        path.unlink()


def test_syslog_gets_a_line(logs: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    reader = Reader(path)
    monkeypatch.setattr(log_outputs, "SYSLOG", str(path))
    logs.configure(3, "", "1:syslog:me")
    logging.getLogger("x").warning("words", extra=fields(call="A"))
    line = reader.read().decode()
    assert line.startswith("<28>me[")
    assert line.endswith("]: words call=A")
    reader.socket.close()


def test_the_environment_is_libvirts() -> None:
    said = {"LIBVIRT_DEBUG": "error", "LIBVIRT_LOG_FILTERS": "1:a", "LIBVIRT_LOG_OUTPUTS": "1:stderr"}
    assert from_environment(said) == (4, "1:a", "1:stderr")
    assert from_environment({"LIBVIRT_DEBUG": "1"}) == (1, None, None)
    assert from_environment({}) == (None, None, None)


def test_without_outputs_the_foreground_has_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    found = default_outputs(2, background=False, privileged=True, folder=tmp_path)
    assert found == [Output(2, "stderr", "")]


def test_a_peers_words_make_no_record_of_their_own(logs: Logging, tmp_path: Path) -> None:
    """Nor do they speak to the terminal of who reads the log."""
    forged = "x\n2026-01-01 00:00:00.000+0000: 1: error : qvirt:1 : forged\r\x1b[2J\x9b2J\u2028"
    logs.configure(3, "", f"1:file:{tmp_path}/log")
    logging.getLogger("x").error("it said %s", forged, extra=fields(name=forged))
    text = (tmp_path / "log").read_text()
    assert [line for line in text.splitlines() if "forged" in line and not line.startswith("  ")] == []
    assert not set(text) & set("\r\x1b\x9b\u2028")
    assert "\\x1b[2J" in text


def test_who_causes_warnings_without_end_does_not_fill_the_log(
    logs: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure(3, "", f"1:file:{tmp_path}/log")
    monkeypatch.setattr(daemon_logs, "PERIOD", 3600.0)
    log = logging.getLogger("x")

    def refuse(peer: int) -> None:
        log.warning("%d is refused", peer)

    for peer in range(5000):
        refuse(peer)
    log.error("something else")
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == daemon_logs.ALIKE + 1
    assert lines[-1].endswith("something else")
    monkeypatch.setattr(daemon_logs, "PERIOD", 0.0)
    refuse(5000)
    said, again = (tmp_path / "log").read_text().splitlines()[-2:]
    assert f"{5000 - daemon_logs.ALIKE} more records of x:" in said
    assert again.endswith("5000 is refused")
