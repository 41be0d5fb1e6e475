"""The actions for polkit: the files are what the table says, and mean what libvirt's mean."""

import re
from pathlib import Path

import pytest
from lxml import etree

from qvirt.daemon.polkit_actions import document
from qvirt.rpc import protocol

FOLDER = Path(__file__).parents[3] / "packaging/polkit"
INSTALLED = Path("/usr/share/polkit-1/actions")

#: permissions that libvirt 9.0 does not have
LATER = {"org.libvirt.api.node-device.save"}


def defaults(path: Path) -> dict[str, set[str | None]]:
    """Give by action what holds where no rule says otherwise."""
    root = etree.parse(path, etree.XMLParser(load_dtd=False, no_network=True)).getroot()
    return {
        str(action.get("id")): {each.text for each in action.iterfind("defaults/*")}
        for action in root.iterfind("action")
    }


@pytest.mark.parametrize("kind", ["unix", "api"])
def test_the_files_are_up_to_date(kind: str) -> None:
    path = FOLDER / f"org.libvirt.{kind}.policy"
    assert path.read_text() == document(kind), f"run: python -m qvirt.daemon.polkit_actions {kind} > {path}"


def test_every_permission_has_its_action() -> None:
    wanted = {
        f"org.libvirt.api.{kind}.{permission}".replace("_", "-")
        for kind, permissions in protocol.remote().acl_permissions.items()
        for permission in permissions
    }
    assert set(defaults(FOLDER / "org.libvirt.api.policy")) == wanted


@pytest.mark.parametrize("kind", ["unix", "api"])
def test_libvirts_mean_the_same(kind: str) -> None:
    theirs = INSTALLED / f"org.libvirt.{kind}.policy"
    if not theirs.exists() or re.search("qvirt", theirs.read_text()):
        pytest.skip("libvirt's own file is not installed")
    ours = defaults(FOLDER / theirs.name)
    assert {name: each for name, each in ours.items() if name not in LATER} == defaults(theirs)
