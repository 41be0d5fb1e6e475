"""Networks whose daemon dies: ``python -m tests.functional.network.dying ROOT WHAT STEP``.

WHAT is start, stop, or look; the first two end by SIGKILL after STEP steps, and print the steps' names when
they got through.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.network import NetworkFolders
from qvirt.host.persist import FileWorker

NAME = "dying"
DOCUMENT = f"""<network><name>{NAME}</name><uuid>11111111-2222-3333-4444-555555555566</uuid>
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
        if what == "look":
            return {"active": networks.by_name(NAME).active, "reports": networks.reports}
        networks.host.checkpoint = checkpoint
        if what == "start":
            await networks.start(await networks.define(DOCUMENT))
        else:
            await networks.destroy(networks.by_name(NAME))
        return steps
    finally:
        await networks.close()
        await files.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
