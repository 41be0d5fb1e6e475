"""The handlers of all device kinds; importing this package registers them.

One line each, so that two people can add a kind without meeting.
"""

from qvirt.qemu.devices import char as char
from qvirt.qemu.devices import controller as controller
from qvirt.qemu.devices import hub as hub
from qvirt.qemu.devices import input as input
from qvirt.qemu.devices import iommu as iommu
from qvirt.qemu.devices import lease as lease
from qvirt.qemu.devices import memballoon as memballoon
from qvirt.qemu.devices import nvram as nvram
from qvirt.qemu.devices import panic as panic
from qvirt.qemu.devices import watchdog as watchdog
