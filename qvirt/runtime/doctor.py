"""What keeps QEMU's user from a domain's files: ``python -m qvirt.runtime.doctor LABEL CONF``.

LABEL is ``USER:GROUP``, as the capabilities name it, CONF the daemon's qemu.conf. The document is on stdin.
Prints one finding per line; nothing when all is well.
"""

import asyncio
import sys
from pathlib import Path

from qvirt.errors import QvirtError
from qvirt.host import images
from qvirt.host.config import QemuConfig, read_config
from qvirt.host.emulators import EmulatorTable
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.context import Context
from qvirt.qemu.devices.base import Resource, handler
from qvirt.qemu.start import boot_files
from qvirt.runtime.life import lending
from qvirt.security.dac import Dac, parse_label
from qvirt.security.model import Guest
from qvirt.security.stack import Guard


async def findings(definition: Domain, label: str, config: QemuConfig) -> list[str]:
    """Look at everything a start would open. Raises QvirtError for a document that cannot be read."""
    guest = Guest(seclabels=definition.seclabels)
    model = Dac(config, parse_label(label), "")
    model.recall(guest)
    found: list[str] = []
    for disk in definition.devices.disks:
        try:
            images.fill_in(images.look_below([disk]))
        except QvirtError as error:
            found.append(f"disk '{disk.name}': {error.detail}")
    caps = await EmulatorTable(None).caps(definition.devices.emulator or "qemu-system-x86_64")
    ctx = Context(domain=definition, caps=caps, generate_mac=str, generate_uuid=str)
    files: list[Resource] = [
        resource for dev in definition.devices.all() for resource in handler(dev).resources(dev, ctx)
    ]
    files += boot_files(definition)
    found += lending.troubles(Guard((model,), guest), files)
    return [line for line in dict.fromkeys(found) if line]


def main() -> int:
    """Print the findings; the status is 1 when there are some."""
    label, conf = sys.argv[1:]
    try:
        config = read_config(Path(conf), privileged=True)
    except QvirtError as error:
        print(f"{error}: options that change no owner or keep capabilities are not known", file=sys.stderr)
        config = QemuConfig()
    try:
        found = asyncio.run(findings(parse_domain(Path("/dev/stdin").read_text()), label, config))
    except QvirtError as error:
        found = [str(error)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
