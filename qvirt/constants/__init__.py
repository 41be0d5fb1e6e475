"""libvirt's public constants as plain integers, one class per enumeration, one module per header of libvirt.

The class is the enumeration's name without ``vir``; the member is the constant without the prefix
all members share. Plain integers, not enums: flags are tested on every call.

Programs may take every class from here. It is looked for when it is asked for, so that a client which needs
the errors' numbers has nothing to load of domains and storage; qvirt itself names the module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qvirt.constants.admin import *
    from qvirt.constants.checkpoint import *
    from qvirt.constants.common import *
    from qvirt.constants.domain import *
    from qvirt.constants.domain_event import *
    from qvirt.constants.error import *
    from qvirt.constants.event import *
    from qvirt.constants.host import *
    from qvirt.constants.interface import *
    from qvirt.constants.network import *
    from qvirt.constants.nodedev import *
    from qvirt.constants.nwfilter import *
    from qvirt.constants.qemu import *
    from qvirt.constants.secret import *
    from qvirt.constants.snapshot import *
    from qvirt.constants.storage import *
    from qvirt.constants.stream import *
else:
    #: the modules, in the order a name is looked for
    AREAS: Final = (
        *("error", "common", "host", "domain", "domain_event", "snapshot", "checkpoint", "qemu", "network"),
        *("storage", "nodedev", "interface", "nwfilter", "secret", "stream", "event", "admin"),
    )

    def __getattr__(name: str) -> type:
        if name[:1].isupper():
            for area in AREAS:
                found = getattr(import_module(f"qvirt.constants.{area}"), name, None)
                if isinstance(found, type):
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
