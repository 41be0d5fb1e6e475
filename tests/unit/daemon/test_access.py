"""Every procedure that is answered, by the table: what clients get that lack a permission, or only read."""

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import qvirt.daemon.auth
from qvirt.api import calls
from qvirt.api.handle import uuid_text
from qvirt.api.registry import CALLS
from qvirt.api.session import Identity, Session
from qvirt.daemon.access import only_reads, read_only_check
from qvirt.daemon.guard import FREE, Guard
from qvirt.daemon.policy import Question, Undecided
from qvirt.errors import AccessDenied, OperationDenied, QvirtError
from qvirt.record import replace
from qvirt.rpc import protocol
from qvirt.rpc.protocol import AccessRule, Procedure
from tests.unit.daemon.arguments import DOMAIN, HANDLES, NETWORK, PORT, SECRET, UUIDS, arguments
from tests.unit.daemon.fakes import running

calls.load()
assert qvirt.daemon.auth
PROGRAMS = {"remote": protocol.remote(), "qemu": protocol.qemu()}
ANSWERED = [(program, PROGRAMS[program].by_name[name]) for program, name in CALLS if program in PROGRAMS]
IDS = [f"{program}-{procedure.name}" for program, procedure in ANSWERED]

#: kinds of objects whose calls must name the very object
KNOWN_KINDS = ("domain", "network", "network_port", "secret")
#: calls of these kinds about an object that has no name before they are done: a permission for all is needed
NAMELESS = {"DOMAIN_ATTACH"}


