"""The rules file: how it is read, what it decides, what it refuses to be."""

import asyncio
import os
from pathlib import Path

import pytest

from qvirt.api.session import Identity
from qvirt.daemon.policy import Question
from qvirt.daemon.rules import Rules, parse_rules
from qvirt.errors import ConfigSyntax

ALICE = Identity(pid=10, uid=1000, gid=1000, groups=(1000, 50))
STRANGER = Identity(pid=11, uid=1001, gid=1001)
ROOT = Identity(pid=12, uid=0, gid=0)
REMOTE = Identity(sasl_user="bob@ACME.ORG")
CERTIFIED = Identity(x509_dn="CN=build,O=Acme Ltd,C=GB")

FILE = """
# the first line that fits decides
deny   user=1000   domain:start              domain_name=web-prod
allow  user=1000   domain:@read,start,stop   domain_name=web-*
allow  group=50    network:*
allow  sasl=*@ACME.ORG  connect:@read domain:getattr
allow  "dn=CN=build,O=Acme Ltd,*"  domain:*   connect_driver=QEMU
deny   user=0      domain:delete
"""


def domain(permission: str, name: str = "web-1") -> Question:
    attributes = {"connect_driver": "QEMU", "domain_name": name, "domain_uuid": "1"}
    return Question("domain", permission, attributes)


@pytest.mark.parametrize(
    ("who", "question", "allowed", "line"),
    [
        (ALICE, domain("start"), True, 4),
        (ALICE, domain("start", "web-prod"), False, 3),
        (ALICE, domain("stop", "web-prod"), True, 4),
        (ALICE, domain("read"), True, 4),
        (ALICE, domain("read_secure"), False, None),
        (ALICE, domain("read", "db"), False, None),
        (ALICE, Question("network", "start", {"network_name": "n", "network_uuid": "2"}), True, 5),
        (ALICE, Question("connect", "getattr"), False, None),
        (STRANGER, domain("read"), False, None),
        (REMOTE, Question("connect", "search_domains"), True, 6),
        (REMOTE, Question("connect", "write"), False, None),
        (REMOTE, domain("getattr", "any"), True, 6),
        (CERTIFIED, domain("delete"), True, 7),
        (CERTIFIED, Question("domain", "delete", {"connect_driver": "LXC", "domain_name": "a"}), False, None),
        (ROOT, domain("start"), True, None),
        (ROOT, domain("delete"), False, 8),
        (Identity(), domain("getattr"), False, None),
        # an object that has no name yet is only for those who may touch any
        (ALICE, Question("domain", "start", {"connect_driver": "QEMU"}), False, None),
    ],
)
def test_the_first_rule_that_fits_decides(
    tmp_path: Path, who: Identity, question: Question, allowed: bool, line: int | None
) -> None:
    path = tmp_path / "access.rules"
    path.write_text(FILE)
    rules = Rules(path)
    said, rule = rules.decide(who, question)
    assert (said, rule.line if rule else None) == (allowed, line)
    assert asyncio.run(rules.allows(who, question)) is allowed


def test_the_daemons_own_user_may_what_no_rule_is_about(tmp_path: Path) -> None:
    path = tmp_path / "access.rules"
    path.write_text("")
    assert Rules(path).decide(Identity(uid=os.geteuid()), domain("start")) == (True, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("permit * domain:read", "r:1: a rule begins with 'allow' or 'deny', not 'permit'"),
        ("\nallow *", "r:2: a rule says allow or deny, who, and which permissions"),
        ("allow * domain_name=a b=c", "r:1: a rule names a permission"),
        ("allow uid=3 domain:read", "r:1: 'uid=3' names nobody"),
        ("allow user=no-such-user domain:read", "r:1: there is no user 'no-such-user'"),
        ("allow group=no-such-group domain:read", "r:1: there is no group 'no-such-group'"),
        ("allow * domian:read", "r:1: there are no objects 'domian'; did you mean 'domain'?"),
        ("allow * domain:strat", "r:1: 'domain' has no permission 'strat'; did you mean 'start'?"),
        ("allow * domain", "r:1: 'domain' is no permission"),
        ("allow * network:read domain_name=a", "r:1: objects 'network' have no attribute 'domain_name'"),
        ("allow * *:read domain_name=a", "r:1: objects '*' have no attribute 'domain_name'"),
        ('allow "dn=x domain:read', "r:1: No closing quotation"),
    ],
)
def test_a_line_that_means_nothing_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigSyntax) as caught:
        parse_rules(text, "r")
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_no_licence(tmp_path: Path) -> None:
    with pytest.raises(ConfigSyntax, match=r"access_drivers names 'rules'"):
        Rules(tmp_path / "access.rules")


def test_a_wrong_file_leaves_the_rules_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "access.rules"
    path.write_text("allow user=1000 domain:read")
    rules = Rules(path)
    path.write_text("allow user=1000 domain:raed")
    with pytest.raises(ConfigSyntax):
        rules.reload()
    assert rules.decide(ALICE, domain("read"))[0]
    path.write_text("allow user=1000 domain:start")
    rules.reload()
    assert not rules.decide(ALICE, domain("read"))[0]
