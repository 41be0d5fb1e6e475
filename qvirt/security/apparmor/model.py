"""The model ``apparmor``: each guest's QEMU runs under a profile of its own."""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.errors import ConfigUnsupported, InvalidArg, QvirtError
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import HelperResource, Resource
from qvirt.security.apparmor import profiles
from qvirt.security.apparmor.profiles import Profile
from qvirt.security.apparmor.rules import FilesText, common_rules, rule_that_allows, rules_for
from qvirt.security.denials import Denial
from qvirt.security.loans import Loan
from qvirt.security.model import Guest, Model

if TYPE_CHECKING:
    from qvirt.qemu.context import Dirs

#: what the kernel has of a thread's confinement; the second where AppArmor is the only model
_ATTRIBUTES = ("attr/apparmor/current", "attr/current")


class AppArmor(Model):
    """Profiles. folder: the instance's own, as ``/etc/apparmor.d/libvirt``. dirs: where guests have files."""

    name = "apparmor"
    records = True

    def __init__(self, folder: Path, dirs: "Dirs") -> None:
        self._folder = folder
        self._dirs = dirs
        #: runs whose profile has not been made yet
        self._new: set[int] = set()
        #: run -> held while its files and the kernel change: a guest may end while it is given something
        self._changing: dict[int, threading.Lock] = {}
        # a confined daemon's QEMU would change from one profile to another, which counts as gaining rights
        self._daemon = confinement("self")[0]
        self.takes_no_new_privs = self._daemon == "unconfined"

    def label(self, guest: Guest, wanted: SecLabel | None, others: Iterable[Guest]) -> SecLabel | None:
        if wanted is None or wanted.type == "dynamic":
            if wanted is not None and wanted.baselabel:
                raise ConfigUnsupported(
                    f"Cannot set a base label with AppArmor (<seclabel> in line {wanted.line}): a profile is "
                    "made from the template"
                )
            made = wanted or SecLabel(type="dynamic", model=self.name, relabel=True)
            made.label = made.imagelabel = self._profile(guest).name
            self._new.add(guest.run)
            return made
        if wanted.type == "static" and not profiles.is_loaded(wanted.label or ""):
            if wanted.label == "unconfined":
                return wanted
            raise InvalidArg(
                f"unable to set AppArmor profile '{wanted.label}': No such file or directory: the kernel has "
                f"no profile of that name (<seclabel> in line {wanted.line}); load it with apparmor_parser"
            )
        return wanted

    def words(self, guest: Guest) -> Sequence[str]:
        label = guest.label_of(self.name)
        return [f"--apparmor-profile={label.label}"] if label is not None and label.label else []

    def helper_words(self, guest: Guest, name: str, program: str) -> Sequence[str]:
        """A profile of its own within the guest's, where rules were made for it."""
        profile = self._own_profile(guest)
        if profile is None or name not in profile.rules().helpers:
            return ()
        return (f"--apparmor-profile={profile.name}//{name}",)

    def give(self, guest: Guest, loans: Sequence[Loan], resources: Iterable[Resource]) -> None:
        profile = self._own_profile(guest)
        if profile is None:
            return
        with self._lock(guest):
            self._give(guest, profile, resources)

    def _lock(self, guest: Guest) -> threading.Lock:
        return self._changing.setdefault(guest.run, threading.Lock())

    def _give(self, guest: Guest, profile: Profile, resources: Iterable[Resource]) -> None:
        if guest.run in self._new:
            # whatever lies there is of a machine that went down
            self._new.discard(guest.run)
            profile.make()
            dirs = self._dirs
            text = FilesText()
            text.grant(common_rules(guest.name, guest.folder, lib=dirs.lib, run=dirs.run, log=dirs.log))
            text.grant(rules_for(resources))
            text.admit(profile.name, _helpers(resources))
            if self._daemon != "unconfined":
                text.admit_peer(self._daemon)
            self._change(profile, text, None)
            return
        text = profile.rules()
        before = str(text)
        has_more = text.admit(profile.name, _helpers(resources))
        if text.grant(rules_for(resources)) or has_more:
            self._change(profile, text, before)

    def take_back(
        self, guest: Guest, loans: Sequence[Loan], gone: Iterable[Resource], kept: Iterable[Resource]
    ) -> list[str]:
        profile = self._own_profile(guest)
        if profile is None:
            return []
        lost, names = rules_for(gone), [helper.name for helper in _helpers(gone)]
        if not lost and not names:
            return []
        try:
            with self._lock(guest):
                if not profile.files_path.exists():
                    return []  # the guest has ended meanwhile
                text = profile.rules()
                before = str(text)
                has_fewer = text.dismiss(names)
                if text.revoke(lost, rules_for(kept)) or has_fewer:
                    self._change(profile, text, before)
        except QvirtError as error:
            return [error.detail]
        return []

    def _change(self, profile: Profile, text: FilesText, before: str | None) -> None:
        """Bring new rules into force; on failure the file is as the kernel has it."""
        profile.write_rules(text)
        try:
            profile.load()
        except BaseException:
            if before is None:
                profile.forget()
            else:
                profile.write_rules(FilesText(before))
            raise

    def end(self, guest: Guest) -> list[str]:
        profile = self._own_profile(guest)
        if profile is None:
            return []
        try:
            with self._lock(guest):
                self._new.discard(guest.run)
                profile.unload()
                profile.forget()
        except OSError as error:
            return [f"cannot unload AppArmor profile '{profile.name}': {error.strerror}"]
        finally:
            self._changing.pop(guest.run, None)
        return []

    def remedy(self, guest: Guest, denial: Denial) -> str:
        rule = rule_that_allows(denial)
        own = self._own_profile(guest)
        where = f"'{own.path}'" if own is not None else f"profile '{denial.label}'"
        return f"allow it with the rule {rule} in {where}" if rule else ""

    def read(self, guest: Guest, pid: int) -> tuple[str, bool]:
        label, mode = confinement(str(pid))
        return label, mode == "enforce"

    def _profile(self, guest: Guest) -> Profile:
        return Profile(self._folder, guest.uuid)

    def _own_profile(self, guest: Guest) -> Profile | None:
        """Return the profile that is made for this guest; None for one that has another, or none."""
        label, profile = guest.label_of(self.name), self._profile(guest)
        is_own = label is not None and label.type == "dynamic" and label.label == profile.name
        return profile if is_own else None


def _helpers(resources: Iterable[Resource]) -> list[HelperResource]:
    return [resource for resource in resources if isinstance(resource, HelperResource)]


def confinement(process: str) -> tuple[str, str]:
    """Return a process's profile and its mode; ``unconfined`` has none. Raises OSError."""
    for name in _ATTRIBUTES:
        path = Path(f"/proc/{process}/{name}")
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\0\n")
            label, _, mode = text.partition(" (")
            return label, mode.rstrip(")")
    return "unconfined", ""
