"""libvirt-host.h: the connection and the machine behind it."""

from typing import Final


class CPUCompareResult:
    ERROR: Final = -1
    INCOMPATIBLE: Final = 0
    IDENTICAL: Final = 1
    SUPERSET: Final = 2


class ConnectBaselineCPUFlags:
    EXPAND_FEATURES: Final = 1
    MIGRATABLE: Final = 2


class ConnectCompareCPUFlags:
    FAIL_INCOMPATIBLE: Final = 1
    VALIDATE_XML: Final = 2


class ConnectCredentialType:
    USERNAME: Final = 1
    AUTHNAME: Final = 2
    LANGUAGE: Final = 3
    CNONCE: Final = 4
    PASSPHRASE: Final = 5
    ECHOPROMPT: Final = 6
    NOECHOPROMPT: Final = 7
    REALM: Final = 8
    EXTERNAL: Final = 9


class ConnectFlags:
    RO: Final = 1
    NO_ALIASES: Final = 2


class NodeAllocPagesFlags:
    ADD: Final = 0
    SET: Final = 1


class NodeGetCPUStatsAllCPUs:
    CPUS: Final = -1


class NodeGetMemoryStatsAllCells:
    CELLS: Final = -1


class NodeSuspendTarget:
    MEM: Final = 0
    DISK: Final = 1
    HYBRID: Final = 2
