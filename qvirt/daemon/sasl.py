"""How a client authenticates with SASL, and what becomes of it; the calls themselves are in `auth`.

The mechanism's own work may wait for others (password files, names, a realm's servers): it is done in threads
of its own, of which there are few, so that nobody else's calls wait for it.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from qvirt.daemon.auth import Word
from qvirt.daemon.network import sasl_address
from qvirt.errors import AuthFailed, QvirtError
from qvirt.net.globs import matches
from qvirt.net.sasl import Properties, ServerExchange, from_wire, to_wire
from qvirt.record import replace

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

T = TypeVar("T")

DEADLINE: Final = 30.0
"""Seconds that one step of a mechanism may take."""
ATTEMPTS: Final = 3
"""How often a client may begin anew before it is dropped: it is guessing."""

_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sasl")


class SaslServer:
    """One client's authentication."""

    def __init__(self, client: "Client", config: Path | None) -> None:
        """config: the folder of libvirt.conf, None for the system's."""
        self._client = client
        self._config = config
        self._exchange: ServerExchange | None = None
        self._started = False
        self._busy = False
        self._attempts = 0

    async def init(self) -> str:
        """Begin: the mechanisms a client may choose from."""

        def begin() -> tuple[ServerExchange, str]:
            exchange = ServerExchange(
                self._properties(),
                local=sasl_address(client.local_address),
                remote=sasl_address(client.address),
                external_ssf=client.cipher_bits,
                config=self._config,
            )
            return exchange, exchange.mechanisms()

        client = self._client
        if self._exchange is not None or client.authenticated:
            self._fail("client tried invalid SASL init request")
        self._attempts += 1
        if self._attempts > ATTEMPTS:
            client.refuse(f"it failed {ATTEMPTS} times to authenticate")
            self._fail("too many attempts")
        self._exchange, names = await self._run(begin)
        self._started = False
        log.debug("%s may choose from %s", client, names)
        return names

    async def start(self, mechanism: str, nil: int, data: bytes) -> Word:
        """Take the choice and the first word."""
        exchange = self._exchange
        if exchange is None or self._started:
            self._fail("client tried invalid SASL start request")
        self._started = True
        word = from_wire(nil, data)
        return await self._go_on(lambda: exchange.start(mechanism, word), exchange)

    async def step(self, nil: int, data: bytes) -> Word:
        """Take the next word."""
        exchange = self._exchange
        if exchange is None or not self._started:
            self._fail("client tried invalid SASL step request")
        word = from_wire(nil, data)
        return await self._go_on(lambda: exchange.step(word), exchange)

    def _properties(self) -> Properties:
        if self._client.service.transport == "tcp":
            return Properties.bare(self._client.server.config.remote.tcp_min_ssf)
        return Properties.secured()

    async def _go_on(self, work: Callable[[], tuple[bool, bytes | None]], exchange: ServerExchange) -> Word:
        done, answer = await self._run(work)
        if done:
            self._admit(exchange)
        return (int(done), *to_wire(answer))

    async def _run(self, work: Callable[[], T]) -> T:
        """Do the mechanism's work in a thread; whatever goes wrong with it ends the attempt."""
        if self._busy:
            self._fail("client sent a SASL request before the last one was answered")
        self._busy = True
        future = asyncio.get_running_loop().run_in_executor(_threads, work)
        try:
            async with asyncio.timeout(DEADLINE):
                return await asyncio.shield(future)
        except TimeoutError:
            self._fail(f"the mechanism took longer than {DEADLINE:g} s")
        except QvirtError as error:
            self._fail(error.detail)
        finally:
            self._busy = False

    def _admit(self, exchange: ServerExchange) -> None:
        """The mechanism is content: see whether we are. Raises AuthFailed."""
        client = self._client
        remote = client.server.config.remote
        try:
            name, ssf = exchange.username, exchange.ssf
        except AuthFailed as error:
            self._fail(error.detail)
        if client.service.transport == "tcp" and ssf < remote.tcp_min_ssf:
            self._fail(f"negotiated SSF {ssf} was not strong enough, tcp_min_ssf is {remote.tcp_min_ssf}")
        allowed = remote.sasl_allowed_username_list
        if allowed is not None and not any(matches(pattern, name) for pattern in allowed):
            self._fail(f"SASL client identity '{name}' not allowed by sasl_allowed_username_list")
        client.identity = client.session.identity = replace(client.identity, sasl_user=name)
        log.info("%s is '%s', encryption of %d bits", client, name, ssf)
        if ssf:
            layer = exchange.layer()
            # Once the answer is out, which is the last in clear.
            client.after_reply = lambda: client.put_on(layer)
        client.trust()

    def _fail(self, reason: str) -> NoReturn:
        """End the attempt: the reason is for the log, the client learns none."""
        log.warning("%s failed to authenticate: %s", self._client, reason)
        self._exchange = None
        self._started = False
        raise AuthFailed("authentication failed")
