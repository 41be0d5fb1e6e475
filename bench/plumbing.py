"""The layers beside the documents: a call on the wire and in the dispatcher, and making a process."""

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

from qvirt.daemon.client import Client
from qvirt.daemon.dispatch import Dispatcher
from qvirt.rpc import protocol
from qvirt.rpc.packet import Framer, pack_call
from qvirt.runtime.life.process import Process, become_reaper

LISTED = 100
"""Domains in the reply that is encoded."""


class Plumbing:
    """The layers, each ready to be called again and again."""

    def __init__(self, text: str) -> None:
        remote = protocol.program(protocol.REMOTE).by_name
        self._define = remote["DOMAIN_DEFINE_XML_FLAGS"]
        self._define_call = pack_call(self._define, 1, self._define.encode_args((text, 0)))
        self._list = remote["CONNECT_LIST_ALL_DOMAINS"]
        self._listed = [(f"guest-{i}", i.to_bytes(16, "big"), -1) for i in range(LISTED)]
        null = remote["CONNECT_GET_LIB_VERSION"]
        (self._null_call,) = Framer().feed(pack_call(null, 1))
        self._dispatcher = Dispatcher()
        self._client = cast(
            Client,
            SimpleNamespace(
                session=SimpleNamespace(driver="QEMU", readonly=False),
                authenticated=True,
                closed=False,
                write=lambda data: None,
            ),
        )
        self._loop = asyncio.new_event_loop()
        self._log_fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        become_reaper()

    def decode(self) -> object:
        """A define call's bytes to its arguments."""
        (packet,) = Framer().feed(self._define_call)
        return self._define.decode_args(packet.payload)

    def encode(self) -> object:
        """A list of domains to the reply's bytes."""
        return self._list.encode_ret((self._listed, LISTED))

    def dispatch(self) -> object:
        """A packet to the function it calls, and its reply."""
        entry = self._dispatcher.entry(self._null_call)
        return self._dispatcher.call(self._client, entry, self._null_call, [])

    def launch(self) -> object:
        """A process from nothing to its end: the launcher, unconfined, and /bin/true."""
        return self._loop.run_until_complete(self._launch())

    async def _launch(self) -> None:
        process = await Process.spawn(["/bin/true"], env={"PATH": os.defpath}, log_fd=self._log_fd)
        process.go()
        await process.exited


NAMES = ("decode", "encode", "dispatch", "launch")


def layers(text: str) -> dict[str, Any]:
    """Return the layers by name, for a document."""
    made = Plumbing(text)
    return {name: getattr(made, name) for name in NAMES}
