"""Secrets: what is kept on disk and what is not, what clashes, which value a document gets."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qvirt.drivers.secret.driver import Secrets
from qvirt.drivers.secret.events import SecretEvent, SecretLifecycle, SecretValueChanged
from qvirt.errors import InternalError, InvalidArg, NoSecret, QvirtError, SystemError_
from qvirt.host.persist import FileWorker

UUID = "6dd3e4a5-1d76-44ce-961f-f119f5aad9{:02x}"


def document(n: int, usage: str = "", attributes: str = "") -> str:
    return f"<secret {attributes}><uuid>{UUID.format(n)}</uuid>{usage}</secret>"


def target(name: str) -> str:
    return f"<usage type='iscsi'><target>{name}</target></usage>"


def with_secrets(folder: Path, work: Callable[[Secrets], Awaitable[None]]) -> None:
    async def run() -> None:
        files = FileWorker()
        try:
            await work(await Secrets.open(folder, files))
        finally:
            await files.close()

    asyncio.run(run())


def test_a_secret_is_kept_as_libvirt_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    async def keep(secrets: Secrets) -> None:
        kept = await secrets.define(document(1, target("t&amp;1")))
        await secrets.set_value(kept, b"a\0b")

    async def read(secrets: Secrets) -> None:
        assert secrets.value("iscsi", UUID.format(1), None) == b"a\0b"
        assert secrets.value("iscsi", None, "t&1") == b"a\0b"

    with_secrets(folder, keep)
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert (folder / f"{UUID.format(1)}.xml").read_text() == (
        f"<secret ephemeral='no' private='no'>\n  <uuid>{UUID.format(1)}</uuid>\n"
        "  <usage type='iscsi'>\n    <target>t&amp;1</target>\n  </usage>\n</secret>\n"
    )
    value = folder / f"{UUID.format(1)}.base64"
    assert value.read_bytes() == base64.b64encode(b"a\0b")
    assert value.stat().st_mode & 0o7777 == 0o600
    with_secrets(folder, read)


def test_an_ephemeral_one_is_never_on_disk(tmp_path: Path) -> None:
    async def work(secrets: Secrets) -> None:
        kept = await secrets.define(document(1, target("t")))
        await secrets.set_value(kept, b"v")
        assert len(list(tmp_path.iterdir())) == 2
        kept = await secrets.define(document(1, target("t"), "ephemeral='yes'"))
        assert not list(tmp_path.iterdir())
        await secrets.set_value(kept, b"w")
        assert not list(tmp_path.iterdir())
        assert secrets.value("iscsi", None, "t") == b"w"
        # what was only in memory is written when it shall be kept
        await secrets.define(document(1, target("t")))
        assert (tmp_path / f"{UUID.format(1)}.base64").read_bytes() == base64.b64encode(b"w")
        await secrets.undefine(kept)
        assert not list(tmp_path.iterdir())

    with_secrets(tmp_path, work)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((1, target("t")), (2, target("t")), "already defined for use with t"),
        ((1, target("t")), (1, target("u")), "is already defined for use with t"),
        ((1, ""), (1, target("u")), r"is already defined for use with \(null\)"),
        ((1, target("t"), "private='yes'"), (1, target("t")), "cannot change private flag"),
    ],
)
def test_what_clashes_changes_nothing(
    tmp_path: Path, first: tuple[int, str], second: tuple[int, str], said: str
) -> None:
    async def work(secrets: Secrets) -> None:
        before = (await secrets.define(document(*first))).document.to_xml()
        with pytest.raises(InternalError, match=said):
            await secrets.define(document(*second))
        (kept,) = secrets
        assert kept.document.to_xml() == before
        assert [path.read_text() for path in tmp_path.iterdir()] == [before]

    with_secrets(tmp_path, work)


def test_which_value_a_document_gets(tmp_path: Path) -> None:
    async def work(secrets: Secrets) -> None:
        for n, usage in enumerate((target("t"), "", "<usage type='ceph'><name>t</name></usage>")):
            kept = await secrets.define(document(n, usage))
            if n < 2:
                await secrets.set_value(kept, b"%d" % n)
        assert secrets.value("ceph", UUID.format(1), None) == b"1"  # one for nothing is good for all
        with pytest.raises(InvalidArg, match="is of type 'iscsi' not expected 'volume' type"):
            secrets.value("volume", UUID.format(0), None)
        with pytest.raises(NoSecret, match="does not have a value"):
            secrets.value("ceph", None, "t")
        with pytest.raises(NoSecret, match="no secret with matching usage 'x'"):
            secrets.value("iscsi", None, "x")
        with pytest.raises(NoSecret, match="no secret with matching uuid"):
            secrets.value("iscsi", UUID.format(9), None)

    with_secrets(tmp_path, work)


def test_a_value_for_a_secret_that_is_made_anew_meanwhile(tmp_path: Path) -> None:
    async def work(secrets: Secrets) -> None:
        old = await secrets.define(document(1, target("t1")))
        await asyncio.gather(
            secrets.undefine(old), secrets.define(document(1, target("t1"))), secrets.set_value(old, b"v")
        )
        assert secrets.value("iscsi", UUID.format(1), None) == b"v"

    with_secrets(tmp_path, work)


def test_who_wants_to_know_is_told(tmp_path: Path) -> None:
    told: list[SecretEvent] = []

    async def work(secrets: Secrets) -> None:
        secrets.events.subscribe(told.append)
        kept = await secrets.define(document(1, target("t")))
        await secrets.set_value(kept, b"v")
        await secrets.undefine(kept)
        with pytest.raises(NoSecret):
            await secrets.undefine(kept)
        with pytest.raises(NoSecret):
            await secrets.set_value(kept, b"w")

    with_secrets(tmp_path, work)
    one = (UUID.format(1), 3, "t")
    assert told == [SecretLifecycle(*one, 0), SecretValueChanged(*one), SecretLifecycle(*one, 1)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{UUID.format(2)}.xml", document(1)),
        (f"{UUID.format(2)}.xml", "<secret"),
        ("words.xml", document(1)),
    ],
)
def test_what_cannot_be_read_is_left_alone(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    async def work(secrets: Secrets) -> None:
        assert not list(secrets)
        (report,) = secrets.reports
        assert name in report

    with_secrets(tmp_path, work)
    assert (tmp_path / name).read_text() == text


def test_a_value_that_is_a_link_or_no_base64_is_not_followed(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"{UUID.format(n)}.xml").write_text(document(n))
    (tmp_path / f"{UUID.format(1)}.base64").symlink_to("/etc/hostname")
    (tmp_path / f"{UUID.format(2)}.base64").write_text("no base64!")

    async def work(secrets: Secrets) -> None:
        assert not list(secrets)
        assert len(secrets.reports) == 2

    with_secrets(tmp_path, work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    async def work(secrets: Secrets) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(SystemError_):
            await secrets.define(document(1))
        assert not list(secrets)

    with_secrets(tmp_path, work)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("<secret><usage type='volume'/></secret>", "volume usage specified, but volume path is missing"),
        ("<secret><usage type='ceph'/></secret>", "Ceph usage specified, but name is missing"),
        ("<secret><usage type='iscsi'><target/></usage></secret>", "iSCSI usage .* but target is missing"),
        ("<secret><usage type='tls'/></secret>", "TLS usage specified, but name is missing"),
        ("<secret><usage type='vtpm'/></secret>", "vTPM usage specified, but name is missing"),
        ("<secret><usage type='foo'/></secret>", "unknown secret usage type foo"),
        ("<secret><usage/></secret>", "unknown secret usage type"),
        ("<secret ephemeral='maybe'/>", "invalid value of 'ephemeral'"),
        ("<secret><uuid>xyz</uuid></secret>", "malformed uuid element"),
        ("<sekret/>", "expecting root element of 'secret', not 'sekret'"),
    ],
)
def test_documents_that_are_refused(tmp_path: Path, xml: str, said: str) -> None:
    async def work(secrets: Secrets) -> None:
        with pytest.raises(QvirtError, match=said):
            await secrets.define(xml)
        assert not list(tmp_path.iterdir())

    with_secrets(tmp_path, work)
