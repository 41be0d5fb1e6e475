"""Secrets through the stock clients: definitions, lists, values and events."""

import pytest

from tests.support.daemon import Daemon

pytestmark = pytest.mark.virsh

UUID = "6dd3e4a5-1d76-44ce-961f-f119f5aad9{:02x}"


def define(daemon: Daemon, n: int, *, attributes: str = "") -> str:
    path = daemon.root / "secret.xml"
    uuid = UUID.format(n)
    path.write_text(
        f"<secret {attributes}><uuid>{uuid}</uuid>"
        f"<usage type='iscsi'><target>target {n}</target></usage></secret>"
    )
    daemon.virsh("secret-define", str(path))
    return uuid


def set_value(daemon: Daemon, uuid: str, value: bytes) -> None:
    path = daemon.root / "value"
    path.write_bytes(value)
    daemon.virsh("secret-set-value", uuid, "--file", str(path), "--plain")


def test_a_secret_and_its_value_outlive_the_daemon(own_daemon: Daemon) -> None:
    uuid = define(own_daemon, 1)
    missing = own_daemon.virsh_run("secret-get-value", uuid)
    assert f"Secret not found: secret '{uuid}' does not have a value" in missing.stderr
    set_value(own_daemon, uuid, b"open sesame")
    own_daemon.kill()
    own_daemon.start()
    assert own_daemon.virsh("secret-get-value", uuid, "--plain") == "open sesame"
    assert own_daemon.virsh("secret-list").split() == [uuid, "iscsi", "target", "1"]
    own_daemon.virsh("secret-undefine", uuid)
    gone = own_daemon.virsh_run("secret-dumpxml", uuid)
    assert f"Secret not found: no secret with matching uuid '{uuid}'" in gone.stderr
    assert not list((own_daemon.root / "etc/libvirt/secrets").iterdir())


def test_a_private_value_is_given_to_nobody(daemon: Daemon) -> None:
    uuid = define(daemon, 2, attributes="private='yes' ephemeral='yes'")
    set_value(daemon, uuid, b"x")
    refused = daemon.virsh_run("secret-get-value", uuid)
    assert "error: Invalid secret: secret is private" in refused.stderr
    assert uuid in daemon.virsh("secret-list", "--private", "--ephemeral")
    assert uuid not in daemon.virsh("secret-list", "--no-private")
    assert uuid not in daemon.virsh("secret-list", "--no-ephemeral")
    # only those who may write learn a value at all
    open_one = define(daemon, 3)
    set_value(daemon, open_one, b"x")
    refused = daemon.virsh_run("secret-get-value", open_one, readonly=True)
    assert "read only access prevents virSecretGetValue" in refused.stderr


def test_events_come_in_order(daemon: Daemon) -> None:
    uuid = UUID.format(4)
    seen = daemon.python(f"""
import libvirt, time
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open({daemon.uri!r})
seen = []
for number, callback in (
    (libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, lambda c, s, event, detail, x: seen.append((s.usageID(), event))),
    (libvirt.VIR_SECRET_EVENT_ID_VALUE_CHANGED, lambda c, s, x: seen.append((s.usageID(), "value"))),
):
    connection.secretEventRegisterAny(None, number, callback, None)
secret = connection.secretDefineXML(
    "<secret><uuid>{uuid}</uuid><usage type='tls'><name>for me</name></usage></secret>"
)
secret.setValue(b"x")
secret.undefine()
end = time.monotonic() + 20
while len(seen) < 3 and time.monotonic() < end:
    libvirt.virEventRunDefaultImpl()
print(seen)
""")
    assert seen.strip().splitlines()[-1] == "[('for me', 0), ('for me', 'value'), ('for me', 1)]"
