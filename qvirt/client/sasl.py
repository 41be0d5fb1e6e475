"""Authenticating with SASL: the client's side of the exchange."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from qvirt.client.channel import Channel
from qvirt.constants.error import ErrorDomain
from qvirt.errors import AuthFailed
from qvirt.net.sasl import CLIENT_MIN_SSF, Answer, ClientExchange, Properties, from_wire, to_wire

Call = Callable[..., Awaitable[Any]]

STEPS: Final = 100
"""Words after which an exchange leads nowhere."""


async def authenticate(
    call: Call, channel: Channel, *, hostname: str, wanted: str | None, answer: Answer
) -> None:
    """Authenticate, and put the mechanism's layer on where the channel has none of its own.

    wanted: the only mechanism to be used; None leaves the choice to the library. Raises AuthFailed.
    """
    offered = str((await call("AUTH_SASL_INIT")).mechlist)
    if wanted is not None and wanted.upper() not in offered.replace(" ", ",").upper().split(","):
        raise AuthFailed(
            f"SASL mechanism {wanted} not supported by server, which offers: {offered}",
            domain=ErrorDomain.REMOTE,
        )
    properties = Properties.secured() if channel.is_secure else Properties.bare(CLIENT_MIN_SSF)
    try:
        exchange = await asyncio.to_thread(
            ClientExchange,
            hostname,
            properties,
            answer,
            local=channel.addresses[0],
            remote=channel.addresses[1],
            external_ssf=channel.cipher_bits,
        )
        name, done, word = await asyncio.to_thread(exchange.start, wanted or offered)
        reply = await call("AUTH_SASL_START", mech=name, **_word(word))
        for _ in range(STEPS):
            if not done:
                done, word = await asyncio.to_thread(exchange.step, from_wire(reply.nil, reply.data))
            if reply.complete and done:
                break
            reply = await call("AUTH_SASL_STEP", **_word(word))
        else:
            raise AuthFailed(f"the exchange of {name} does not end")
        ssf = exchange.ssf
    except AuthFailed as error:
        raise AuthFailed(error.detail, domain=error.domain) from error
    if not channel.is_secure and ssf < CLIENT_MIN_SSF:
        raise AuthFailed(f"negotiation SSF {ssf} was not strong enough", domain=ErrorDomain.REMOTE)
    if ssf:
        channel.put_on(exchange.layer())


def _word(data: bytes | None) -> dict[str, int | bytes]:
    nil, word = to_wire(data)
    return {"nil": nil, "data": word}
