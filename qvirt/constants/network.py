"""libvirt-network.h: virtual networks and their ports."""

from typing import Final


class ConnectListAllNetworksFlags:
    INACTIVE: Final = 1
    ACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    AUTOSTART: Final = 16
    NO_AUTOSTART: Final = 32


class IPAddrType:
    IPV4: Final = 0
    IPV6: Final = 1


class NetworkCreateFlags:
    VALIDATE: Final = 1


class NetworkDefineFlags:
    VALIDATE: Final = 1


class NetworkEventID:
    LIFECYCLE: Final = 0
    METADATA_CHANGE: Final = 1


class NetworkEventLifecycleType:
    DEFINED: Final = 0
    UNDEFINED: Final = 1
    STARTED: Final = 2
    STOPPED: Final = 3


class NetworkMetadataType:
    DESCRIPTION: Final = 0
    TITLE: Final = 1
    ELEMENT: Final = 2


class NetworkPortCreateFlags:
    RECLAIM: Final = 1
    VALIDATE: Final = 2


class NetworkUpdateCommand:
    NONE: Final = 0
    MODIFY: Final = 1
    DELETE: Final = 2
    ADD_LAST: Final = 3
    ADD_FIRST: Final = 4


class NetworkUpdateFlags:
    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2


class NetworkUpdateSection:
    NONE: Final = 0
    BRIDGE: Final = 1
    DOMAIN: Final = 2
    IP: Final = 3
    IP_DHCP_HOST: Final = 4
    IP_DHCP_RANGE: Final = 5
    FORWARD: Final = 6
    FORWARD_INTERFACE: Final = 7
    FORWARD_PF: Final = 8
    PORTGROUP: Final = 9
    DNS_HOST: Final = 10
    DNS_TXT: Final = 11
    DNS_SRV: Final = 12


class NetworkXMLFlags:
    INACTIVE: Final = 1
