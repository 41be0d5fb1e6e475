"""libvirt-domain.h: domains, their states, and the flags of calls on them."""

from typing import Final


class BlkioParameterType:
    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6


class ConnectGetAllDomainStatsFlags:
    ACTIVE: Final = 1
    INACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    RUNNING: Final = 16
    PAUSED: Final = 32
    SHUTOFF: Final = 64
    OTHER: Final = 128
    NOWAIT: Final = 536870912
    BACKING: Final = 1073741824
    ENFORCE_STATS: Final = 2147483648


class ConnectGetDomainCapabilitiesFlags:
    DISABLE_DEPRECATED_FEATURES: Final = 1


class ConnectListAllDomainsFlags:
    ACTIVE: Final = 1
    INACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    RUNNING: Final = 16
    PAUSED: Final = 32
    SHUTOFF: Final = 64
    OTHER: Final = 128
    MANAGEDSAVE: Final = 256
    NO_MANAGEDSAVE: Final = 512
    AUTOSTART: Final = 1024
    NO_AUTOSTART: Final = 2048
    HAS_SNAPSHOT: Final = 4096
    NO_SNAPSHOT: Final = 8192
    HAS_CHECKPOINT: Final = 16384
    NO_CHECKPOINT: Final = 32768


class DomainAbortJobFlags:
    POSTCOPY: Final = 1


class DomainAgentResponseTimeout:
    BLOCK: Final = -2
    DEFAULT: Final = -1
    NOWAIT: Final = 0


class DomainAuthorizedSSHKeysSetFlags:
    APPEND: Final = 1
    REMOVE: Final = 2


class DomainBackupBeginFlags:
    REUSE_EXTERNAL: Final = 1


class DomainBlockCommitFlags:
    SHALLOW: Final = 1
    DELETE: Final = 2
    ACTIVE: Final = 4
    RELATIVE: Final = 8
    BANDWIDTH_BYTES: Final = 16


class DomainBlockCopyFlags:
    SHALLOW: Final = 1
    REUSE_EXT: Final = 2
    TRANSIENT_JOB: Final = 4
    SYNCHRONOUS_WRITES: Final = 8


class DomainBlockJobAbortFlags:
    ASYNC: Final = 1
    PIVOT: Final = 2


class DomainBlockJobInfoFlags:
    BANDWIDTH_BYTES: Final = 1


class DomainBlockJobSetSpeedFlags:
    BYTES: Final = 1


class DomainBlockJobType:
    UNKNOWN: Final = 0
    PULL: Final = 1
    COPY: Final = 2
    COMMIT: Final = 3
    ACTIVE_COMMIT: Final = 4
    BACKUP: Final = 5


class DomainBlockPullFlags:
    BANDWIDTH_BYTES: Final = 64


class DomainBlockRebaseFlags:
    SHALLOW: Final = 1
    REUSE_EXT: Final = 2
    COPY_RAW: Final = 4
    COPY: Final = 8
    RELATIVE: Final = 16
    COPY_DEV: Final = 32
    BANDWIDTH_BYTES: Final = 64


class DomainBlockResizeFlags:
    BYTES: Final = 1
    CAPACITY: Final = 2


class DomainBlockedReason:
    UNKNOWN: Final = 0


class DomainChannelFlags:
    FORCE: Final = 1


class DomainConsoleFlags:
    FORCE: Final = 1
    SAFE: Final = 2


class DomainControlErrorReason:
    NONE: Final = 0
    UNKNOWN: Final = 1
    MONITOR: Final = 2
    INTERNAL: Final = 3


class DomainControlState:
    OK: Final = 0
    JOB: Final = 1
    OCCUPIED: Final = 2
    ERROR: Final = 3


class DomainCoreDumpFlags:
    CRASH: Final = 1
    LIVE: Final = 2
    BYPASS_CACHE: Final = 4
    RESET: Final = 8
    MEMORY_ONLY: Final = 16


class DomainCoreDumpFormat:
    RAW: Final = 0
    KDUMP_ZLIB: Final = 1
    KDUMP_LZO: Final = 2
    KDUMP_SNAPPY: Final = 3
    WIN_DMP: Final = 4


