"""The words in front of QEMU's command."""

from qvirt.host.config import QemuUser
from qvirt.security.launcher import confining

NOTHING = {"--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"}


def test_users_lose_every_capability_and_the_way_back() -> None:
    words = confining(QemuUser(64055, 64055, (107, 64055)))
    assert words[:4] == ["setpriv", "--reuid=64055", "--regid=64055", "--groups=107,64055"]
    assert set(words) >= NOTHING
    assert words[-1] == "--"


def test_root_loses_them_too_unless_an_administrator_says_otherwise() -> None:
    root = QemuUser(0, 0, (0,))
    assert set(confining(root)) >= NOTHING
    assert not set(confining(root, keep_capabilities=True)) & NOTHING


def test_a_daemon_without_power_has_none_to_take() -> None:
    assert confining(None) == ["setpriv", "--no-new-privs", "--"]
    assert confining(None, keep_capabilities=True) == []


def test_a_label_comes_last_and_may_rule_out_the_ban_on_new_rights() -> None:
    labels = ["--label=here"]
    assert confining(None, labels=labels) == ["setpriv", "--no-new-privs", "--label=here", "--"]
    assert confining(None, labels=labels, no_new_privs=False) == ["setpriv", "--label=here", "--"]
    assert confining(None, labels=labels, keep_capabilities=True) == ["setpriv", "--label=here", "--"]


def test_a_helper_keeps_what_it_cannot_do_without() -> None:
    words = confining(QemuUser(0, 0), keep=("chown", "sys_admin"))
    assert "--bounding-set=-all,+chown,+sys_admin" in words
    assert "--clear-groups" in words
    assert set(words) >= NOTHING - {"--bounding-set=-all"}
