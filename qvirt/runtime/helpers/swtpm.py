"""swtpm: a trusted platform module of the guest's own, and where its state is kept.

The folders, their owners and modes are libvirt's. The state is set up in a folder beside and moved into place
when it is whole, so that a daemon that dies meanwhile leaves a guest with a good state or with none.
"""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainUndefineFlags
from qvirt.errors import ConfigUnsupported, InternalError, OperationFailed, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.persist import remove_tree
from qvirt.host.unix import connect
from qvirt.model.devices.tpm import Tpm
from qvirt.model.domain import Domain as Definition
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.tpm import swtpm_socket
from qvirt.runtime.helpers import processes
from qvirt.runtime.helpers.processes import Recipe
from qvirt.runtime.paths import Paths
from qvirt.runtime.running import Running
from qvirt.security import reach
from qvirt.security.stack import Guard

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

NAME = "swtpm"
SETUP = "swtpm-setup"

#: seconds for making keys and certificates; software emulation of nothing, but a busy machine
SETUP_DEADLINE = 120.0

#: the state's folder below the one of the guest's uuid, by version
_FOLDERS = {"1.2": "tpm1.2", "2.0": "tpm2"}


def recipe(domain: "Domain", running: Running, dev: Tpm, ctx: BuildContext) -> Recipe | None:
    """Return how the swtpm of a TPM is made; None for one that is not emulated.

    Raises OperationFailed where it is not installed, ConfigUnsupported for a version there is none of,
    NoSecret where the state is to be encrypted and there is nothing to do it with.
    """
    backend = dev.backend
    if backend.type != "emulator":
        return None
    if backend.version not in _FOLDERS:
        raise ConfigUnsupported(f"TPM version '{backend.version}' is not supported")
    hv = domain.hypervisor
    program = find("swtpm")
    listens = swtpm_socket(ctx)
    state = _state(hv.paths, domain.uuid, backend.version)
    version = ["--tpm2"] if backend.version == "2.0" else []
    key = _key(dev, ctx)

    def command(fd: int) -> list[str]:
        words = [program, "socket", "--ctrl", f"type=unixio,fd={fd}", "--tpmstate", f"dir={state},mode=0600"]
        return [*words, "--terminate", *version]

    def told(fds: Sequence[int]) -> list[str]:
        # the second is for what leaves with the guest when it is moved
        options = zip(("--key", "--migration-key"), fds, strict=False)
        return [word for option, fd in options for word in (option, _pwdfd(fd))]

    return Recipe(
        NAME,
        command,
        _user(hv),
        hv.paths.swtpm_log / f"{domain.name}-swtpm.log",
        listen=listens,
        pidfile=f"{listens.removesuffix('.sock')}.pid",
        prepare=partial(_prepare, domain, running, dev, state, key),
        sees=(str(state),),
        opens={},
        inputs=2 * key,
        told=told,
    )


#: what the state is encrypted by, the key being derived from the secret's value
_CIPHER = "aes-256-cbc"


def _pwdfd(fd: int) -> str:
    return f"pwdfd={fd},mode={_CIPHER}"


def _key(dev: Tpm, ctx: BuildContext) -> tuple[bytes, ...]:
    """Return the passphrase of the state; () for one that is not encrypted. Raises NoSecret."""
    encryption = dev.backend.encryption
    return () if encryption is None else (ctx.launch.secret("vtpm", encryption.secret, None),)


def find(name: str) -> str:
    """Return where a program of swtpm's is. Raises OperationFailed."""
    path = shutil.which(name)
    if path is None:
        raise OperationFailed(
            f"Unable to find '{name}' binary in $PATH: a <tpm> with <backend type='emulator'/> needs it; "
            "install the packages swtpm and swtpm-tools"
        )
    return path


def _user(hv: "Hypervisor") -> QemuUser | None:
    """Return whom it runs as: swtpm_user, where that user gets to the tree; else QEMU's user."""
    user = hv.config.swtpm_user
    if hv.user is None or user is None or reach.unsearchable(str(hv.paths.lib.parent), user) is not None:
        return hv.user
    return user


def _state(paths: Paths, uuid: str, version: str) -> Path:
    return paths.swtpm_storage / uuid / _FOLDERS[version]


# --------------------------------------------------------------------------- the state


