"""libvirt.conf."""

from pathlib import Path

import pytest

from qvirt.client.config import ClientConfig, default_uri, load, parse
from qvirt.errors import ConfigSyntax

TEXT = """
# a comment
uri_aliases = [
  "hail=qemu+ssh://root@hail.cloud.example.com/system",   # with a comment
  'sleet=qemu:///session',
]
uri_default = "qemu:///system" # another
remote_mode = "legacy"
log_level = 3
"""


def test_what_it_says() -> None:
    config = parse(TEXT)
    assert config.uri_default == "qemu:///system"
    assert config.remote_mode == "legacy"
    assert config.resolve("hail") == "qemu+ssh://root@hail.cloud.example.com/system"
    assert config.resolve("sleet") == "qemu:///session"
    assert config.resolve("rain") == "rain"
    assert config.resolve("qemu:///system") == "qemu:///system"


def test_nothing_and_no_file(tmp_path: Path) -> None:
    assert parse("") == ClientConfig()
    assert load(tmp_path / "none") == ClientConfig()


def test_a_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "libvirt.conf"
    path.write_text('# fine\nuri_default = "x"\nwhat is this\n')
    with pytest.raises(ConfigSyntax, match=rf"{path}:3"):
        load(path)
    with pytest.raises(ConfigSyntax, match="Malformed 'uri_aliases' config entry 'x'"):
        parse('uri_aliases = ["x"]')


def test_default_uri() -> None:
    config = ClientConfig(uri_default="qemu:///session")
    assert default_uri(config, {"LIBVIRT_DEFAULT_URI": "test:///x"}) == "test:///x"
    assert default_uri(config, {}) == "qemu:///session"
    assert default_uri(ClientConfig(), {}) == ""
