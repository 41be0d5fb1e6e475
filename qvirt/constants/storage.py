"""libvirt-storage.h: storage pools and volumes."""

from typing import Final


class ConnectListAllStoragePoolsFlags:
    INACTIVE: Final = 1
    ACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    AUTOSTART: Final = 16
    NO_AUTOSTART: Final = 32
    DIR: Final = 64
    FS: Final = 128
    NETFS: Final = 256
    LOGICAL: Final = 512
    DISK: Final = 1024
    ISCSI: Final = 2048
    SCSI: Final = 4096
    MPATH: Final = 8192
    RBD: Final = 16384
    SHEEPDOG: Final = 32768
    GLUSTER: Final = 65536
    ZFS: Final = 131072
    VSTORAGE: Final = 262144
    ISCSI_DIRECT: Final = 524288


class StoragePoolBuildFlags:
    NEW: Final = 0
    REPAIR: Final = 1
    RESIZE: Final = 2
    NO_OVERWRITE: Final = 4
    OVERWRITE: Final = 8


class StoragePoolCreateFlags:
    NORMAL: Final = 0
    WITH_BUILD: Final = 1
    WITH_BUILD_OVERWRITE: Final = 2
    WITH_BUILD_NO_OVERWRITE: Final = 4


class StoragePoolDefineFlags:
    VALIDATE: Final = 1


class StoragePoolDeleteFlags:
    NORMAL: Final = 0
    ZEROED: Final = 1


class StoragePoolEventID:
    LIFECYCLE: Final = 0
    REFRESH: Final = 1


class StoragePoolEventLifecycleType:
    DEFINED: Final = 0
    UNDEFINED: Final = 1
    STARTED: Final = 2
    STOPPED: Final = 3
    CREATED: Final = 4
    DELETED: Final = 5


class StoragePoolState:
    INACTIVE: Final = 0
    BUILDING: Final = 1
    RUNNING: Final = 2
    DEGRADED: Final = 3
    INACCESSIBLE: Final = 4


class StorageVolCreateFlags:
    PREALLOC_METADATA: Final = 1
    REFLINK: Final = 2
    VALIDATE: Final = 4


class StorageVolDeleteFlags:
    NORMAL: Final = 0
    ZEROED: Final = 1
    WITH_SNAPSHOTS: Final = 2


class StorageVolDownloadFlags:
    SPARSE_STREAM: Final = 1


class StorageVolInfoFlags:
    USE_ALLOCATION: Final = 0
    GET_PHYSICAL: Final = 1


class StorageVolResizeFlags:
    ALLOCATE: Final = 1
    DELTA: Final = 2
    SHRINK: Final = 4


class StorageVolType:
    FILE: Final = 0
    BLOCK: Final = 1
    DIR: Final = 2
    NETWORK: Final = 3
    NETDIR: Final = 4
    PLOOP: Final = 5


class StorageVolUploadFlags:
    SPARSE_STREAM: Final = 1


class StorageVolWipeAlgorithm:
    ZERO: Final = 0
    NNSA: Final = 1
    DOD: Final = 2
    BSI: Final = 3
    GUTMANN: Final = 4
    SCHNEIER: Final = 5
    PFITZNER7: Final = 6
    PFITZNER33: Final = 7
    RANDOM: Final = 8
    TRIM: Final = 9


class StorageXMLFlags:
    INACTIVE: Final = 1
