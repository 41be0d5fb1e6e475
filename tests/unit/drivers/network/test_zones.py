"""Bridges in zones of firewalld, whose command is a script that writes down what it is told."""

import logging
import os
from pathlib import Path

import pytest

from qvirt.drivers.network import zones
from qvirt.errors import InternalError
from qvirt.model.network import Network, parse_network


def network(zone: str = "", forward: str = "<forward mode='nat'/>") -> Network:
    return parse_network(f"<network><name>n</name>{forward}<bridge name='vb0'{zone}/></network>")


@pytest.fixture
def firewalld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a firewalld run that has the zones 'work' and 'libvirt'; returns where its orders are written."""
    said = tmp_path / "said"
    (tmp_path / "pid").write_text(str(os.getpid()))
    script = tmp_path / "firewall-cmd"
    script.write_text(
        f'#!/bin/sh\necho "$*" >> {said}\n'
        'case "$2" in *=work|*=libvirt) ;; *) echo INVALID_ZONE >&2; exit 112;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(zones, "_PID_FILE", tmp_path / "pid")
    return said


def test_a_zone_is_entered(firewalld: Path) -> None:
    zones.enter(network(" zone='work'"))
    zones.enter(network())
    zones.enter(network(forward="<forward mode='open'/>"))
    assert firewalld.read_text().splitlines() == [
        "-q --zone=work --change-interface=vb0",
        "-q --zone=libvirt --change-interface=vb0",
    ]


def test_a_zone_that_is_not_there(firewalld: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InternalError, match="INVALID_ZONE"):
        zones.enter(network(" zone='nowhere'"))
    script = firewalld.with_name("firewall-cmd")
    script.write_text(script.read_text().replace("libvirt", "other"))
    with caplog.at_level(logging.WARNING):
        zones.enter(network())
    assert "<bridge zone='trusted'/>" in caplog.text


def test_without_firewalld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "_PID_FILE", tmp_path / "none")
    zones.enter(network())
    with pytest.raises(InternalError, match="zone work requested for network n but firewalld is not"):
        zones.enter(network(" zone='work'"))
