"""libvirt-domain-checkpoint.h: checkpoints of a domain's disks."""

from typing import Final


class DomainCheckpointCreateFlags:
    REDEFINE: Final = 1
    QUIESCE: Final = 2
    REDEFINE_VALIDATE: Final = 4


class DomainCheckpointDeleteFlags:
    CHILDREN: Final = 1
    METADATA_ONLY: Final = 2
    CHILDREN_ONLY: Final = 4


class DomainCheckpointListFlags:
    ROOTS: Final = 1
    DESCENDANTS: Final = 1
    TOPOLOGICAL: Final = 2
    LEAVES: Final = 4
    NO_LEAVES: Final = 8


class DomainCheckpointXMLFlags:
    SECURE: Final = 1
    NO_DOMAIN: Final = 2
    SIZE: Final = 4
