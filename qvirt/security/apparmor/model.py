"""The model ``apparmor``: each guest's QEMU runs under a profile of its own."""

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.errors import ConfigUnsupported, InvalidArg, QvirtError
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.devices.base import HandedResource, HelperResource, Resource
from qvirt.security import denials
from qvirt.security.apparmor import profiles, remedies
from qvirt.security.apparmor.profiles import Profile
from qvirt.security.apparmor.rules import HELPERS_LOCAL, FilesText, Rules, common_rules, rules_for
from qvirt.security.denials import Denial
from qvirt.security.loans import Loan
from qvirt.security.model import Guest, Model

if TYPE_CHECKING:
    from qvirt.qemu.context import Dirs

#: what QEMU says where it is refused something
_PERMISSION_DENIED = re.compile(r"permission denied", re.IGNORECASE)

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
            dirs = self._dirs
            text = FilesText()
            text.grant(common_rules(guest.name, guest.folder, lib=dirs.lib, run=dirs.run, log=dirs.log))
            text.grant(self._rules_for(guest, resources))
            text.admit(profile.name, _helpers(resources))
            if self._daemon != "unconfined":
                text.admit_peer(self._daemon)
            template = profile.make()
            profile.write_rules(text)
            try:
                profile.load(template)
            except BaseException:
                profile.forget()
                if template is not None:
                    profile.unmake()  # a template that is mended serves again
                raise
            return
        text = profile.rules()
        before = str(text)
        has_more = text.admit(profile.name, _helpers(resources))
        if text.grant(self._rules_for(guest, resources)) or has_more:
            self._change(profile, text, before)

    def _rules_for(self, guest: Guest, resources: Iterable[Resource]) -> Rules:
        """What an unconfined daemon hands over, the kernel does not ask about; of another it asks again."""
        if self._daemon == "unconfined":
            resources = [one for one in resources if not isinstance(one, HandedResource)]
        return rules_for(resources, guest.folder)

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
                if text.revoke(lost, self._rules_for(guest, kept)) or has_fewer:
                    self._change(profile, text, before)
        except QvirtError as error:
            return [error.detail]
        return []

    def find_again(self, guest: Guest) -> None:
        profile = self._own_profile(guest)
        if profile is None:
            return
        with self._lock(guest):
            if not profile.files_path.exists():
                return  # it is ending
            text = profile.rules()
            before = str(text)
            is_new = self._daemon != "unconfined" and text.admit_peer(self._daemon)
            if is_new or text.is_pending:
                self._change(profile, text, before)

    def _change(self, profile: Profile, text: FilesText, before: str) -> None:
        """Bring new rules into force; on failure the file is as the kernel has it.

        A daemon that dies half way leaves the file marked, so that the next one loads it.
        """
        text.is_pending = True
        profile.write_rules(text)
        try:
            profile.load()
        except BaseException:
            profile.write_rules(FilesText(before))
            raise
        text.is_pending = False
        profile.write_rules(text)

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

    def is_about(self, guest: Guest, denial: Denial) -> bool:
        label = guest.label_of(self.name)
        if label is None or denial.model != self.name or not label.label:
            return False
        if denial.label == self._daemon != "unconfined":
            # the launcher, on its way to the guest's profile
            return denial.fields.get("operation") == "change_onexec" and denial.path == label.label
        return denial.label == label.label or denial.label.startswith(f"{label.label}//")  # a helper's

    def is_harmless(self, guest: Guest, denial: Denial, said: str) -> bool:
        return remedies.is_harmless(denial, said)

    def remedy(self, guest: Guest, denial: Denial) -> str:
        rule = remedies.rule_that_allows(denial)
        own = self._own_profile(guest)
        where = f"profile '{denial.label}'"
        if own is not None and denial.label == own.name:
            where = f"'{own.path}'"
        elif own is not None and denial.label.startswith(f"{own.name}//"):
            where = f"'{self._folder.parent / HELPERS_LOCAL}'"
        return f"allow it with the rule {rule} in {where}" if rule else ""

    def suspicions(self, guest: Guest, said: str) -> list[str]:
        label = guest.label_of(self.name)
        if label is None or label.label in (None, "", "unconfined") or denials.are_recorded():
            return []
        if not _PERMISSION_DENIED.search(said):
            return []
        return [
            f"AppArmor may be why, which confines the guest by '{label.label}': this kernel keeps no records "
            "of what it refuses (audit=0 on its command line)"
        ]

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
