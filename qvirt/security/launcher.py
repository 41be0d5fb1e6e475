"""What stands before QEMU's command: user and groups, capabilities, no way to regain any."""

from qvirt.host.config import QemuUser

#: what takes every capability away, for good: root's QEMU would get back at exec what the bounding set leaves
_NO_CAPABILITIES = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")


def confining(user: QemuUser | None, *, keep_capabilities: bool = False) -> list[str]:
    """Return the words that put a command into its user, without capabilities, unable to gain any.

    user: None for a daemon that is not root, which has neither to give away. keep_capabilities: an
    administrator's word that QEMU run as root shall have root's power.
    """
    words = ["setpriv"]
    if user is not None:
        words += [f"--reuid={user.uid}", f"--regid={user.gid}"]
        words.append(f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups")
        if not keep_capabilities:
            words += _NO_CAPABILITIES
    elif keep_capabilities:
        return []
    if not keep_capabilities:
        words.append("--no-new-privs")
    return [*words, "--"]
