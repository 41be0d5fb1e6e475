"""What stands before the command of QEMU or a helper: user, groups, capabilities, no way to regain any."""

from collections.abc import Sequence

from qvirt.host.config import QemuUser

#: what takes every capability away, for good: a root would get back at exec what the bounding set leaves
_NO_CAPABILITIES = ("--inh-caps=-all", "--ambient-caps=-all")


def confining(
    user: QemuUser | None,
    *,
    labels: Sequence[str] = (),
    no_new_privs: bool = True,
    keep_capabilities: bool = False,
    keep: Sequence[str] = (),
) -> list[str]:
    """Return the words that give a command its user and labels, no capabilities, and none to gain.

    user: None for a daemon that is not root, which has neither to give away. labels: words of the security
    models. no_new_privs: False where these rule it out. keep_capabilities: an administrator's word that QEMU
    run as root shall have root's power. keep: the capabilities, named as setpriv does, that a helper which
    runs as root gets and cannot do without.
    """
    words = ["setpriv"]
    if user is not None:
        words += [f"--reuid={user.uid}", f"--regid={user.gid}"]
        words.append(f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups")
        if not keep_capabilities:
            words += [
                *_NO_CAPABILITIES,
                f"--bounding-set={','.join(['-all', *(f'+{name}' for name in keep)])}",
            ]
    if no_new_privs and not keep_capabilities:
        words.append("--no-new-privs")
    words += labels
    return [*words, "--"] if len(words) > 1 else []
