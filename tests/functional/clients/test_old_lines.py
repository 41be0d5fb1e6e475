"""Command lines that today's QEMU refuses, and what they stand on: imported, defined and started by virsh.

The lines are the corpus's, which lies beside the project. Files they name are made; in a network of its own
there are a bridge, an iSCSI server and ports below 1024; SPICE has certificates; guests are emulated.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qvirt.qemu.importer.text import emulator_first
from tests.support.daemon import Daemon, make_root
from tests.support.iscsi import iscsi_target
from tests.support.netns import Namespace, namespace
from tests.support.remote import Pki

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

#: lines that need what no test can give
NOT_HERE = {
    "rw-6507d397ec": "PCI devices of the host",
    "rw-0de3946fe5": "PCI devices of the host",
    "rw-829729de7b": "a GPU that can draw for the guest",
}
#: switches whose value is a path, and what the file is
WHOLE = {
    **dict.fromkeys(("hda", "hdb", "hdc", "hdd", "cdrom", "sd"), "disk"),
    **dict.fromkeys(("fda", "fdb"), "floppy"),
    "kernel": "kernel", "initrd": "initrd", "dtb": "dtb", "pflash": "pflash", "bios": "firmware",
}  # fmt: skip
#: words before a command that hide KVM from it: what a kernel's KVM cannot do is not these tests' question
WITHOUT_KVM = (
    "unshare", "--mount", "--propagation", "private",
    "sh", "-c", 'mount --bind /dev/null /dev/kvm 2>/dev/null; exec "$@"', "sh",
)  # fmt: skip
#: the target of a line that names an iSCSI disk. tgtd keeps the number 0 for itself, so the disk is 1
TARGET = "iqn.2019-10.org.test:foobar"
DISK = 1


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the lines that QEMU 7.2 refuses."""
    cases = [json.loads(text) for text in (folder / "native/command-lines.jsonl").read_text().splitlines()]
    return {case["id"]: case for case in cases if not case["qemu_7_2"].get("accepted")}


class Stand:
    """Where the lines are tried."""

    def __init__(self, daemon: Daemon, network: Namespace, stage: Any, folder: Path) -> None:
        self.daemon, self.network, self.stage, self.folder = daemon, network, stage, folder


