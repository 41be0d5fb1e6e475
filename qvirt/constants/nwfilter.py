"""libvirt-nwfilter.h: network filters."""

from typing import Final


class NWFilterBindingCreateFlags:
    VALIDATE: Final = 1


class NWFilterDefineFlags:
    VALIDATE: Final = 1
