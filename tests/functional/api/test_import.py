"""QEMU command lines through the stock virsh and the qvirt command: imported, defined, started."""

from pathlib import Path

from tests.support.daemon import Daemon

LINE = (
    "LC_ALL=C /usr/bin/qemu -S -M pc -m 64 -smp 1 -nographic -monitor pty -no-acpi -boot c -hda {disk}"
    " -net none -serial none -parallel none -usb -daemonize -name documented\n"
)


def qvirt(daemon: Daemon, *words: str) -> str:
    """Run the qvirt command."""
    made = daemon.qvirt(*words)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_the_documented_way(daemon: Daemon, tmp_path: Path) -> None:
    disk = daemon.root / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o666)
    script = tmp_path / "start.sh"
    script.write_text(f"DISK={disk}\n" + LINE.format(disk="$DISK"))
    xml = daemon.virsh("domxml-from-native", "qemu-argv", str(script))
    assert f"<source file='{disk}'/>" in xml
    assert "machine='pc-i440fx-7.2'" in xml
    document = tmp_path / "documented.xml"
    document.write_text(xml)
    daemon.virsh("define", "--validate", str(document))
    daemon.virsh("start", "documented")
    try:
        assert "running" in daemon.virsh("domstate", "documented")
        tree = daemon.virsh("qemu-monitor-command", "documented", "--hmp", "info qtree")
        for device in ("ide-hd", "ide-cd", "floppy", "VGA", "piix3-usb-uhci"):
            assert f"dev: {device}," in tree
        assert "dev: isa-serial" not in tree
        assert "dev: e1000" not in tree
    finally:
        daemon.virsh("destroy", "documented")
        daemon.virsh("undefine", "documented")


def test_the_report_and_several_files(daemon: Daemon, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.sh"
        path.write_text("qemu-system-x86_64 -m 64 -net none -daemonize\n")
        files.append(str(path))
    report = qvirt(daemon, "import", "--report", files[0])
    assert "-daemonize\n    dropped: " in report
    assert "-m 64\n    -> <memory>" in report
    printed = qvirt(daemon, "import", "--define", *files)
    assert printed.count("defined from") == 2
    try:
        assert "one" in daemon.virsh("list", "--all", "--name")
    finally:
        for name in ("one", "two"):
            daemon.virsh("undefine", name)
