"""Asking polkit: what is told, what the answers mean, and that nobody waits for ever."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.api.session import Identity
from qvirt.daemon import polkit
from qvirt.daemon.policy import Question, Undecided
from tests.support.polkit import Authority, fake_polkit

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon")

WHO = Identity(pid=10, uid=1000, gid=1000, started=77)
DETAILS = {"connect_driver": "QEMU", "pool_name": "p", "pool_uuid": "1"}
QUESTION = Question("storage_pool", "search_storage_vols", DETAILS)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    folder = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    try:
        with fake_polkit(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder)


async def ask(authority: Authority, who: Identity = WHO, question: Question = QUESTION) -> bool:
    asker = polkit.Polkit(authority.address)
    try:
        return await asker.allows(who, question)
    finally:
        await asker.close()


@pytest.mark.parametrize(("answer", "allowed"), [("yes", True), ("no", False), ("challenge", False)])
def test_answers(authority: Authority, answer: str, allowed: bool) -> None:
    authority.take()
    authority.decide = lambda _: answer
    assert asyncio.run(ask(authority)) is allowed
    (question,) = authority.take()
    assert question.kind == "unix-process"
    assert question.subject == {"pid": 10, "start-time": 77, "uid": 1000}
    assert question.action == "org.libvirt.api.storage-pool.search-storage-vols"
    assert question.details == DETAILS
    assert question.flags == 0


def test_silence_has_an_end(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polkit, "DEADLINE", 0.2)
    authority.decide = lambda _: "silent"
    with pytest.raises(Undecided, match=r"did not answer within 0\.2 s"):
        asyncio.run(ask(authority))


def test_an_error_is_no_answer(authority: Authority) -> None:
    authority.decide = lambda _: "error"
    with pytest.raises(Undecided, match="is not registered"):
        asyncio.run(ask(authority))


def test_who_is_no_process_is_not_asked_about(authority: Authority) -> None:
    authority.take()
    for who in (Identity(), Identity(sasl_user="bob"), Identity(pid=10, uid=0)):
        with pytest.raises(Undecided, match="processes of this machine only"):
            asyncio.run(ask(authority, who))
    assert not authority.take()


def test_many_questions_at_once(authority: Authority) -> None:
    authority.decide = lambda q: "yes" if q.details["pool_name"].endswith("0") else "no"

    async def many() -> list[bool]:
        asker = polkit.Polkit(authority.address)
        try:
            return await asyncio.gather(
                *(asker.allows(WHO, Question("domain", "read", {"pool_name": str(at)})) for at in range(400))
            )
        finally:
            await asker.close()

    assert asyncio.run(many()) == [at % 10 == 0 for at in range(400)]


def test_nobody_on_the_bus(tmp_path: Path) -> None:
    asker = polkit.Polkit(f"unix:path={tmp_path}/none")

    async def one() -> bool:
        return await asker.allows(WHO, QUESTION)

    with pytest.raises(Undecided, match="cannot reach"):
        asyncio.run(one())
