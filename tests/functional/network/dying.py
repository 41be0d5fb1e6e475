"""Networks whose daemon dies: ``python -m tests.functional.network.dying ROOT WHAT STEP``.

WHAT is start, stop, update, or look; all but the last end by SIGKILL after STEP steps, and print the steps'
names when they got through.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from qvirt.constants.network import NetworkUpdateCommand as Command
from qvirt.constants.network import NetworkUpdateFlags as Flags
from qvirt.constants.network import NetworkUpdateSection as Section
from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.network import NetworkFolders
from qvirt.host.persist import FileWorker

NAME = "dying"
UUID = "11111111-2222-3333-4444-555555555566"
#: one more range, in the definition and in what runs
CHANGE = (
    *(Command.ADD_LAST, Section.IP_DHCP_RANGE, -1, "<range start='10.78.1.110' end='10.78.1.120'/>"),
    Flags.LIVE | Flags.CONFIG,
)
DOCUMENT = f"""<network><name>{NAME}</name><uuid>{UUID}</uuid>
<forward mode='nat'/><bridge name='vbdying'/>
<ip address='10.78.1.1' prefix='24'>
<dhcp><range start='10.78.1.10' end='10.78.1.99'/></dhcp></ip></network>"""


async def work(root: Path, what: str, fatal: int) -> object:
    """Do one thing; return what is to be printed."""
    steps: list[str] = []

    def checkpoint(step: str) -> None:
        if len(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        steps.append(step)

    files = FileWorker()
    folders = NetworkFolders(root / "etc", root / "run", root / "lib", root / "dnsmasq")
    networks = await Networks.open(folders, files, privileged=True, with_default=False)
    try:
        network = networks.find(UUID)
        if what == "look":
            ranges = [
                [item.start for ip in document.ips for item in ip.ranges]
                for document in (network.definition, network.live)
                if document is not None
            ] if network is not None else []  # fmt: skip
            return {"active": network is not None and network.active, "ranges": ranges}
        networks.host.checkpoint = checkpoint
        if what == "start":
            await networks.start(await networks.define(DOCUMENT))
        elif what == "update":
            await networks.update(networks.by_name(NAME), *CHANGE)
        else:
            await networks.destroy(networks.by_name(NAME))
        return steps
    finally:
        await networks.close()
        await files.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