class DomainCrashedReason:
    UNKNOWN: Final = 0
    PANICKED: Final = 1


class DomainCreateFlags:
    NONE: Final = 0
    START_PAUSED: Final = 1
    START_AUTODESTROY: Final = 2
    START_BYPASS_CACHE: Final = 4
    START_FORCE_BOOT: Final = 8
    START_VALIDATE: Final = 16
    START_RESET_NVRAM: Final = 32


class DomainDefineFlags:
    VALIDATE: Final = 1


class DomainDestroyFlags:
    DEFAULT: Final = 0
    GRACEFUL: Final = 1
    REMOVE_LOGS: Final = 2


class DomainDeviceModifyFlags:
    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2
    FORCE: Final = 4


class DomainDirtyRateCalcFlags:
    PAGE_SAMPLING: Final = 0
    DIRTY_BITMAP: Final = 1
    DIRTY_RING: Final = 2


class DomainDirtyRateStatus:
    UNSTARTED: Final = 0
    MEASURING: Final = 1
    MEASURED: Final = 2


class DomainDiskErrorCode:
    NONE: Final = 0
    UNSPEC: Final = 1
    NO_SPACE: Final = 2


class DomainFDAssociateFlags:
    RESTORE: Final = 1
    WRITABLE: Final = 2


class DomainGetHostnameFlags:
    LEASE: Final = 1
    AGENT: Final = 2


class DomainGetJobStatsFlags:
    COMPLETED: Final = 1
    KEEP_COMPLETED: Final = 2


class DomainGraphicsReloadType:
    ANY: Final = 0
    VNC: Final = 1


class DomainGuestInfoTypes:
    USERS: Final = 1
    OS: Final = 2
    TIMEZONE: Final = 4
    HOSTNAME: Final = 8
    FILESYSTEM: Final = 16
    DISKS: Final = 32
    INTERFACES: Final = 64
    LOAD: Final = 128


class DomainInterfaceAddressesSource:
    LEASE: Final = 0
    AGENT: Final = 1
    ARP: Final = 2


class DomainJobOperation:
    UNKNOWN: Final = 0
    START: Final = 1
    SAVE: Final = 2
    RESTORE: Final = 3
    MIGRATION_IN: Final = 4
    MIGRATION_OUT: Final = 5
    SNAPSHOT: Final = 6
    SNAPSHOT_REVERT: Final = 7
    DUMP: Final = 8
    BACKUP: Final = 9
    SNAPSHOT_DELETE: Final = 10


class DomainJobType:
    NONE: Final = 0
    BOUNDED: Final = 1
    UNBOUNDED: Final = 2
    COMPLETED: Final = 3
    FAILED: Final = 4
    CANCELLED: Final = 5


class DomainLifecycle:
    POWEROFF: Final = 0
    REBOOT: Final = 1
    CRASH: Final = 2


class DomainLifecycleAction:
    DESTROY: Final = 0
    RESTART: Final = 1
    RESTART_RENAME: Final = 2
    PRESERVE: Final = 3
    COREDUMP_DESTROY: Final = 4
    COREDUMP_RESTART: Final = 5


class DomainMemoryFlags:
    VIRTUAL: Final = 1
    PHYSICAL: Final = 2


class DomainMemoryModFlags:
    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2
    MAXIMUM: Final = 4


class DomainMemoryStatTags:
    SWAP_IN: Final = 0
    SWAP_OUT: Final = 1
    MAJOR_FAULT: Final = 2
    MINOR_FAULT: Final = 3
    UNUSED: Final = 4
    AVAILABLE: Final = 5
    ACTUAL_BALLOON: Final = 6
    RSS: Final = 7
    USABLE: Final = 8
    LAST_UPDATE: Final = 9
    DISK_CACHES: Final = 10
    HUGETLB_PGALLOC: Final = 11
    HUGETLB_PGFAIL: Final = 12
    NR: Final = 13


class DomainMessageType:
    DEPRECATION: Final = 1
    TAINTING: Final = 2
    IOERRORS: Final = 4


