"""Networks on disk: definitions, autostart links, status files. Blocking."""

import contextlib
import logging
import os
from pathlib import Path

from qvirt.drivers.network.network import Network, NetworkFolders
from qvirt.errors import QvirtError, SystemError_
from qvirt.host.persist import is_leftover, make_folder, remove, write_atomic
from qvirt.model.network import Network as Document
from qvirt.model.network import parse_network
from qvirt.model.network_port import NetworkPort, parse_network_port
from qvirt.record import Record
from qvirt.xml.codecs import format_cpuset
from qvirt.xml.document import parse_element

log = logging.getLogger(__name__)


class Loaded(Record):
    """What the folders held. active: document and ports by name; reports: what could not be read."""

    definitions: list[Document]
    autostart: frozenset[str]
    active: dict[str, tuple[Document, list[NetworkPort]]]
    reports: list[str]


def make_folders(folders: NetworkFolders) -> None:
    """Make the folders with libvirt's modes. Raises SystemError_."""
    try:
        for folder, mode in (
            (folders.definitions, 0o755),
            (folders.autostart, 0o755),
            (folders.run, 0o755),
            (folders.lib, 0o755),
            (folders.dnsmasq, 0o755),
        ):
            make_folder(folder, mode)
    except OSError as error:
        raise SystemError_(f"cannot create folder '{error.filename}'", error) from error


def load(folders: NetworkFolders) -> Loaded:
    """Read everything; what cannot be read stays where it is and is reported."""
    reports: list[str] = []
    definitions: list[Document] = []
    active: dict[str, tuple[Document, list[NetworkPort]]] = {}
    for path in _documents(folders.definitions):
        try:
            document = parse_network(path.read_text(encoding="utf-8", errors="surrogateescape"))
            if document.name != path.stem:
                raise QvirtError(f"the network in it is called '{document.name}'")
            definitions.append(document)
        except (QvirtError, OSError) as error:
            reports.append(f"network definition '{path}' was left alone: {error}")
    for path in _documents(folders.run):
        try:
            document = _read_status(path)
            active[document.name] = document, _read_ports(folders.ports(document.name), reports)
        except (QvirtError, OSError) as error:
            reports.append(f"network status '{path}' was left alone: {error}")
    links = frozenset(path.stem for path in _documents(folders.autostart))
    return Loaded(definitions, links, active, reports)


def _documents(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.xml") if not is_leftover(path))


def _read_status(path: Path) -> Document:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    root = parse_element(text, "(network_status)")
    inner = root.find("network")
    if root.tag != "networkstatus" or inner is None:
        raise QvirtError("there is no <network> in <networkstatus>")
    return Document.from_xml(inner)


def _read_ports(folder: Path, reports: list[str]) -> list[NetworkPort]:
    ports = []
    for path in _documents(folder):
        try:
            ports.append(parse_network_port(path.read_text(encoding="utf-8", errors="surrogateescape")))
        except (QvirtError, OSError) as error:
            reports.append(f"network port '{path}' was left alone: {error}")
    return ports


def header(command: str, name: str) -> str:
    """Return the warning that libvirt puts above a document it keeps."""
    return (
        "<!--\n"
        "WARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE\n"
        "OVERWRITTEN AND LOST. Changes to this xml configuration should be made using:\n"
        f"  virsh {command} {name}\n"
        "or other application using the libvirt API.\n"
        "-->\n"
        "\n"
    )


def write_definition(folders: NetworkFolders, document: Document) -> None:
    """Keep a definition. Raises SystemError_."""
    text = header("net-edit", document.name) + document.to_xml()
    write_atomic(folders.definition(document.name), text.encode("utf-8", "surrogateescape"))


def erase_definition(folders: NetworkFolders, name: str) -> None:
    """Forget a definition and its autostart. Raises SystemError_."""
    remove(folders.autostart_link(name))
    remove(folders.definition(name))


def write_status(network: Network) -> None:
    """Keep what an active network needs after a restart of the daemon. Raises SystemError_."""
    live = network.live
    if live is None:
        return
    guaranteed = [port for port in network.ports.values() if port.class_id is not None]
    classes = frozenset((0, 1, 2, *(port.class_id or 0 for port in guaranteed)))
    lines = [
        "<networkstatus>\n",
        f"  <class_id bitmap='{format_cpuset(classes)}'/>\n",
        f"  <floor sum='{sum(port.floor for port in guaranteed)}'/>\n",
    ]
    live.write(lines, "  ")
    lines.append("</networkstatus>\n")
    text = header("net-edit", network.name) + "".join(lines)
    data = text.encode("utf-8", "surrogateescape")
    write_atomic(network.host.folders.status(network.name), data, sync=False)


def erase_status(folders: NetworkFolders, name: str) -> None:
    """Forget that a network is active, and its ports. Raises SystemError_."""
    remove(folders.status(name))
    folder = folders.ports(name)
    if folder.is_dir():
        for path in folder.glob("*.xml"):
            remove(path)
        with contextlib.suppress(OSError):  # somebody else keeps something there
            folder.rmdir()
            if folder.parent != folders.run:
                folder.parent.rmdir()


def set_autostart(folders: NetworkFolders, name: str, wanted: bool) -> None:
    """Make or remove the link. Raises SystemError_."""
    link = folders.autostart_link(name)
    if not wanted:
        remove(link)
        return
    try:
        folders.autostart.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            os.symlink(folders.definition(name), link)
    except OSError as error:
        raise SystemError_(
            f"Failed to create symlink '{link}' to '{folders.definition(name)}'", error
        ) from error
