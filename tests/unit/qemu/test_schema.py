import pytest

from qvirt.qemu import schema

SCHEMA = schema.index(
    [
        {"name": "add", "meta-type": "command", "arg-type": "1", "ret-type": "[2]", "features": ["hot"]},
        {"name": "GONE", "meta-type": "event", "arg-type": "2"},
        {"name": "hidden", "meta-type": "object", "members": []},
        {
            "name": "1",
            "meta-type": "object",
            "members": [
                {"name": "driver", "type": "3"},
                {"name": "size", "type": "int", "default": None, "features": ["unstable"]},
                {"name": "file", "type": "4"},
            ],
            "tag": "driver",
            "variants": [{"case": "nvme", "type": "2"}, {"case": "raw", "type": "0"}],
        },
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "2", "meta-type": "object", "members": [{"name": "namespace", "type": "int"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {"name": "3", "meta-type": "enum", "values": ["nvme", "raw"]},
        {"name": "4", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "2"}]},
        {"name": "int", "meta-type": "builtin", "json-type": "int"},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
    ]
)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("add", True),
        ("GONE", True),
        ("hidden", False),
        ("nothing", False),
        ("add/arg-type", True),
        ("GONE/ret-type", False),
        ("add/$hot", True),
        ("add/$cold", False),
        ("add/arg-type/size", True),
        ("add/arg-type/*size", True),
        ("add/arg-type/*driver", False),
        ("add/arg-type/size/!int", True),
        ("add/arg-type/size/!string", False),
        ("add/arg-type/size/$unstable", True),
        ("add/arg-type/driver/$unstable", False),
        ("add/arg-type/driver/^raw", True),
        ("add/arg-type/driver/^qcow3", False),
        ("add/arg-type/+nvme", True),
        ("add/arg-type/+nvme/namespace", True),
        ("add/arg-type/+raw/namespace", False),
        ("add/ret-type/namespace", True),
        ("add/arg-type/file/namespace", True),
        ("add/arg-type/file/!string", True),
        ("add/wrong", False),
    ],
)
def test_questions(path: str, answer: bool) -> None:
    assert schema.has(SCHEMA, path) is answer
