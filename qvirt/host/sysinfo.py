"""The machine's SMBIOS tables, as virConnectGetSysinfo shows them.

Read from the kernel's copy, not through dmidecode; layouts are those of the SMBIOS specification (DSP0134).
"""

import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

from qvirt.errors import ConfigUnsupported
from qvirt.record import Record
from qvirt.xml.writer import Writer

ROOT = Path("/")
TABLES = "sys/firmware/dmi/tables/DMI"


class Structure(Record):
    """One SMBIOS structure: its type, the formatted area from its header on, and its strings."""

    type: int
    data: bytes
    strings: tuple[str, ...]

    def byte(self, offset: int) -> int:
        """Return a byte, 0 beyond the end: older structures are shorter."""
        return self.data[offset] if offset < len(self.data) else 0

    def word(self, offset: int) -> int:
        """Return a 16 bit number, 0 beyond the end."""
        return int(struct.unpack_from("<H", self.data, offset)[0]) if offset + 2 <= len(self.data) else 0

    def dword(self, offset: int) -> int:
        """Return a 32 bit number, 0 beyond the end."""
        return int(struct.unpack_from("<I", self.data, offset)[0]) if offset + 4 <= len(self.data) else 0

    def string(self, offset: int) -> str | None:
        """Return the string whose number is at an offset; None when there is none."""
        number = self.byte(offset)
        text = self.strings[number - 1].strip() if 0 < number <= len(self.strings) else ""
        return text or None


def structures(table: bytes) -> Iterator[Structure]:
    """Yield the structures of a table; a cut one ends it."""
    position = 0
    while position + 4 <= len(table):
        kind, length = table[position], table[position + 1]
        end = table.find(b"\0\0", position + length)
        if length < 4 or end < 0:
            return
        raw = table[position + length : end]
        strings = tuple(part.decode("utf-8", "replace") for part in raw.split(b"\0")) if raw else ()
        yield Structure(kind, table[position : position + length], strings)
        if kind == 127:
            return
        position = end + 2


Entries = list[tuple[str, str | None]]


def _bios(s: Structure) -> Entries:
    release = f"{s.byte(0x14)}.{s.byte(0x15)}" if len(s.data) > 0x15 and s.byte(0x14) != 0xFF else None
    return [("vendor", s.string(4)), ("version", s.string(5)), ("date", s.string(8)), ("release", release)]


def _system(s: Structure) -> Entries:
    raw = s.data[8:24]
    is_set = len(raw) == 16 and raw not in (b"\0" * 16, b"\xff" * 16)
    return [
        ("manufacturer", s.string(4)),
        ("product", s.string(5)),
        ("version", s.string(6)),
        ("serial", s.string(7)),
        ("uuid", str(uuid.UUID(bytes_le=raw)) if is_set else None),
        ("sku", s.string(0x19)),
        ("family", s.string(0x1A)),
    ]


def _base_board(s: Structure) -> Entries:
    names = ("manufacturer", "product", "version", "serial", "asset")
    return [*((name, s.string(4 + i)) for i, name in enumerate(names)), ("location", s.string(0x0A))]


def _chassis(s: Structure) -> Entries:
    # The SKU follows the contained elements, of which there are as many as offset 0x13 says, each 0x14 long.
    sku = 0x15 + s.byte(0x13) * s.byte(0x14)
    names = (("manufacturer", 4), ("version", 6), ("serial", 7), ("asset", 8), ("sku", sku))
    return [(name, s.string(offset)) for name, offset in names]


_PROCESSOR_TYPES = {1: "Other", 2: "Unknown", 3: "Central Processor", 4: "Math Processor", 5: "DSP Processor"}
_PROCESSOR_STATES = {1: "Enabled", 2: "Disabled By User", 3: "Disabled By BIOS", 4: "Idle"}


