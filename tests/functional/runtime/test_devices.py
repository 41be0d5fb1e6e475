"""What devices need of the host and of us: taps, displays, keys, firmware variables, optional media."""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import (
    InternalError,
    InvalidArg,
    NoDomainMetadata,
    OperationInvalid,
    OperationTimeout,
    OperationUnsupported,
    QvirtError,
)
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import DiskChange, MetadataChange
from tests.functional.runtime.instance import EMULATOR, Recorder, disk, document, instance, run
from tests.support.netns import devices_of

pytestmark = pytest.mark.qemu


def ip(*words: str) -> bool:
    """Run ip; tells whether it could."""
    try:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def link(name: str, *kind: str) -> Iterator[str]:
    """A network device of the test's own."""
    if os.geteuid() != 0 or not ip("link", "add", name, "type", *kind):
        pytest.skip(f"cannot make a {kind[0]} device here")
    try:
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "del", name)


def exists(name: str | None) -> bool:
    return name is not None and Path(f"/sys/class/net/{name}").exists()


def test_bridge_tap_comes_and_goes() -> None:
    async def scenario() -> None:
        name = f"qvbr{os.getpid() % 100000}"
        mac = f"52:54:00:98:{os.getpid() >> 8 & 255:02x}:{os.getpid() & 255:02x}"
        with instance() as it, link(name, "bridge"):
            nic = (
                f"<interface type='bridge'><mac address='{mac}'/><source bridge='{name}'/>"
                "<model type='virtio'/></interface>"
            )
            async with it.serve() as hv:
                domain = await hv.create(document("tap", nic))
                tap = domain.live.devices.interfaces[0].target.dev
                assert tap is not None
                assert tap.startswith("vnet")
                assert Path(f"/sys/class/net/{tap}/master").resolve().name == name
                assert Path(f"/sys/class/net/{tap}/address").read_text().strip() == f"fe{mac[2:]}"
                stats = await domain.interface_stats(tap)
                assert await domain.interface_stats(mac) is not None
                assert stats.rx_errs == 0
                (bulk,) = await hv.bulk_stats([domain], 0)
                assert ("net.0.name", tap) in [(param.name, param.value) for param in bulk.params]
                with pytest.raises(InvalidArg, match="'foo' is not a known interface"):
                    await domain.interface_stats("foo")
                await domain.destroy()
                assert not exists(tap)
                # a start that fails later leaves no tap
                broken = document(
                    "broken",
                    nic,
                    "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='1'/></serial>",
                )
                with pytest.raises(InternalError):
                    await hv.create(broken)
                assert not devices_of(mac)

    run(scenario())


def test_macvtap_comes_and_goes() -> None:
    async def scenario() -> None:
        name = f"qvdm{os.getpid() % 100000}"
        with instance() as it, link(name, "veth"):
            nic = f"<interface type='direct'><source dev='{name}' mode='bridge'/></interface>"
            async with it.serve() as hv:
                try:
                    domain = await hv.create(document("mv", nic))
                except QvirtError as error:
                    if "macvtap" in str(error) or "/dev/tap" in str(error):
                        assert it.traces() == []
                        pytest.skip(f"no macvtap here: {error}")
                    raise
                device = domain.live.devices.interfaces[0].target.dev
                assert exists(device)
                await domain.destroy()
                assert not exists(device)

    run(scenario())


def test_display_connections_and_pictures() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(
                    document("vnc", "<graphics type='vnc' port='-1'/>", "<video><model type='vga'/></video>")
                )
                with socket.socket(fileno=await domain.open_graphics_fd(0)) as viewer:
                    viewer.settimeout(10)
                    greeting = await asyncio.to_thread(viewer.recv, 12)
                    assert greeting.startswith(b"RFB ")
                with pytest.raises(InternalError, match="No graphics backend with index 1"):
                    await domain.open_graphics_fd(1)
                picture = await domain.screenshot()
                with picture.file as file:
                    assert picture.mime == "image/png"
                    assert file.read(8) == b"\x89PNG\r\n\x1a\n"
                with pytest.raises(OperationInvalid, match="no such screen ID"):
                    await domain.screenshot(3)
                assert not list(it.paths.cache.glob("qemu.screendump*"))
                await domain.send_key(0, 10, [30, 31])
                with pytest.raises(InternalError, match="cannot translate keycode 9999 of linux codeset"):
                    await domain.send_key(0, 0, [9999])
                await domain.inject_nmi()
                await domain.destroy()

    run(scenario())


