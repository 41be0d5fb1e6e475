"""libvirt's names for its own functions, as its messages quote them."""

from functools import cache
from typing import Final

_WORDS: Final = {
    "XML": "XML",
    "OS": "OS",
    "URI": "URI",
    "ID": "ID",
    "UUID": "UUID",
    "CPU": "CPU",
    "NMI": "NMI",
    "PM": "PM",
    "FD": "FD",
    "PMWAKEUP": "PMWakeup",
    "FSFREEZE": "FSFreeze",
    "FSTHAW": "FSThaw",
    "FSTRIM": "FSTrim",
    "FSINFO": "FSInfo",
    "IOTHREAD": "IOThread",
    "IOTUNE": "IoTune",
    "SSH": "SSH",
    "MAC": "MAC",
    "DHCP": "DHCP",
    "SEV": "SEV",
    "TLS": "Tls",
    "NWFILTER": "NWFilter",
    "XMLDESC": "XMLDesc",
}

_SPECIAL: Final = {
    "CONNECT_NUM_OF_NWFILTERS": "virConnectNumOfNWFilters",
    "CONNECT_LIST_NWFILTERS": "virConnectListNWFilters",
    "CONNECT_LIST_ALL_NWFILTERS": "virConnectListAllNWFilters",
    "NODE_DEVICE_LOOKUP_SCSI_HOST_BY_WWN": "virNodeDeviceLookupSCSIHostByWWN",
    "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY": "virConnectDomainEventRegisterAny",
    "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY": "virConnectDomainEventDeregisterAny",
}

_QEMU: Final = {
    "DOMAIN_MONITOR_COMMAND": "virDomainQemuMonitorCommand",
    "DOMAIN_MONITOR_COMMAND_WITH_FILES": "virDomainQemuMonitorCommandWithFiles",
    "DOMAIN_ATTACH": "virDomainQemuAttach",
    "DOMAIN_AGENT_COMMAND": "virDomainQemuAgentCommand",
    "CONNECT_DOMAIN_MONITOR_EVENT_REGISTER": "virConnectDomainQemuMonitorEventRegister",
    "CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER": "virConnectDomainQemuMonitorEventDeregister",
}


@cache
def public_function(procedure: str, program: str = "remote") -> str:
    """Give the public function behind a procedure, such as ``virDomainDefineXMLFlags``."""
    if program == "admin":
        return "virAdm" + _join(procedure)
    if program == "qemu":
        return _QEMU.get(procedure) or "virDomainQemu" + _join(procedure)
    return _SPECIAL.get(procedure) or "vir" + _join(procedure)


def _join(procedure: str) -> str:
    return "".join(_WORDS.get(word) or word.capitalize() for word in procedure.split("_"))
