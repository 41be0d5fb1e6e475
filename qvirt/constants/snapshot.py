"""libvirt-domain-snapshot.h: snapshots of a domain."""

from typing import Final


class DomainSnapshotCreateFlags:
    REDEFINE: Final = 1
    CURRENT: Final = 2
    NO_METADATA: Final = 4
    HALT: Final = 8
    DISK_ONLY: Final = 16
    REUSE_EXT: Final = 32
    QUIESCE: Final = 64
    ATOMIC: Final = 128
    LIVE: Final = 256
    VALIDATE: Final = 512


class DomainSnapshotDeleteFlags:
    CHILDREN: Final = 1
    METADATA_ONLY: Final = 2
    CHILDREN_ONLY: Final = 4


class DomainSnapshotListFlags:
    ROOTS: Final = 1
    DESCENDANTS: Final = 1
    LEAVES: Final = 4
    NO_LEAVES: Final = 8
    METADATA: Final = 2
    NO_METADATA: Final = 16
    INACTIVE: Final = 32
    ACTIVE: Final = 64
    DISK_ONLY: Final = 128
    INTERNAL: Final = 256
    EXTERNAL: Final = 512
    TOPOLOGICAL: Final = 1024


class DomainSnapshotRevertFlags:
    RUNNING: Final = 1
    PAUSED: Final = 2
    FORCE: Final = 4
    RESET_NVRAM: Final = 8


class DomainSnapshotXMLFlags:
    SECURE: Final = 1
