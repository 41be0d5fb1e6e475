"""Command lines: what is accepted, what is refused and how."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qvirt.cli.command import CommandError
from qvirt.cli.commands import COMMANDS
from qvirt.cli.commands.console import escape_byte
from qvirt.cli.commands.event import NAMES, describe, timestamp
from qvirt.cli.main import main, parse
from qvirt.client.events import Event
from qvirt.rpc import protocol
from tests.unit.client.fake_daemon import FakeDaemon

DOM = ("vm", bytes(range(16)), 3)


def test_arguments_by_place_and_by_name() -> None:
    for line in (
        ["start", "vm", "--paused"],
        ["start", "--domain", "vm", "--paused"],
        ["start", "--paused", "vm"],
    ):
        command, args = parse(line)
        assert (command.name, args.domain, args.paused, args.autodestroy) == ("start", "vm", True, False)
    _, args = parse(["domxml-to-native", "--format", "qemu-argv", "file.xml"])
    assert (args.format, args.xml) == ("qemu-argv", "file.xml")


def test_global_options_come_first() -> None:
    _, args = parse(["-c", "qemu:///x", "-r", "-q", "list", "--all"])
    assert (args.connect, args.readonly, args.quiet, args.all) == ("qemu:///x", True, True, True)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["start"], "error: command 'start' requires <domain> option"),
        (["foo"], "error: unknown command: 'foo'"),
        (["list", "--bogus"], "error: command 'list' doesn't support option --bogus"),
        (["list", "--al"], "error: command 'list' doesn't support option --al"),
        (["domstate", "a", "b"], "error: unexpected data 'b'"),
        (["domstate", "a", "--domain", "b"], "error: unexpected data 'a'"),
        (["event", "--timeout", "soon"], "invalid float value: 'soon'"),
        (["help", "foo"], "error: unknown command: 'foo'"),
    ],
)
def test_refusals(line: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line)
    assert caught.value.code == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("line", [["--help"], ["help"], ["-h"]])
def test_help_names_every_command(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name} " in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_help(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["help", command.name])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert command.help in text
    for argument in command.arguments:
        assert (f"<{argument.name}>" if argument.position else f"--{argument.name}") in text


def test_no_daemon(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["-c", f"qemu:///system?socket={tmp_path}/none", "list"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: failed to connect to the hypervisor\n"
        f"error: Failed to connect socket to '{tmp_path}/none': No such file or directory\n"
    )


async def against(daemon: FakeDaemon, directory: Path, *line: str) -> tuple[int | None, str]:
    async with asyncio.timeout(20), daemon.listening(directory) as uri:
        program = [sys.executable, "-m", "qvirt.cli.main", "-c", uri, *line]
        process = await asyncio.create_subprocess_exec(*program, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        return process.returncode, out.decode()


def test_domains_are_found_by_id_uuid_and_name(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    for name in ("DOMAIN_LOOKUP_BY_ID", "DOMAIN_LOOKUP_BY_UUID", "DOMAIN_LOOKUP_BY_NAME"):
        daemon.handlers[name] = lambda peer, call, key: (DOM,)
    uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    for number, text in enumerate(("3", uuid, "vm")):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert asyncio.run(against(daemon, directory, "domuuid", text)) == (0, f"{uuid}\n\n")
    looked = [call for call in daemon.calls if call[0].startswith("DOMAIN_LOOKUP")]
    assert looked == [
        ("DOMAIN_LOOKUP_BY_ID", (3,)),
        ("DOMAIN_LOOKUP_BY_UUID", (bytes(range(16)),)),
        ("DOMAIN_LOOKUP_BY_NAME", ("vm",)),
    ]


def test_escape_keys() -> None:
    assert escape_byte("^]") == b"\x1d"
    assert escape_byte("^a") == b"\x01"
    assert escape_byte("~") == b"~"
    for bad in ("", "^^^", "abc", "^1", "é"):
        with pytest.raises(CommandError, match="Invalid string"):
            escape_byte(bad)


def test_every_event_of_the_tables_is_described() -> None:
    sample = {"i": 1, "I": 1, "q": 5, "Q": 5, "d": 0.5}
    assert len(NAMES) == len(protocol.event_ids("domain"))
    for event_id in protocol.event_ids("domain").values():
        message = protocol.remote().by_number[event_id.callback].msg
        assert message
        values = message.decode(message.encode(_sample(message.layout, sample)))
        content: Any = values[-1] if message.fields[-1] == "msg" else _Named(message.fields, values)
        text = describe(Event("domain", event_id.number, event_id.name, _Named(("name",), ("vm",)), content))
        assert text.startswith(f"event '{NAMES[event_id.number]}' for domain 'vm'")


class _Named:
    def __init__(self, fields: tuple[str, ...], values: tuple[Any, ...]) -> None:
        self.__dict__.update(zip(fields, values, strict=True))


def _sample(type_: Any, numbers: dict[str, Any]) -> Any:
    match type(type_).__name__:
        case "Number":
            return numbers[type_.format]
        case "Text":
            return "text"
        case "Opaque":
            return bytes(type_.most)
        case "Maybe":
            return _sample(type_.item, numbers)
        case "Items":
            return [_sample(type_.item, numbers)]
        case "Fields":
            return tuple(_sample(field, numbers) for _, field in type_.fields)
        case _:
            kind, arm = type_.arms[0]
            return (kind, _sample(arm, numbers))


def test_timestamps_are_utc_with_milliseconds() -> None:
    assert timestamp(1.2345) == "1970-01-01 00:00:01.234+0000"


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "qvirt.cli.main", "event", "--list"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
