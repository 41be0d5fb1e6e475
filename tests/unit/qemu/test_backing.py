"""Backing strings in all their spellings."""

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.qemu.backing import parse_backing

CASES = {
    "/abs/base.img": "file|<source file='/abs/base.img'/>",
    "base.img": "file|<source file='/images/base.img'/>",
    "../base.img": "file|<source file='/base.img'/>",
    "file:///abs/b": "file|<source file='/abs/b'/>",
    "nbd://h:1/x": "network|<source protocol='nbd' name='x'>\n  <host name='h' port='1'/>\n</source>",
    "nbd+unix:///x?socket=/s": (
        "network|<source protocol='nbd' name='x'>\n  <host transport='unix' socket='/s'/>\n</source>"
    ),
    "nbd:h:1:exportname=x": (
        "network|<source protocol='nbd' name='x'>\n  <host name='h' port='1'/>\n</source>"
    ),
    "nbd:unix:/s": "network|<source protocol='nbd'>\n  <host transport='unix' socket='/s'/>\n</source>",
    "https://h/a/b.img?q=1": (
        "network|<source protocol='https' name='a/b.img' query='q=1'>\n  <host name='h'/>\n</source>"
    ),
    "rbd:p/i@s:mon_host=a\\:1\\;b": (
        "network|<source protocol='rbd' name='p/i'>\n  <host name='a' port='1'/>\n  <host name='b'/>\n"
        "  <snapshot name='s'/>\n</source>"
    ),
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"/x"}}': "file|<source file='/x'/>",
    'json:{"file.driver":"host_device","file.filename":"/dev/x"}': "block|<source dev='/dev/x'/>",
    'json:{"driver":"raw","offset":10,"size":20,"file":{"driver":"file","filename":"/x"}}': (
        "file|<source file='/x'>\n  <slices>\n    <slice type='storage' offset='10' size='20'/>\n"
        "  </slices>\n</source>"
    ),
    'json:{"driver":"nbd","server":{"type":"inet","host":"h","port":"1"},"export":"e"}': (
        "network|<source protocol='nbd' name='e'>\n  <host name='h' port='1'/>\n</source>"
    ),
    'json:{"driver":"iscsi","portal":"h:3260","target":"iqn.x","lun":1,"transport":"tcp"}': (
        "network|<source protocol='iscsi' name='iqn.x/1'>\n  <host name='h' port='3260'/>\n</source>"
    ),
    'json:{"driver":"ssh","path":"/x","server":{"host":"h","port":"22"}}': (
        "network|<source protocol='ssh' name='/x'>\n  <host name='h' port='22'/>\n</source>"
    ),
}


@pytest.mark.parametrize("text", list(CASES))
def test_parse(text: str) -> None:
    kind, source = parse_backing(text, "/images/top.qcow2")
    assert f"{kind}|{source.to_xml().rstrip()}" == CASES[text]


@pytest.mark.parametrize(
    "text", ["json:{", "json:[1]", 'json:{"driver":"foo"}', 'json:{"driver":"file"}', 'json:{"driver":"nbd"}']
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigUnsupported):
        parse_backing(text, None)
