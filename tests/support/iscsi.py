"""An iSCSI target in a network of its own, served by tgt."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import wait_until
from tests.support.netns import Namespace


@contextlib.contextmanager
def iscsi_target(
    network: Namespace, name: str, *images: Path, lun: int = 1, user: str = "", password: str = ""
) -> Iterator[None]:
    """Serve images as units of a target at 127.0.0.1:3260 for a block; lun: the number of the first.

    user, password: what CHAP asks for; everybody may come without. Skips the test where there is no tgt.
    """
    if shutil.which("tgtd") is None:
        pytest.skip("tgt is not installed")
    port = ("-C", str(os.getpid() % 30000 + 1))  # of its control socket, apart from the machine's own
    with network.start("tgtd", "-f", *port, "--iscsi", "portal=127.0.0.1:3260"):

        def say(*words: str) -> bool:
            return not network.run("tgtadm", *port, "--lld", "iscsi", *words, check=False).returncode

        wait_until(lambda: say("--op", "show", "--mode", "system"), "tgtd answers")
        assert say("--op", "new", "--mode", "target", "--tid", "1", "-T", name)
        for number, image in enumerate(images, lun):
            unit = ("--mode", "logicalunit", "--tid", "1", "--lun", str(number))
            assert say("--op", "new", *unit, "-b", str(image))
        if user:
            account = ("--mode", "account", "--user", user)
            assert say("--op", "new", *account, "--password", password)
            assert say("--op", "bind", *account, "--tid", "1")
        assert say("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        yield