def test_passwords_are_shown_to_the_trusted_only() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("pw", "<graphics type='vnc' port='-1' passwd='s3cret'/>"))
                await domain.start()
                for flags in (0, DomainXMLFlags.INACTIVE):
                    assert "s3cret" not in await domain.xml_desc(flags)
                    assert "s3cret" in await domain.xml_desc(flags | DomainXMLFlags.SECURE)
                assert it.paths.status("pw").stat().st_mode & 0o077 == 0
                await domain.destroy()

    run(scenario())


def test_firmware_variables_are_made_from_the_template() -> None:
    async def scenario() -> None:
        code, template = Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")
        if not code.exists():
            pytest.skip("no OVMF here")
        with instance() as it:
            nvram = it.paths.nvram / "fw_VARS.fd"
            xml = document("fw").replace(
                "hvm</type>",
                f"hvm</type><loader readonly='yes' type='pflash'>{code}</loader>"
                f"<nvram template='{template}'>{nvram}</nvram>",
            )
            async with it.serve() as hv:
                domain = await hv.define(xml)
                await domain.start(paused=True)
                assert nvram.read_bytes() == template.read_bytes()
                await domain.destroy()
                nvram.write_bytes(b"\1" * template.stat().st_size)
                await domain.start(paused=True)
                assert nvram.read_bytes()[:1] == b"\1"
                await domain.destroy()
                await domain.start(paused=True, reset_nvram=True)
                assert nvram.read_bytes() == template.read_bytes()
                await domain.destroy()
                with pytest.raises(OperationInvalid, match="cannot undefine domain with nvram"):
                    await domain.undefine()
                await domain.undefine(8)
                assert nvram.exists()

    run(scenario())


def test_optional_medium_is_taken_out_when_it_is_missing() -> None:
    async def scenario() -> None:
        with instance() as it:
            cd = (
                f"<disk type='file' device='cdrom'><source file='{it.root}/gone.iso'"
                " startupPolicy='optional'/><target dev='hdc' bus='ide'/></disk>"
            )
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(document("cd", cd))
                await domain.start()
                (change,) = seen.of(DiskChange)
                assert (change.old_src_path, change.new_src_path, change.reason) == (
                    f"{it.root}/gone.iso",
                    None,
                    0,
                )
                assert change.dev_alias == "ide0-1-0"
                assert "gone.iso" not in await domain.xml_desc()
                assert "gone.iso" in await domain.xml_desc(DomainXMLFlags.INACTIVE)
                await domain.destroy()

    run(scenario())


def test_static_label_names_the_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                label = (
                    "<seclabel type='static' model='dac' relabel='yes'><label>root:root</label></seclabel>"
                )
                domain = await hv.create(document("static", disk(it.image()), extra="").replace(
                    "</domain>", label + "</domain>"))  # fmt: skip
                status = Path(f"/proc/{domain.need_running().qemu.pid}/status").read_text()
                assert "Uid:\t0\t0\t0\t0" in status
                assert [label.label for label in domain.security_labels()] == ["", "root:root"]
                assert "tainted: running with undesirable elevated privileges" in domain.messages()
                await domain.destroy()
                bad = label.replace("root:root", "no-such-user:root")
                with pytest.raises(InvalidArg, match="Failed to parse user 'no-such-user'"):
                    await hv.create(document("bad").replace("</domain>", bad + "</domain>"))

    run(scenario())