class DomainMetadataType:
    DESCRIPTION: Final = 0
    TITLE: Final = 1
    ELEMENT: Final = 2


class DomainMigrateFlags:
    LIVE: Final = 1
    PEER2PEER: Final = 2
    TUNNELLED: Final = 4
    PERSIST_DEST: Final = 8
    UNDEFINE_SOURCE: Final = 16
    PAUSED: Final = 32
    NON_SHARED_DISK: Final = 64
    NON_SHARED_INC: Final = 128
    CHANGE_PROTECTION: Final = 256
    UNSAFE: Final = 512
    OFFLINE: Final = 1024
    COMPRESSED: Final = 2048
    ABORT_ON_ERROR: Final = 4096
    AUTO_CONVERGE: Final = 8192
    RDMA_PIN_ALL: Final = 16384
    POSTCOPY: Final = 32768
    TLS: Final = 65536
    PARALLEL: Final = 131072
    NON_SHARED_SYNCHRONOUS_WRITES: Final = 262144
    POSTCOPY_RESUME: Final = 524288
    ZEROCOPY: Final = 1048576


class DomainMigrateMaxSpeedFlags:
    POSTCOPY: Final = 1


class DomainModificationImpact:
    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2


class DomainNostateReason:
    UNKNOWN: Final = 0


class DomainNumatuneMemMode:
    STRICT: Final = 0
    PREFERRED: Final = 1
    INTERLEAVE: Final = 2
    RESTRICTIVE: Final = 3


class DomainOpenGraphicsFlags:
    SKIPAUTH: Final = 1


class DomainPMSuspendedDiskReason:
    UNKNOWN: Final = 0


class DomainPMSuspendedReason:
    UNKNOWN: Final = 0


class DomainPausedReason:
    UNKNOWN: Final = 0
    USER: Final = 1
    MIGRATION: Final = 2
    SAVE: Final = 3
    DUMP: Final = 4
    IOERROR: Final = 5
    WATCHDOG: Final = 6
    FROM_SNAPSHOT: Final = 7
    SHUTTING_DOWN: Final = 8
    SNAPSHOT: Final = 9
    CRASHED: Final = 10
    STARTING_UP: Final = 11
    POSTCOPY: Final = 12
    POSTCOPY_FAILED: Final = 13
    API_ERROR: Final = 14


class DomainProcessSignal:
    NOP: Final = 0
    HUP: Final = 1
    INT: Final = 2
    QUIT: Final = 3
    ILL: Final = 4
    TRAP: Final = 5
    ABRT: Final = 6
    BUS: Final = 7
    FPE: Final = 8
    KILL: Final = 9
    USR1: Final = 10
    SEGV: Final = 11
    USR2: Final = 12
    PIPE: Final = 13
    ALRM: Final = 14
    TERM: Final = 15
    STKFLT: Final = 16
    CHLD: Final = 17
    CONT: Final = 18
    STOP: Final = 19
    TSTP: Final = 20
    TTIN: Final = 21
    TTOU: Final = 22
    URG: Final = 23
    XCPU: Final = 24
    XFSZ: Final = 25
    VTALRM: Final = 26
    PROF: Final = 27
    WINCH: Final = 28
    POLL: Final = 29
    PWR: Final = 30
    SYS: Final = 31
    RT0: Final = 32
    RT1: Final = 33
    RT2: Final = 34
    RT3: Final = 35
    RT4: Final = 36
    RT5: Final = 37
    RT6: Final = 38
    RT7: Final = 39
    RT8: Final = 40
    RT9: Final = 41
    RT10: Final = 42
    RT11: Final = 43
    RT12: Final = 44
    RT13: Final = 45
    RT14: Final = 46
    RT15: Final = 47
    RT16: Final = 48
    RT17: Final = 49
    RT18: Final = 50
    RT19: Final = 51
    RT20: Final = 52
    RT21: Final = 53
    RT22: Final = 54
    RT23: Final = 55
    RT24: Final = 56
    RT25: Final = 57
    RT26: Final = 58
    RT27: Final = 59
    RT28: Final = 60
    RT29: Final = 61
    RT30: Final = 62
    RT31: Final = 63
    RT32: Final = 64


