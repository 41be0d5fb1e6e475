"""libvirt-secret.h: secrets."""

from typing import Final


class ConnectListAllSecretsFlags:
    EPHEMERAL: Final = 1
    NO_EPHEMERAL: Final = 2
    PRIVATE: Final = 4
    NO_PRIVATE: Final = 8


class SecretDefineFlags:
    VALIDATE: Final = 1


class SecretEventID:
    LIFECYCLE: Final = 0
    VALUE_CHANGED: Final = 1


class SecretEventLifecycleType:
    DEFINED: Final = 0
    UNDEFINED: Final = 1


class SecretUsageType:
    NONE: Final = 0
    VOLUME: Final = 1
    CEPH: Final = 2
    ISCSI: Final = 3
    TLS: Final = 4
    VTPM: Final = 5
