"""Displays: pictures of them, and connections to them."""

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from qvirt.errors import ConfigUnsupported, InternalError, OperationInvalid, SystemError_
from qvirt.qmp import commands
from qvirt.record import Record
from qvirt.runtime.jobs import Job
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain


class Screenshot(Record):
    """A picture of a display; the caller closes ``file``, which has no name any more."""

    mime: str
    file: BinaryIO


async def screenshot(domain: "Domain", screen: int) -> Screenshot:
    """Take a picture of a screen; PNG where this QEMU can, else PPM."""
    async with domain.job(Job.QUERY, "screenshot"):
        running = domain.need_running()
        videos = running.definition.devices.videos
        if not videos:
            raise OperationInvalid("no screens to take screenshot from")
        heads = sum((video.model.heads or 1) for video in videos[:1])
        if screen >= heads:
            raise OperationInvalid("no such screen ID")
        png = running.caps is not None and running.caps.schema_has("screendump/arg-type/format/^png")
        hv = domain.hypervisor
        folder = running.folder  # where every security model lets QEMU write

        def make() -> tuple[BinaryIO, str]:
            try:
                fd, path = tempfile.mkstemp(prefix="qemu.screendump.", dir=folder)
                file = os.fdopen(fd, "r+b")
                try:
                    running.guard.own(f"/proc/self/fd/{fd}")  # the folder is QEMU's, and so are its names
                except BaseException:
                    file.close()
                    Path(path).unlink(missing_ok=True)
                    raise
            except OSError as error:
                raise SystemError_(f"cannot create a file in '{folder}'", error) from error
            return file, path

        file, path = await hv.files.run("screenshot", make)
        try:
            alias = videos[0].alias.name
            await commands.screendump(
                running,
                path,
                device=alias if screen and alias else None,
                head=screen if screen and alias else None,
                format="png" if png else None,
            )
        except BaseException:
            file.close()
            raise
        finally:
            Path(path).unlink(missing_ok=True)
    return Screenshot("image/png" if png else "image/x-portable-pixmap", file)


async def open_graphics(domain: "Domain", idx: int, fd: int, *, skip_auth: bool) -> None:
    """Give a connected socket to a display; it stays the caller's to close."""
    running = domain.need_running()
    protocol = _protocol(running, idx)
    async with domain.job(Job.MODIFY, "open graphics"):
        running = domain.need_running()
        await commands.add_client(running, protocol, fd, skipauth=skip_auth)


async def open_graphics_fd(domain: "Domain", idx: int, *, skip_auth: bool) -> int:
    """Return a new socket that is connected to a display; the caller closes it."""
    _protocol(domain.need_running(), idx)
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            await open_graphics(domain, idx, theirs.fileno(), skip_auth=skip_auth)
    except BaseException:
        ours.close()
        raise
    return ours.detach()


def _protocol(running: Running, idx: int) -> str:
    graphics = running.definition.devices.graphics
    if idx >= len(graphics):
        raise InternalError(f"No graphics backend with index {idx}")
    kind = graphics[idx].type
    if kind == "vnc":
        return "vnc"
    if kind == "spice":
        return "spice"
    if kind == "dbus":
        return "@dbus-display"
    raise ConfigUnsupported(f"Can only open VNC, SPICE or D-Bus p2p graphics backends, not {kind}")
