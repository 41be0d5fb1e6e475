"""libvirt-interface.h: the host's network interfaces."""

from typing import Final


class ConnectListAllInterfacesFlags:
    INACTIVE: Final = 1
    ACTIVE: Final = 2


class InterfaceDefineFlags:
    VALIDATE: Final = 1


class InterfaceXMLFlags:
    INACTIVE: Final = 1
