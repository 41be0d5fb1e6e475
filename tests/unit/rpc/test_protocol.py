"""The tables: complete, consistent, as the protocol's numbers say."""

import pytest

from qvirt.rpc import protocol

PROGRAMS = [protocol.REMOTE, protocol.QEMU, protocol.LXC, protocol.ADMIN, protocol.KEEPALIVE]


@pytest.mark.parametrize("number", PROGRAMS)
def test_every_type_named_is_defined(number: int) -> None:
    program = protocol.program(number)
    for name in program.structs:
        assert program.structs[name].fields
    for procedure in program.by_number.values():
        assert program.by_name[procedure.name] is procedure
        assert procedure.program == number
        assert not (procedure.event and (procedure.args or procedure.ret))


def test_numbers_have_no_gap() -> None:
    assert list(protocol.remote().by_number) == list(range(1, 454))
    assert len(protocol.remote().structs) == 701


def test_an_unknown_program() -> None:
    with pytest.raises(KeyError):
        protocol.program(1)
    assert not protocol.is_known(1, 1)
    assert not protocol.is_known(protocol.REMOTE, 2)
    assert protocol.is_known(protocol.ADMIN, 1)


def test_procedure_rows() -> None:
    by_name = protocol.remote().by_name
    assert by_name["AUTH_LIST"].noauth
    assert by_name["AUTH_LIST"].number == 66
    assert by_name["DOMAIN_OPEN_CONSOLE"].stream == "both"
    assert by_name["STORAGE_VOL_DOWNLOAD"].sparse == 1
    assert by_name["DOMAIN_FD_ASSOCIATE"].call_fds
    assert by_name["DOMAIN_OPEN_GRAPHICS_FD"].reply_fds
    assert not by_name["DOMAIN_OPEN_GRAPHICS_FD"].call_fds
    assert by_name["NODE_GET_INFO"].high
    assert protocol.admin().by_name["CONNECT_OPEN"].acl is None


def test_domain_events() -> None:
    events = protocol.event_ids("domain")
    assert list(events) == list(range(28))
    assert (events[0].name, events[0].legacy, events[0].callback) == ("LIFECYCLE", 107, 318)
    assert events[16].legacy is None
    by_number = protocol.remote().by_number
    for event in events.values():
        assert by_number[event.callback].event


def test_access_rules_depend_on_flags_and_arguments() -> None:
    rules = protocol.remote().by_name["DOMAIN_ATTACH_DEVICE_FLAGS"].acl
    assert rules
    always, without, with_config = rules
    assert (always.object, always.permission) == ("domain", "write")
    config, live = 2, 1
    assert always.applies(0)
    assert [without.applies(flags) for flags in (0, live, config)] == [True, False, False]
    assert [with_config.applies(flags) for flags in (0, live, config)] == [False, False, True]
    rules = protocol.remote().by_name["DOMAIN_INTERFACE_ADDRESSES"].acl
    assert rules
    _, agent = rules
    assert agent.applies(0, {"source": 1})
    assert not agent.applies(0, {"source": 0})