@pytest.fixture(scope="module")
def stand(conformance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if os.geteuid():
        pytest.skip("networks and ports below 1024 are root's")
    spec = importlib.util.spec_from_file_location("machines", conformance / "native/compare_machines.py")
    assert spec is not None
    assert spec.loader is not None
    machines = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(machines)
    folder = tmp_path_factory.mktemp("lines")
    stage = machines.Stage()
    Path(stage.dir).chmod(0o777)  # QEMU's user makes sockets in it
    certificates = Path(stage.dir) / "spice"
    certificates.mkdir()
    pki = Pki(folder / "pki")
    for theirs, ours in (
        ("ca-cert.pem", "cacert.pem"),
        ("server-cert.pem", "servercert.pem"),
        ("server-key.pem", "serverkey.pem"),
    ):
        shutil.copy(pki.server / ours, certificates / theirs)
        (certificates / theirs).chmod(0o644)
    with namespace() as network:
        network.ip("link", "add", "br0", "type", "bridge")
        network.ip("link", "set", "br0", "up")
        network.ip("addr", "add", "192.0.2.1/24", "dev", "br0")  # else names have no addresses
        network.run("sysctl", "-w", "net.ipv4.ip_unprivileged_port_start=0")
        daemon = Daemon(make_root(), prefix=(*network.prefix, *WITHOUT_KVM))
        conf = daemon.root / "etc/libvirt/qemu.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(f'spice_tls = 1\nspice_tls_x509_cert_dir = "{certificates}"\n')
        try:
            yield Stand(daemon.start(), network, stage, folder)
        finally:
            daemon.clean()
            stage.close()


@pytest.fixture
def iscsi(stand: Stand) -> Iterator[None]:
    """Serve the disk that a line names by iSCSI."""
    image = stand.folder / "lun"
    image.write_bytes(bytes(1 << 20))
    with iscsi_target(stand.network, TARGET, image, lun=DISK):
        yield


def staged(case: Mapping[str, Any], stage: Any) -> str:
    """Return a line as text, with every file it names there."""
    env, argv = emulator_first(case.get("env") or {}, case["argv"])
    stage.arch = os.path.basename(argv[0]).removeprefix("qemu-system-")
    stage.arch = {"kvm": "x86_64", "qemu-kvm": "x86_64", "qemu": "i386"}.get(stage.arch, stage.arch)
    stage.machine = " ".join(argv)
    made = [argv[0]]
    for before, word in pairwise(argv):
        name = before.lstrip("-") if before.startswith("-") else ""
        if name in WHOLE and not word.startswith("/dev/"):
            word = stage.path(word, WHOLE[name])
        elif name == "drive":
            word = _drive(word, stage)
        elif name == "blockdev":
            word = json.dumps(_blockdev(json.loads(word), stage)) if word[:1] == "{" else _drive(word, stage)
        elif name in ("netdev", "net"):
            word = re.sub(r"(?<=script=)/[^,]+", "/bin/true", word)
        elif name == "chardev" and "path=" in word:
            word = re.sub(r"(?<=path=)[^,]+", lambda path: stage.path(path[0], "socket"), word)
        elif name == "vnc":
            word = re.sub(r"(?<=unix:)[^,]+", lambda path: stage.path(path[0], "socket"), word)
        if name == "dtb":
            Path(word).write_bytes(device_tree())
        made.append(word)
    for path in Path(stage.dir).iterdir():
        if path.is_file():
            path.chmod(0o666)  # of what is handed on the daemon knows nothing, and gives it to nobody
    return "".join(f"{key}={shlex.quote(value)} " for key, value in env.items()) + shlex.join(made)


def device_tree() -> bytes:
    """Return the smallest tree that a board can add its memory to."""
    names = b"#address-cells\0#size-cells\0"
    words = (1, 0, 3, 4, 0, 1, 3, 4, names.index(b"#size"), 1, 2, 9)  # a root with two numbers, each 1
    body = struct.pack(f">{len(words)}I", *words)
    begin = 40 + 16  # the header, and no memory that is reserved
    whole = begin + len(body) + len(names)
    head = (0xD00DFEED, whole, begin, begin + len(body), 40, 17, 16, 0, len(names), len(body))
    return struct.pack(">10I", *head) + bytes(16) + body + names


def _drive(text: str, stage: Any) -> str:
    parts = {name: value for name, _, value in (part.partition("=") for part in text.split(","))}
    role = "pflash" if parts.get("if") == "pflash" or "pflash" in parts.get("node-name", "") else "disk"
    for key in ("file", "filename"):
        if key in parts and not parts[key].startswith("/dev/"):
            path = stage.path(parts[key], role, parts.get("format"))
            text = text.replace(f"{key}={parts[key]}", f"{key}={path}")
    return text


def _blockdev(
    node: dict[str, Any], stage: Any, format: str | None = None, flash: bool = False
) -> dict[str, Any]:
    flash = flash or "pflash" in str(node.get("node-name", ""))
    for value in node.values():
        if isinstance(value, dict):
            _blockdev(value, stage, node.get("driver"), flash)
    if "filename" in node:
        node["driver"] = "file"  # not a disk of the host
        inner = format if format in ("qcow2", "vmdk") else None
        node["filename"] = stage.path(node["filename"], "pflash" if flash else "disk", inner)
    if node.get("driver") == "iscsi":
        node["lun"] = DISK
    return node


def _ids() -> list[str]:
    folder = Path(__file__).parents[4] / "shared/conformance"
    return sorted(lines(folder)) if folder.is_dir() else []


@pytest.mark.parametrize("id", _ids())
def test_a_line_of_old_starts(
    id: str, stand: Stand, conformance: Path, request: pytest.FixtureRequest
) -> None:
    if id in NOT_HERE:
        pytest.skip(f"it needs {NOT_HERE[id]}")
    case = lines(conformance)[id]
    if shutil.which(os.path.basename(case["argv"][0])) is None and case["argv"][0].startswith("qemu-system-"):
        pytest.skip(f"{case['argv'][0]} is not installed")
    text = staged(case, stand.stage)
    if '"iscsi"' in text:
        request.getfixturevalue("iscsi")
    script = stand.folder / f"{id}.sh"
    script.write_text(text)
    daemon = stand.daemon
    xml = daemon.virsh("domxml-from-native", "qemu-argv", str(script))
    name = re.search("<name>(.*)</name>", xml)
    assert name is not None
    document = stand.folder / f"{id}.xml"
    document.write_text(xml.replace(name[0], f"<name>{id}</name>"))
    daemon.virsh("define", "--validate", str(document))
    try:
        daemon.virsh("start", id, "--paused")
        assert daemon.virsh("domstate", id).strip() == "paused"
    finally:
        daemon.virsh_run("destroy", id)
        daemon.virsh("undefine", id, "--nvram")
