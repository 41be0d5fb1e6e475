"""Writes the actions polkit is asked about, with what holds where no rule says otherwise: libvirt's own.

python -m qvirt.daemon.polkit_actions unix > packaging/polkit/org.libvirt.unix.policy
python -m qvirt.daemon.polkit_actions api > packaging/polkit/org.libvirt.api.policy
"""

import sys
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from qvirt.daemon.policy import Question
from qvirt.daemon.polkit import action_of
from qvirt.rpc import protocol

_HEAD: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD PolicyKit Policy Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/PolicyKit/1/policyconfig.dtd">
<!-- written by python -m qvirt.daemon.polkit_actions {kind}; libvirt's packages have a file of this name -->
<policyconfig>
  <vendor>qvirt</vendor>
"""

_ACTION: Final = """\
  <action id="{id}">
    <description>{description}</description>
    <message>{message}</message>
    <defaults>
      <allow_any>{default}</allow_any>
      <allow_inactive>{default}</allow_inactive>
      <allow_active>{default}</allow_active>
    </defaults>
  </action>
"""

_SOCKETS: Final = (
    ("org.libvirt.unix.monitor", "Look at virtual machines", "yes"),
    ("org.libvirt.unix.manage", "Manage virtual machines", "auth_admin_keep"),
)


def open_to_all(kind: str, permission: str) -> bool:
    """Tell whether everybody has a permission where no rule says otherwise, as in libvirt."""
    if permission.startswith("search_"):
        return kind == "connect"
    return permission in ("getattr", "read") and (kind, permission) != ("node_device", "read")


def document(kind: str) -> str:
    """Give the file of actions of a kind: unix, about the sockets, or api, about permissions."""
    rows = _SOCKETS if kind == "unix" else _permissions()
    actions = (
        _ACTION.format(
            id=name,
            description=escape(words),
            message=escape(f"A password is needed to {words[0].lower()}{words[1:]}"),
            default=default,
        )
        for name, words, default in rows
    )
    return _HEAD.format(kind=kind) + "".join(actions) + "</policyconfig>\n"


def _permissions() -> Iterator[tuple[str, str, str]]:
    for kind, permissions in protocol.remote().acl_permissions.items():
        for permission in permissions:
            words = f"Use '{permission.replace('_', ' ')}' of {kind.replace('_', ' ')} objects"
            default = "yes" if open_to_all(kind, permission) else "no"
            yield action_of(Question(kind, permission)), words, default


if __name__ == "__main__":
    sys.stdout.write(document(sys.argv[1]))
