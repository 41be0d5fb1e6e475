"""What one connection has to carry, however it has come about: calls, a console, a picture of the screen."""

import asyncio
from uuid import uuid4

from qvirt.client.aio import Connection
from tests.wire.guests import guest_xml


async def carry_all(uri: str) -> None:
    """Start a guest by a connection, read its console and its screen, with calls between them."""
    async with asyncio.timeout(100), await Connection.open(uri) as connection:
        domain = await connection.define_xml(guest_xml(f"carried-{uuid4().hex[:8]}"))
        try:
            await domain.create()
            handle = domain.handle
            async with await connection.stream("DOMAIN_OPEN_CONSOLE", dom=handle, dev_name=None) as console:
                seen = b""
                while b"SeaBIOS" not in seen and b"iPXE" not in seen:
                    data = await console.read()
                    assert data, ("the console has ended", seen)
                    seen += data
                    assert await domain.is_active()
                async with await connection.stream("DOMAIN_SCREENSHOT", dom=handle, screen=0) as screen:
                    picture = b""
                    while data := await screen.read():
                        picture += data
                assert len(picture) > 1000
                assert picture[:2] in (b"P6", b"\x89P")
            assert await connection.type() == "QEMU"
        finally:
            await domain.destroy()
            await domain.undefine()