async def _prepare(domain: "Domain", running: Running, dev: Tpm, state: Path, key: tuple[bytes, ...]) -> None:
    """Make the folders and, where there is none, the state. Raises InternalError, SystemError_."""
    hv = domain.hypervisor
    is_there = await hv.files.run(f"TPM of '{domain.name}'", partial(_make_folders, hv, running.guard, state))
    program = find("swtpm_setup")
    version = ["--tpm2"] if dev.backend.version == "2.0" else []
    banks = ["--pcr-banks", ",".join(_banks(dev))] if _banks(dev) else []
    if is_there:
        if key:
            await _try_key(domain, running, dev, state, key)
        if banks:
            words = [program, *version, "--tpm-state", str(state), *banks, "--reconfigure"]
            await _run_setup(domain, running, words, state, key, (str(state),))
        return
    words = [program, *version, "--tpm-state", str(_work(state) / "state")]
    words += ["--vmid", f"{domain.name}:{domain.uuid}"]
    words += ["--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite"]
    await _run_setup(domain, running, [*words, *banks], state, key)


async def _try_key(domain: "Domain", running: Running, dev: Tpm, state: Path, key: tuple[bytes, ...]) -> None:
    """Find out whether the passphrase is that of the state; with another swtpm_setup would wait for ever.

    Raises OperationFailed.
    """
    hv = domain.hypervisor
    work, user = _work(state), _user(hv)
    path = work / "tmp" / "sock"
    words = [find("swtpm"), "socket", "--tpmstate", f"dir={state},mode=0600", "--flags", "startup-clear"]
    words += ["--server", f"type=unixio,path={path}"]
    words += ["--tpm2"] if dev.backend.version == "2.0" else []
    recipe = Recipe(
        f"{NAME}-trial",
        lambda _: words,
        user,
        hv.paths.swtpm_log / f"{domain.name}-swtpm.log",
        files=(str(work),),
        sees=(str(work), str(state)),
        prepare=partial(
            hv.files.run, f"TPM of '{domain.name}'", partial(_make_work, work, user, running.guard)
        ),
        is_ready=partial(_answers, str(path), _QUESTIONS[str(dev.backend.version)]),
        inputs=key,
        told=lambda fds: ["--key", _pwdfd(fds[0])],
    )
    processes.reserve(running, [recipe])
    try:
        await processes.start(domain, running, [recipe])
    except InternalError as error:
        secret = dev.backend.encryption.secret if dev.backend.encryption is not None else None
        raise OperationFailed(
            f"the TPM's state in '{state}' is not encrypted with secret '{secret}': {error.detail}"
        ) from error
    finally:
        await asyncio.shield(processes.stop(domain, running, [recipe.name]))


#: the command GetTestResult, by version: tag, length and code
_QUESTIONS = {
    "1.2": bytes.fromhex("00c1 0000000a 00000054"),
    "2.0": bytes.fromhex("8001 0000000a 0000017c"),
}
#: seconds for an answer
_ANSWER_WAIT = 5.0


def _answers(path: str, question: bytes) -> bool:
    """Tell whether a TPM answers on a socket, which is there before the state is read. Blocking."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_ANSWER_WAIT)
        try:
            connect(line, path)
            line.sendall(question)
            return bool(line.recv(len(question)))
        except OSError:  # it is not there yet, or has just ended
            return False


async def _run_setup(
    domain: "Domain",
    running: Running,
    words: list[str],
    state: Path,
    key: tuple[bytes, ...],
    sees: tuple[str, ...] = (),
) -> None:
    """Run swtpm_setup, and move into place what it has made. sees: what it works on beside."""
    hv = domain.hypervisor
    work, user = _work(state), _user(hv)
    env = {"TMPDIR": str(work / "tmp")}
    if user is None:
        # a user's own certificate authority, whose settings are below the home folder
        env |= {name: os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME") if name in os.environ}

    def recipe(argv: list[str], key: tuple[bytes, ...] = ()) -> Recipe:
        return Recipe(
            SETUP,
            lambda _: argv,
            user,
            hv.paths.swtpm_log / f"{domain.name}-swtpm.log",
            files=(str(work),),
            sees=(str(work), *sees),
            env=env,
            prepare=partial(hv.files.run, f"TPM of '{domain.name}'", partial(_make_work, work, user)),
            finish=partial(
                hv.files.run, f"TPM of '{domain.name}'", partial(_move, running.guard, work, state)
            ),
            inputs=key,
            told=lambda fds: [f"{word}" for fd in fds for word in ("--pwdfile-fd", fd, "--cipher", _CIPHER)],
        )

    if user is None:
        await processes.run(domain, running, recipe([words[0], "--create-config-files", "skip-if-exist"]),
                          SETUP_DEADLINE)  # fmt: skip
    await processes.run(domain, running, recipe(words, key), SETUP_DEADLINE)


def _work(state: Path) -> Path:
    return state.with_name(f"{state.name}.new")


def _make_work(work: Path, user: QemuUser | None, guard: Guard | None = None) -> None:
    """Make the folders in which a state is set up. Blocking. Raises SystemError_.

    guard: of the guest whose swtpm works there; None for swtpm_setup, which the daemon's domain is for.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(work)
    except OSError as error:
        raise SystemError_(f"cannot remove '{work}'", error) from error
    # what is moved into place later must not be swapped by whoever works in it
    _make(work, 0o711, None)
    for folder in (work / "state", work / "tmp"):
        _make(folder, 0o700, user)
    if guard is not None:
        guard.fence(str(work))