def _processor(s: Structure) -> Entries:
    status = s.byte(0x18)
    state = f"Populated, {_PROCESSOR_STATES.get(status & 7, 'Unknown')}" if status & 0x40 else "Unpopulated"
    clock, speed = s.word(0x12), s.word(0x14)
    return [
        ("socket_destination", s.string(4)),
        ("type", _PROCESSOR_TYPES.get(s.byte(5))),
        ("manufacturer", s.string(7)),
        ("version", s.string(0x10)),
        ("external_clock", f"{clock} MHz" if clock else "Unknown"),
        ("max_speed", f"{speed} MHz" if speed else "Unknown"),
        ("status", state),
        ("serial_number", s.string(0x20)),
        ("part_number", s.string(0x22)),
    ]


_FORM_FACTORS = {
    1: "Other", 2: "Unknown", 3: "SIMM", 4: "SIP", 5: "Chip", 6: "DIP", 7: "ZIP", 8: "Proprietary Card",
    9: "DIMM", 10: "TSOP", 11: "Row Of Chips", 12: "RIMM", 13: "SODIMM", 14: "SRIMM", 15: "FB-DIMM",
    16: "Die",
}  # fmt: skip
_MEMORY_TYPES = {
    1: "Other", 2: "Unknown", 3: "DRAM", 7: "RAM", 15: "SDRAM", 18: "DDR", 19: "DDR2", 24: "DDR3", 26: "DDR4",
    27: "LPDDR", 28: "LPDDR2", 29: "LPDDR3", 30: "LPDDR4", 31: "Logical non-volatile device", 32: "HBM",
    33: "HBM2", 34: "DDR5", 35: "LPDDR5",
}  # fmt: skip
_MEMORY_DETAILS = (
    "", "Other", "Unknown", "Fast-paged", "Static Column", "Pseudo-static", "RAMBus", "Synchronous", "CMOS",
    "EDO", "Window DRAM", "Cache DRAM", "Non-Volatile", "Registered (Buffered)",
    "Unbuffered (Unregistered)", "LRDIMM",
)  # fmt: skip


def _memory_device(s: Structure) -> Entries:
    size = s.word(0x0C)
    if size in (0, 0xFFFF):
        return []  # an empty slot
    kib = s.dword(0x1C) << 10 if size == 0x7FFF else size & 0x7FFF if size & 0x8000 else size << 10
    units = ((1 << 20, "GB"), (1 << 10, "MB"), (1, "kB"))
    shown = next(f"{kib // unit} {name}" for unit, name in units if kib % unit == 0)
    details = [name for bit, name in enumerate(_MEMORY_DETAILS) if name and s.word(0x13) & (1 << bit)]
    speed = s.word(0x15)
    return [
        ("size", shown),
        ("form_factor", _FORM_FACTORS.get(s.byte(0x0E))),
        ("locator", s.string(0x10)),
        ("bank_locator", s.string(0x11)),
        ("type", _MEMORY_TYPES.get(s.byte(0x12))),
        ("type_detail", " ".join(details) or None),
        ("speed", f"{speed} MT/s" if speed else None),
        ("manufacturer", s.string(0x17)),
        ("serial_number", s.string(0x18)),
        ("part_number", s.string(0x1A)),
    ]


def sysinfo(root: Path = ROOT) -> str:
    """Return the document; raises ConfigUnsupported when there are no tables that we may read."""
    try:
        table = (root / TABLES).read_bytes()
    except OSError as e:
        raise ConfigUnsupported("Host SMBIOS information is not available") from e
    found = list(structures(table))
    out = Writer()
    with out.element("sysinfo", type="smbios"):
        for number, name, read, is_single in (
            (0, "bios", _bios, True),
            (1, "system", _system, True),
            (2, "baseBoard", _base_board, False),
            (3, "chassis", _chassis, True),
            (4, "processor", _processor, False),
            (17, "memory_device", _memory_device, False),
        ):
            matching = [s for s in found if s.type == number]
            for structure in matching[:1] if is_single else matching:
                said = [(key, value) for key, value in read(structure) if value]
                if said:
                    with out.element(name):
                        for key, value in said:
                            out.leaf("entry", value, name=key)
        oem = [text for s in found if s.type == 11 for text in s.strings[: s.byte(4)]]
        if oem:
            with out.element("oemStrings"):
                for text in oem:
                    out.leaf("entry", text)
    return out.text()
