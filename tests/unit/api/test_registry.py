"""Every registered call has the table's name and arguments, and the coverage page says what there is."""

import inspect

import pytest

import qvirt.daemon.auth
from qvirt.api import calls
from qvirt.api.names import public_function
from qvirt.api.registry import CALLS, Call
from qvirt.rpc import protocol

calls.load()
PROGRAMS = {"remote": protocol.REMOTE, "qemu": protocol.QEMU}


def procedure_of(call: Call) -> protocol.Procedure:
    return protocol.program(PROGRAMS[call.program]).by_name[call.name]


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: f"{call.program}-{call.name}")
def test_arguments_are_the_tables(call: Call) -> None:
    procedure = procedure_of(call)
    assert not procedure.event
    assert call.parameters == (procedure.args.fields if procedure.args else ())
    wanted = set()
    if procedure.stream:
        wanted.add("stream")
    if procedure.call_fds:
        wanted.add("fds")
    assert call.extras - {"reply_fds"} <= wanted | {"fds"}
    assert ("stream" in call.extras) == bool(procedure.stream)
    assert "reply_fds" not in call.extras or procedure.reply_fds
    assert inspect.getdoc(call.function), "a call says what it does"


def test_auth_is_registered_by_the_daemon() -> None:
    assert ("remote", "AUTH_LIST") in CALLS
    assert CALLS["remote", "AUTH_LIST"].function is qvirt.daemon.auth.auth_list


@pytest.mark.parametrize(
    ("procedure", "name"),
    [
        ("DOMAIN_DEFINE_XML_FLAGS", "virDomainDefineXMLFlags"),
        ("DOMAIN_FSFREEZE", "virDomainFSFreeze"),
        ("DOMAIN_PM_SUSPEND_FOR_DURATION", "virDomainPMSuspendForDuration"),
        ("DOMAIN_OPEN_GRAPHICS_FD", "virDomainOpenGraphicsFD"),
        ("CONNECT_LIST_ALL_NWFILTERS", "virConnectListAllNWFilters"),
        ("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", "virConnectDomainEventRegisterAny"),
        ("DOMAIN_SET_BLOCK_IO_TUNE", "virDomainSetBlockIoTune"),
    ],
)
def test_public_names(procedure: str, name: str) -> None:
    assert public_function(procedure) == name