class DomainRebootFlags:
    DEFAULT: Final = 0
    ACPI_POWER_BTN: Final = 1
    GUEST_AGENT: Final = 2
    INITCTL: Final = 4
    SIGNAL: Final = 8
    PARAVIRT: Final = 16


class DomainRunningReason:
    UNKNOWN: Final = 0
    BOOTED: Final = 1
    MIGRATED: Final = 2
    RESTORED: Final = 3
    FROM_SNAPSHOT: Final = 4
    UNPAUSED: Final = 5
    MIGRATION_CANCELED: Final = 6
    SAVE_CANCELED: Final = 7
    WAKEUP: Final = 8
    CRASHED: Final = 9
    POSTCOPY: Final = 10
    POSTCOPY_FAILED: Final = 11


class DomainSaveImageXMLFlags:
    SECURE: Final = 1


class DomainSaveRestoreFlags:
    BYPASS_CACHE: Final = 1
    RUNNING: Final = 2
    PAUSED: Final = 4
    RESET_NVRAM: Final = 8


class DomainSetTimeFlags:
    SYNC: Final = 1


class DomainSetUserPasswordFlags:
    ENCRYPTED: Final = 1


class DomainShutdownFlags:
    DEFAULT: Final = 0
    ACPI_POWER_BTN: Final = 1
    GUEST_AGENT: Final = 2
    INITCTL: Final = 4
    SIGNAL: Final = 8
    PARAVIRT: Final = 16


class DomainShutdownReason:
    UNKNOWN: Final = 0
    USER: Final = 1


class DomainShutoffReason:
    UNKNOWN: Final = 0
    SHUTDOWN: Final = 1
    DESTROYED: Final = 2
    CRASHED: Final = 3
    MIGRATED: Final = 4
    SAVED: Final = 5
    FAILED: Final = 6
    FROM_SNAPSHOT: Final = 7
    DAEMON: Final = 8


class DomainState:
    NOSTATE: Final = 0
    RUNNING: Final = 1
    BLOCKED: Final = 2
    PAUSED: Final = 3
    SHUTDOWN: Final = 4
    SHUTOFF: Final = 5
    CRASHED: Final = 6
    PMSUSPENDED: Final = 7


class DomainStatsTypes:
    STATE: Final = 1
    CPU_TOTAL: Final = 2
    BALLOON: Final = 4
    VCPU: Final = 8
    INTERFACE: Final = 16
    BLOCK: Final = 32
    PERF: Final = 64
    IOTHREAD: Final = 128
    MEMORY: Final = 256
    DIRTYRATE: Final = 512
    VM: Final = 1024


class DomainUndefineFlags:
    MANAGED_SAVE: Final = 1
    SNAPSHOTS_METADATA: Final = 2
    NVRAM: Final = 4
    KEEP_NVRAM: Final = 8
    CHECKPOINTS_METADATA: Final = 16
    TPM: Final = 32
    KEEP_TPM: Final = 64


class DomainVcpuFlags:
    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2
    MAXIMUM: Final = 4
    GUEST: Final = 8
    HOTPLUGGABLE: Final = 16


class DomainXMLFlags:
    SECURE: Final = 1
    INACTIVE: Final = 2
    UPDATE_CPU: Final = 4
    MIGRATABLE: Final = 8


class KeycodeSet:
    LINUX: Final = 0
    XT: Final = 1
    ATSET1: Final = 2
    ATSET2: Final = 3
    ATSET3: Final = 4
    OSX: Final = 5
    XT_KBD: Final = 6
    USB: Final = 7
    WIN32: Final = 8
    QNUM: Final = 9


class MemoryParameterType:
    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6


class SchedParameterType:
    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6


class VcpuHostCpuState:
    OFFLINE: Final = -1
    UNAVAILABLE: Final = -2


class VcpuState:
    OFFLINE: Final = 0
    RUNNING: Final = 1
    BLOCKED: Final = 2
