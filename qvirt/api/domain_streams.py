"""What a domain shows and says: console, channel, screen, displays handed over as descriptors."""

from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session, Stream
from qvirt.constants.domain import DomainChannelFlags, DomainConsoleFlags, DomainOpenGraphicsFlags
from qvirt.errors import InvalidArg
from qvirt.runtime.asking.console import ConsoleStream

_CONSOLE_FLAGS: Final = DomainConsoleFlags.FORCE | DomainConsoleFlags.SAFE


def _connect(console: ConsoleStream, stream: Stream) -> None:
    console.on_closed = stream.pipe(console.fd, console.close)


@remote
async def domain_open_console(
    session: Session, dom: DomainHandle, dev_name: str | None, flags: int, *, stream: Stream
) -> None:
    """Open a console, the first one or by alias."""
    check_flags(flags, _CONSOLE_FLAGS, "qemuDomainOpenConsole")
    _connect(await find(session, dom).open_console(dev_name, flags), stream)


@remote
async def domain_open_channel(
    session: Session, dom: DomainHandle, name: str | None, flags: int, *, stream: Stream
) -> None:
    """Open a channel, the first one or by name."""
    check_flags(flags, DomainChannelFlags.FORCE, "qemuDomainOpenChannel")
    _connect(await find(session, dom).open_channel(name, flags), stream)


@remote
async def domain_screenshot(
    session: Session, dom: DomainHandle, screen: int, flags: int, *, stream: Stream
) -> str:
    """Take a picture of a screen; give its type, send the picture."""
    check_flags(flags, 0, "qemuDomainScreenshot")
    shot = await find(session, dom).screenshot(screen)
    stream.send_file(shot.file.fileno(), shot.file.close)
    return shot.mime


@remote
async def domain_open_graphics(
    session: Session, dom: DomainHandle, idx: int, flags: int, *, fds: list[int]
) -> None:
    """Connect a received socket to a display."""
    check_flags(flags, DomainOpenGraphicsFlags.SKIPAUTH, "qemuDomainOpenGraphics")
    if not fds:
        raise InvalidArg("virDomainOpenGraphics needs a file descriptor, none came with the call")
    skip_auth = bool(flags & DomainOpenGraphicsFlags.SKIPAUTH)
    await find(session, dom).open_graphics(idx, fds[0], skip_auth=skip_auth)


@remote
async def domain_open_graphics_fd(
    session: Session, dom: DomainHandle, idx: int, flags: int, *, reply_fds: list[int]
) -> None:
    """Give a socket that is connected to a display."""
    check_flags(flags, DomainOpenGraphicsFlags.SKIPAUTH, "qemuDomainOpenGraphicsFD")
    skip_auth = bool(flags & DomainOpenGraphicsFlags.SKIPAUTH)
    reply_fds.append(await find(session, dom).open_graphics_fd(idx, skip_auth=skip_auth))
