"""A private D-Bus with a fake polkit on it, which answers as the test says and keeps what it was asked."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jeepney import HeaderFields, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from qvirt.record import Record

NAME = "org.freedesktop.PolicyKit1"

CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class Question(Record):
    """One question the authority was asked: who (kind and details of the subject), what, about what."""

    kind: str
    subject: dict[str, Any]
    action: str
    details: dict[str, str]
    flags: int


#: yes, no, a password is wanted ("challenge"), the person gave up ("dismissed"), no answer ("silent"), an
#: error
Answer = str


class Authority:
    """A bus of its own with the fake polkit on it. decide: answers a question; may be replaced."""

    def __init__(self, folder: Path) -> None:
        """folder: where the bus has its socket; short, and everybody may search it."""
        self.decide: Callable[[Question], Answer] = lambda _: "yes"
        self.asked: list[Question] = []
        self.address = f"unix:path={folder / 'bus'}"
        self._folder = folder
        self._bus: subprocess.Popen[str] | None = None
        self._connection: DBusConnection | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the bus and answer on it."""
        config = self._folder / "bus.conf"
        config.write_text(CONFIG.format(path=self._folder / "bus"))
        self._bus = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._bus.stdout
        if not self._bus.stdout.readline().strip():
            raise RuntimeError("dbus-daemon did not start")
        (self._folder / "bus").chmod(0o777)
        self._connection = open_dbus_connection(self.address)
        self._connection.send_and_get_reply(message_bus.RequestName(NAME))
        self._thread = threading.Thread(target=self._serve, args=(self._connection,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the bus, and all connections with it."""
        if self._connection is not None and self._thread is not None:
            self._connection.sock.shutdown(2)
            self._thread.join(10)
            self._connection.close()
            self._connection = None
        if self._bus is not None:
            assert self._bus.stdout
            self._bus.send_signal(signal.SIGTERM)
            self._bus.wait(30)
            self._bus.stdout.close()
            self._bus = None
            (self._folder / "bus").unlink(missing_ok=True)

    def take(self) -> list[Question]:
        """Give what was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked

    def _serve(self, connection: DBusConnection) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = connection.receive()
                header = message.header
                if header.message_type is not MessageType.method_call:
                    continue
                if header.fields.get(HeaderFields.member) != "CheckAuthorization":
                    connection.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))
                    continue
                (kind, subject), action, details, flags, _ = message.body
                question = Question(
                    kind, {key: value for key, (_, value) in subject.items()}, action, details, flags
                )
                self.asked.append(question)
                answer = self.decide(question)
                if answer == "error":
                    connection.send(
                        new_error(
                            message, f"{NAME}.Error.Failed", "s", (f"Action {action} is not registered",)
                        )
                    )
                elif answer != "silent":
                    result = {"polkit.dismissed": "true"} if answer == "dismissed" else {}
                    body = (answer == "yes", answer in ("challenge", "dismissed"), result)
                    connection.send(new_method_return(message, "(bba{ss})", (body,)))


@contextlib.contextmanager
def fake_polkit(folder: Path) -> Iterator[Authority]:
    """Run a private bus with a fake polkit."""
    authority = Authority(folder)
    try:
        authority.start()
        yield authority
    finally:
        authority.stop()