def _move(guard: Guard, work: Path, state: Path) -> None:
    """Put a state that was set up where it belongs. Blocking. Raises OSError."""
    if not any((work / "state").iterdir()):
        return
    with contextlib.suppress(FileNotFoundError):
        state.rmdir()
    (work / "state").rename(state)
    guard.fence(str(state))


def _banks(dev: Tpm) -> list[str]:
    banks = dev.backend.active_pcr_banks
    if banks is None:
        return []
    return [name for name in ("sha1", "sha256", "sha384", "sha512") if getattr(banks, name)]


def _make_folders(hv: "Hypervisor", guard: Guard, state: Path) -> bool:
    """Make the folders that are there for all guests, and this one's; tells whether there is a state.

    What is in the state's folder is given to who is going to use it: swtpm_user may have changed.
    Blocking. Raises SystemError_.
    """
    paths, user = hv.paths, _user(hv)
    # libvirt's belong to swtpm's and QEMU's users, who could put links there; they need not write there
    ours = QemuUser(os.geteuid(), os.getegid())
    for folder in (paths.swtpm_log, paths.swtpm_run):
        _make(folder, 0o711, ours)
    state.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    for folder in (paths.swtpm_storage, state.parent):
        folder.chmod(0o711)
    if state.is_symlink():
        raise SystemError_(f"TPM directory {state} is a symbolic link, which is not followed")
    if not state.is_dir() or not any(path.name != ".lock" for path in state.iterdir()):
        return False
    for path in (state, *state.iterdir()):
        if user is not None:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    guard.fence(str(state))
    return True


def _make(folder: Path, mode: int, user: QemuUser | None) -> None:
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder.chmod(mode)
        if user is not None:
            os.chown(folder, user.uid, user.gid)
    except OSError as error:
        raise SystemError_(f"Could not create TPM directory {folder}", error) from error


# ------------------------------------------------------------------------- its removal


def _kept(definition: Definition) -> list[bool]:
    """Return, for each emulated TPM, whether its state outlives its domain."""
    backends = [dev.backend for dev in definition.devices.tpms]
    return [bool(one.persistent_state) for one in backends if one.type == "emulator"]


async def undefined(domain: "Domain", definition: Definition, flags: int) -> None:
    """Remove the state of a domain that is undefined; flags: DomainUndefineFlags."""
    names = DomainUndefineFlags
    kept = _kept(definition)
    if not kept or flags & names.KEEP_TPM or (any(kept) and not flags & names.TPM):
        return
    await _remove(domain)


async def stopped(domain: "Domain", running: Running) -> None:
    """Leave the state of a domain that has stopped to nobody; a transient one's is removed."""
    kept = _kept(running.definition)
    if kept and not any(kept) and not domain.persistent:
        await _remove(domain)
        return
    if kept:
        states = [_state(domain.hypervisor.paths, domain.uuid, version) for version in _FOLDERS]

        def work() -> None:
            for state in filter(Path.is_dir, states):
                running.guard.unfence(str(state))

        await domain.hypervisor.files.run(f"TPM of '{domain.name}'", work)


async def _remove(domain: "Domain") -> None:
    hv = domain.hypervisor
    folder = hv.paths.swtpm_storage / domain.uuid

    def work() -> None:
        try:
            remove_tree(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SystemError_(f"cannot remove the TPM's state '{folder}'", error) from error

    await hv.files.run(f"TPM of '{domain.name}'", work)
