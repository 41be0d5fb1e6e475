import json
import os
from pathlib import Path

import pytest

from qvirt.host.firmware import FirmwareTable, firmware_dirs, read_firmwares


def write(directory: Path, name: str, executable: str) -> None:
    directory.mkdir(exist_ok=True)
    mapping = {"device": "memory", "filename": executable}
    (directory / name).write_text(
        json.dumps({"interface-types": ["bios"], "mapping": mapping, "targets": []})
    )


def names(dirs: list[Path]) -> list[str]:
    return [firmware.executable for firmware in read_firmwares(dirs)]


def test_order_and_hiding(tmp_path: Path) -> None:
    system, admin, user = tmp_path / "s", tmp_path / "a", tmp_path / "u"
    for name in ("10-a.json", "20-b.json", "30-c.json", "40-d.json"):
        write(system, name, f"/s/{name}")
    write(admin, "20-b.json", "/a/20")
    write(admin, "05-first.json", "/a/05")
    (admin / "30-c.json").write_text("")
    (admin / "40-d.json").symlink_to("/dev/null")
    write(user, "10-a.json", "/u/10")
    write(user, ".hidden.json", "no")
    write(user, "readme.txt", "no")
    assert names([system, admin, user, tmp_path / "none"]) == ["/a/05", "/u/10", "/a/20"]


def test_a_damaged_one_is_reported_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "1.json", "/good")
    (tmp_path / "2.json").write_text("{")
    (tmp_path / "3.json").symlink_to(tmp_path / "nowhere")
    assert names([tmp_path]) == ["/good"]
    assert "2.json" in caplog.text
    assert "3.json" in caplog.text


def test_the_table_notices_changes(tmp_path: Path) -> None:
    write(tmp_path, "1.json", "/one")
    table = FirmwareTable([tmp_path])
    assert [f.executable for f in table.get()] == ["/one"]
    assert table.get() is table.get()
    write(tmp_path, "2.json", "/two")
    os.utime(tmp_path, ns=(1, 1))
    assert [f.executable for f in table.get()] == ["/one", "/two"]
    write(tmp_path, "2.json", "/three")
    os.utime(tmp_path / "2.json", ns=(1, 1))
    assert [f.executable for f in table.get()] == ["/one", "/three"]


def test_dirs() -> None:
    assert firmware_dirs("/home/u/.config")[-1] == Path("/home/u/.config/qemu/firmware")
    assert Path("/etc/qemu/firmware") in firmware_dirs()