def test_title_description_and_metadata() -> None:
    element = "<app:x xmlns:app='http://app'><app:y>1</app:y></app:x>"

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(document("meta"))
                with pytest.raises(NoDomainMetadata, match="Requested metadata element is not present"):
                    await domain.metadata(2, "http://app")
                with pytest.raises(OperationInvalid, match="domain is not running"):
                    await domain.set_metadata(1, "x", None, None, 1)
                await domain.set_metadata(1, "a title", None, None)
                await domain.set_metadata(2, element, "app", "http://app", 2)
                await domain.start()
                await domain.set_metadata(0, "live only", None, None, 1)
                await domain.set_metadata(2, element.replace("1", "2"), "app", "http://app", 3)
                assert await domain.metadata(1, None) == "a title"
                assert await domain.metadata(0, None) == "live only"
                with pytest.raises(NoDomainMetadata):
                    await domain.metadata(0, None, 2)
                assert "<y>2</y>" in await domain.metadata(2, "http://app", 2)
                assert [(e.type, e.nsuri) for e in seen.of(MetadataChange)] == [
                    (1, None), (2, "http://app"), (0, None), (2, "http://app"),
                ]  # fmt: skip
            async with it.serve() as hv:
                domain = hv.domains.by_name("meta")
                assert await domain.metadata(0, None) == "live only"
                await domain.destroy()
                await domain.set_metadata(2, None, None, "http://app")
                with pytest.raises(NoDomainMetadata):
                    await domain.metadata(2, "http://app")

    run(scenario())


def test_managed_save_image_is_never_lost_by_a_start() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("saved"))
                image = it.paths.managed_save("saved")
                image.write_bytes(b"somebody's memory")
                with pytest.raises(OperationUnsupported, match="managed save image"):
                    await domain.start()
                with pytest.raises(OperationInvalid, match="Refusing to undefine while domain managed save"):
                    await domain.undefine()
                assert image.exists()
                await domain.start(force_boot=True)
                assert not image.exists()
                await domain.destroy()

    run(scenario())


MISBEHAVIOURS = {
    "exits": ("echo 'I will not' >&2; exit 1", InternalError, "I will not"),
    "silent": ("exec sleep 1000", OperationTimeout, "did not answer"),
    "nonsense": ('exec python3 -c "$NONSENSE" "$@"', QvirtError, "cannot parse json|isn't an object|JSON"),
}
NONSENSE = r"""
import re, socket, sys, time
fd = int(re.search(r"charmonitor,fd=(\d+)", " ".join(sys.argv))[1])
peer, _ = socket.socket(fileno=fd).accept()
peer.sendall(b"Welcome to the machine\r\n" * 10)
time.sleep(1000)
"""


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_emulator_that_misbehaves(kind: str) -> None:
    script, error, text = MISBEHAVIOURS[kind]

    async def scenario() -> None:
        with instance() as it:
            fake = it.root / "qemu-fake"
            probe = f'case "$*" in *"-machine none"*) exec {EMULATOR} "$@";; esac\n'
            fake.write_text(f"#!/bin/sh\nNONSENSE='{NONSENSE}'\n{probe}{script}\n")
            fake.chmod(0o755)
            async with it.serve() as hv:
                hv.start_deadline = 1.0
                with pytest.raises(error, match=text):
                    await hv.create(document("fake").replace(EMULATOR, str(fake)))
                assert len(hv.domains) == 0
                assert it.traces() == []
                assert it.processes() == []

    run(scenario())


def test_monitor_that_goes_mad_later() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("mad"))
                await _break_monitor(domain)
                with pytest.raises(QvirtError):
                    await domain.suspend()
                assert domain.control_info().state == 3
                assert domain.active
                await domain.destroy()

    run(scenario())


async def _break_monitor(domain: Domain) -> None:
    """Let the monitor's decoder see bytes that are no message, as a broken QEMU would send."""
    link = domain.need_running().monitor
    decoder = link._decoder
    list(decoder._lines.feed(b"this is no"))  # the next line of QEMU begins with this
    with contextlib.suppress(QvirtError):
        await link.execute("query-status", deadline=5)