class Policy:
    """Refuses what the test says, and keeps what it was asked."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.asked: list[Question] = []

    def answer(self, who: Identity, question: Question) -> bool | None:
        return None

    async def allows(self, who: Identity, question: Question) -> bool:
        await asyncio.sleep(0)
        self.asked.append(question)
        return question.name not in self.refused

    def reload(self) -> None:
        raise AssertionError("nobody asked for that")


def session() -> Session:
    """Make an open connection to a daemon that has one domain, one network, one port and one secret."""
    domain = SimpleNamespace(name=DOMAIN[0], uuid=uuid_text(DOMAIN[1]), id=-1)
    port = SimpleNamespace(uuid=uuid_text(PORT))
    network = SimpleNamespace(name=NETWORK[0], uuid=uuid_text(NETWORK[1]), ports={port.uuid: port})

    class Domains(list[Any]):
        def find(self, uuid: str) -> Any:
            return domain if uuid == domain.uuid else None

    class Networks(list[Any]):
        def find(self, uuid: str) -> Any:
            return network if uuid == network.uuid else None

        def port(self, _: Any, uuid: str) -> Any:
            return network.ports[uuid]

    secret = SimpleNamespace(uuid=uuid_text(SECRET[0]), usage=SECRET[1:])

    class Secrets(list[Any]):
        def by_uuid(self, uuid: str) -> Any:
            return {secret.uuid: secret}[uuid]

    hypervisor = SimpleNamespace(
        domains=Domains([domain]), networks=Networks([network]), secrets=Secrets([secret])
    )
    instance = SimpleNamespace(hypervisor=hypervisor, privileged=True, default_uri="qemu:///system")
    return Session(cast(Any, instance), cast(Any, None), Identity(1, 2, 3), driver="QEMU")


def ways(procedure: Procedure) -> Iterator[tuple[tuple[Any, ...], list[AccessRule]]]:
    """Give arguments for each combination of the permissions a call may need, and those it then needs."""
    rules = () if procedure.name in FREE else procedure.acl or ()
    flags = {0, *(bit for rule in rules for bit in _bits(rule.mask))}
    values: list[dict[str, Any]] = [{}]
    values += [{rule.parameter: rule.value} for rule in rules if rule.parameter]
    for flag, named in itertools.product(sorted(flags), values):
        made = arguments(procedure, flags=flag, **named)
        fields = dict(zip(procedure.args.fields if procedure.args else (), made, strict=True))
        yield made, [rule for rule in rules if rule.applies(flag, fields)]


def _bits(mask: int) -> list[int]:
    return [1 << i for i in range(mask.bit_length()) if mask >> i & 1]


async def ask(policy: Policy, program: str, procedure: Procedure, made: Sequence[Any]) -> list[Session]:
    """Make a guarded call that itself does nothing; gives the sessions it was made with."""
    made_with: list[Session] = []

    def call(session: Session, *_: Any, **__: Any) -> Any:
        made_with.append(session)
        fields = procedure.ret.layout.fields if procedure.ret else ()
        return HANDLES.get(getattr(fields[0][1], "name", "")) if fields else None

    guard = Guard([policy], lambda _: None)
    registered = CALLS[cast(Any, program), procedure.name]
    guarded = guard.protect(procedure, replace(registered, function=call)).function
    result = guarded(session(), *made)
    if asyncio.iscoroutine(result):
        await result
    return made_with


@pytest.mark.parametrize(("program", "procedure"), ANSWERED, ids=IDS)
def test_each_permission_is_needed(program: str, procedure: Procedure) -> None:
    for made, needed in ways(procedure):
        if procedure.name == "CONNECT_SUPPORTS_FEATURE":
            made = (4,)
        names = [f"{rule.object}:{rule.permission}" for rule in needed]
        policy = Policy()
        assert len(asyncio.run(ask(policy, program, procedure, made))) == 1
        assert [question.name for question in policy.asked][: len(names)] == names
        for refused in names:
            policy = Policy(refused)
            before: list[Session] = []
            with pytest.raises(AccessDenied, match=rf"access denied: 'QEMU' denied access .*{refused}"):
                before += asyncio.run(ask(policy, program, procedure, made))
            # what comes first is asked first, and nothing after the no
            assert [question.name for question in policy.asked] == names[: names.index(refused) + 1]
            assert not before


@pytest.mark.parametrize(("program", "procedure"), ANSWERED, ids=IDS)
def test_who_decides_is_told_the_object(program: str, procedure: Procedure) -> None:
    made, needed = next(ways(procedure))
    if procedure.name == "CONNECT_SUPPORTS_FEATURE":
        made = (4,)
    policy = Policy()
    asyncio.run(ask(policy, program, procedure, made))
    for question in policy.asked[: len(needed)]:
        told = dict(question.attributes)
        assert told.pop("connect_driver") == "QEMU"
        if question.object == "connect" or procedure.name in NAMELESS:
            assert not told
        else:
            assert question.object in KNOWN_KINDS, f"access control does not know {question.object}s"
            assert all(told.values())
            assert any(name.startswith(question.object) for name in told)


def test_nobody_is_asked_twice_for_features_of_the_connection() -> None:
    procedure = protocol.remote().by_name["CONNECT_SUPPORTS_FEATURE"]
    policy = Policy()
    asyncio.run(ask(policy, "remote", procedure, (10,)))
    assert not policy.asked


LISTING = [
    (program, procedure)
    for program, procedure in ANSWERED
    if procedure.aclfilter and "EVENT" not in procedure.name
]


@pytest.mark.parametrize(("program", "procedure"), LISTING, ids=[each.name for _, each in LISTING])
def test_lists_show_what_may_be_seen(program: str, procedure: Procedure) -> None:
    made, _ = next(ways(procedure))
    (rule,) = procedure.aclfilter
    for policy, shown in (
        (Policy(), {uuid_text(UUIDS[rule.object])}),
        (Policy(f"{rule.object}:{rule.permission}"), set()),
    ):
        (made_with,) = asyncio.run(ask(policy, program, procedure, made))
        assert set(made_with.shown or ()) == shown


def test_a_policy_that_cannot_be_asked_refuses() -> None:
    class Broken(Policy):
        async def allows(self, who: Identity, question: Question) -> bool:
            raise Undecided("nobody is there")

    procedure = protocol.remote().by_name["DOMAIN_CREATE"]
    with pytest.raises(AccessDenied):
        asyncio.run(ask(Broken(), "remote", procedure, arguments(procedure)))


@pytest.mark.parametrize(("program", "procedure"), ANSWERED, ids=IDS)
def test_a_read_only_connection_only_reads(program: str, procedure: Procedure) -> None:
    check = read_only_check(procedure, program)
    for made, needed in ways(procedure):
        writes = [rule for rule in needed if not only_reads(rule.permission)]
        if writes:
            assert check is not None
            with pytest.raises(OperationDenied):
                check(made)
        elif check is not None:
            check(made)


def test_the_read_only_socket_refuses_every_call_that_changes(tmp_path: Path) -> None:
    async def walk() -> int:
        refused = 0
        async with running(tmp_path) as server, server.connect(readonly=True) as client:
            for program, procedure in ANSWERED:
                number = {"remote": protocol.REMOTE, "qemu": protocol.QEMU}[program]
                for made, needed in ways(procedure):
                    if all(only_reads(rule.permission) for rule in needed):
                        continue
                    with pytest.raises(QvirtError) as caught:
                        await client.call(procedure.name, *made, program=number)
                    assert (caught.value.code, caught.value.domain) == (29, 20), procedure.name
                    refused += 1
        return refused

    assert asyncio.run(walk()) > 100


def test_what_changes_something_needs_more_than_reading() -> None:
    """libvirt's table asks for domain:read alone where its library refuses such connections by itself."""
    changes = re.compile("_(SET|CREATE|DELETE|DEFINE|UNDEFINE|ATTACH|DETACH|UPDATE|PIN)_")
    reads = re.compile("_GET_|REGISTER")
    for program, procedure in ANSWERED:
        if changes.search(f"{procedure.name}_") and not reads.search(procedure.name):
            assert read_only_check(procedure, program) is not None, procedure.name
            assert any(not only_reads(rule.permission) for rule in procedure.acl or ()), procedure.name
