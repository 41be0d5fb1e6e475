"""Records for the kernel's audit log: what a document says in them is one field."""

import pytest

from qvirt.daemon import audit


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("system_u:system_r:svirt_t:s0:c1,c2", "system_u:system_r:svirt_t:s0:c1,c2"),
        ("+64055:+107", "+64055:+107"),
        ("a res=failed", b"a res=failed".hex().upper()),
        ('a"b', b'a"b'.hex().upper()),
    ],
)
def test_a_label_is_one_field(label: str, said: str) -> None:
    assert audit._label(label) == said
