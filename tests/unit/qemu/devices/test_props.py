"""The table of plain properties: rendered, read back, and checked when it is made."""

from typing import cast

import pytest

from qvirt.qemu.context import Context
from qvirt.qemu.devices.props import ON_OFF, Prop, PropTable, mapped
from qvirt.xml.codecs import on_off, string, uint
from qvirt.xml.fields import attr, child, flag, part, text
from qvirt.xml.node import Node

NO_CONTEXT = cast(Context, None)


class Cache(Node, tag="cache"):
    size: int | None = attr(uint)


class Driver(Node, tag="driver"):
    queues: int | None = attr(uint)
    ats: bool | None = attr(on_off)
    policy: str | None = attr(string)
    cache: Cache | None = child(Cache)


class Thing(Node, tag="thing"):
    driver: Driver = part(Driver)
    shared: bool = flag()
    serial: str | None = text(string)


TABLE = PropTable(
    Thing,
    Prop("num-queues", "driver.queues"),
    Prop("ats", "driver.ats"),
    Prop("write-cache", "driver.ats", ON_OFF),
    Prop("werror", "driver.policy", mapped({"enospace": "enospc", "default": None})),
    Prop("cache-size", "driver.cache.size"),
    Prop("share-rw", "shared"),
    Prop("serial", "serial"),
)


def test_says_only_what_the_node_says() -> None:
    assert TABLE.render(Thing(), NO_CONTEXT) == {}
    thing = Thing(driver=Driver(queues=4, ats=False), shared=True, serial="x")
    assert TABLE.render(thing, NO_CONTEXT) == {
        "num-queues": 4,
        "ats": False,
        "write-cache": "off",
        "share-rw": True,
        "serial": "x",
    }


def test_words_are_translated_and_left_out_when_they_mean_nothing() -> None:
    assert TABLE.render(Thing(driver=Driver(policy="enospace")), NO_CONTEXT) == {"werror": "enospc"}
    assert TABLE.render(Thing(driver=Driver(policy="default")), NO_CONTEXT) == {}


def test_reads_back_what_it_rendered() -> None:
    thing = Thing(
        driver=Driver(queues=4, ats=True, policy="enospace", cache=Cache(size=9)), shared=True, serial="x"
    )
    props = dict(TABLE.render(thing, NO_CONTEXT)) | {"drive": "not ours"}
    read = Thing()
    TABLE.read(read, props)
    assert read == thing
    assert props == {"drive": "not ours"}


def test_condition_leaves_a_property_out() -> None:
    table = PropTable(Thing, Prop("serial", "serial", when=lambda thing, ctx: thing.shared))
    assert table.render(Thing(serial="x"), NO_CONTEXT) == {}
    assert table.render(Thing(serial="x", shared=True), NO_CONTEXT) == {"serial": "x"}


@pytest.mark.parametrize("path", ["driver.queue", "drive.queues", "driver", "serial.queues"])
def test_a_wrong_path_fails_when_the_table_is_made(path: str) -> None:
    with pytest.raises(TypeError, match=r"property|is not a child"):
        PropTable(Thing, Prop("x", path))
