"""The handlers of all device kinds; importing this package registers them.

One line each, so that two people can add a kind without meeting.
"""

from qvirt.qemu.devices import audio as audio
from qvirt.qemu.devices import char as char
from qvirt.qemu.devices import controller as controller
from qvirt.qemu.devices import crypto as crypto
from qvirt.qemu.devices import disk as disk
from qvirt.qemu.devices import filesystem as filesystem
from qvirt.qemu.devices import graphics as graphics
from qvirt.qemu.devices import hostdev as hostdev
from qvirt.qemu.devices import hub as hub
from qvirt.qemu.devices import input as input
from qvirt.qemu.devices import interface as interface
from qvirt.qemu.devices import iommu as iommu
from qvirt.qemu.devices import lease as lease
from qvirt.qemu.devices import memballoon as memballoon
from qvirt.qemu.devices import memory as memory
from qvirt.qemu.devices import nvram as nvram
from qvirt.qemu.devices import panic as panic
from qvirt.qemu.devices import redirdev as redirdev
from qvirt.qemu.devices import rng as rng
from qvirt.qemu.devices import shmem as shmem
from qvirt.qemu.devices import smartcard as smartcard
from qvirt.qemu.devices import sound as sound
from qvirt.qemu.devices import tpm as tpm
from qvirt.qemu.devices import video as video
from qvirt.qemu.devices import vsock as vsock
from qvirt.qemu.devices import watchdog as watchdog
