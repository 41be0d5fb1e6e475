import struct
from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.host.sysinfo import TABLES, structures, sysinfo


def structure(kind: int, body: bytes, *strings: str) -> bytes:
    header = struct.pack("<BBH", kind, 4 + len(body), 0)
    return header + body + (b"".join(s.encode() + b"\0" for s in strings) or b"\0") + b"\0"


UUID = bytes.fromhex("33221100554477668899aabbccddeeff")
TABLE = (
    structure(0, bytes([1, 2, 0, 0, 3]) + bytes(11) + bytes([1, 7]), "Vendor & Co", "1.0", "01/02/2020")
    + structure(1, bytes([1, 2, 0, 3]) + UUID + bytes([0, 4, 5]), "Maker", "Box", "S1", "SKU", "Family")
    + structure(2, bytes([1, 2, 0, 0, 0, 0, 3]), "Maker", "Board", "Slot 1")
    + structure(4, bytes([1, 3, 0, 2]) + bytes(8) + bytes([3, 0]) + struct.pack("<HHHB", 100, 4000, 0, 0x41),
                "CPU0", "Intel", "Xeon")
    + structure(17, bytes(8) + struct.pack("<HBBBBBHH", 16384, 9, 0, 1, 2, 26, 1 << 7, 2666)
                + bytes([3, 4, 0, 5]), "DIMM A", "Bank 0", "Sam", "S9", "P7")
    + structure(17, bytes(8) + struct.pack("<HBBBBBHH", 0, 9, 0, 1, 0, 2, 0, 0), "DIMM B")
    + structure(11, bytes([2]), "one", "two")
    + structure(127, b"")
)  # fmt: skip

EXPECTED = """\
<sysinfo type='smbios'>
  <bios>
    <entry name='vendor'>Vendor &amp; Co</entry>
    <entry name='version'>1.0</entry>
    <entry name='date'>01/02/2020</entry>
    <entry name='release'>1.7</entry>
  </bios>
  <system>
    <entry name='manufacturer'>Maker</entry>
    <entry name='product'>Box</entry>
    <entry name='serial'>S1</entry>
    <entry name='uuid'>00112233-4455-6677-8899-aabbccddeeff</entry>
    <entry name='sku'>SKU</entry>
    <entry name='family'>Family</entry>
  </system>
  <baseBoard>
    <entry name='manufacturer'>Maker</entry>
    <entry name='product'>Board</entry>
    <entry name='location'>Slot 1</entry>
  </baseBoard>
  <processor>
    <entry name='socket_destination'>CPU0</entry>
    <entry name='type'>Central Processor</entry>
    <entry name='manufacturer'>Intel</entry>
    <entry name='version'>Xeon</entry>
    <entry name='external_clock'>100 MHz</entry>
    <entry name='max_speed'>4000 MHz</entry>
    <entry name='status'>Populated, Enabled</entry>
  </processor>
  <memory_device>
    <entry name='size'>16 GB</entry>
    <entry name='form_factor'>DIMM</entry>
    <entry name='locator'>DIMM A</entry>
    <entry name='bank_locator'>Bank 0</entry>
    <entry name='type'>DDR4</entry>
    <entry name='type_detail'>Synchronous</entry>
    <entry name='speed'>2666 MT/s</entry>
    <entry name='manufacturer'>Sam</entry>
    <entry name='serial_number'>S9</entry>
    <entry name='part_number'>P7</entry>
  </memory_device>
  <oemStrings>
    <entry>one</entry>
    <entry>two</entry>
  </oemStrings>
</sysinfo>
"""


def test_the_document(tmp_path: Path) -> None:
    (tmp_path / TABLES).parent.mkdir(parents=True)
    (tmp_path / TABLES).write_bytes(TABLE + structure(0, bytes(20)))
    assert sysinfo(tmp_path) == EXPECTED


def test_no_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnsupported, match="Host SMBIOS information is not available"):
        sysinfo(tmp_path)


@pytest.mark.parametrize("cut", range(0, len(TABLE), 7))
def test_a_cut_table_ends(cut: int) -> None:
    whole = list(structures(TABLE))
    found = list(structures(TABLE[:cut]))
    assert found == whole[: len(found)]
