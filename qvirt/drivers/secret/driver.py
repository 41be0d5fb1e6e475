"""Secrets: all secrets of an instance. Lookups are from memory; a change is on disk before it counts."""

import asyncio
import uuid as _uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from qvirt.constants.error import ErrorDomain
from qvirt.constants.secret import SecretEventLifecycleType, SecretUsageType
from qvirt.drivers.secret import store
from qvirt.drivers.secret.events import SecretEvents, SecretLifecycle, SecretValueChanged
from qvirt.errors import InternalError, InvalidArg, NoSecret
from qvirt.host.persist import FileWorker
from qvirt.model.secret import USAGE_NUMBERS, Secret, parse_secret


class Kept:
    """A secret: its document, and its value where one was set."""

    def __init__(self, document: Secret, value: bytes | None = None) -> None:
        self.document = document
        self.value = value

    @property
    def uuid(self) -> str:
        return str(self.document.uuid)

    @property
    def usage(self) -> tuple[int, str]:
        """SecretUsageType, and what it is for."""
        return self.document.usage_type, self.document.usage_id


class Secrets:
    """The secrets, by uuid."""

    def __init__(self, folder: Path, files: FileWorker) -> None:
        """Use `open`."""
        self.events = SecretEvents()
        self.reports: list[str] = []
        self._folder = folder
        self._files = files
        self._by_uuid: dict[str, Kept] = {}
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, folder: Path, files: FileWorker) -> Self:
        """Read the secrets. Raises SystemError_."""
        self = cls(folder, files)
        loaded = await files.run("secrets", partial(store.load, folder))
        self.reports += loaded.reports
        for document, value in loaded.secrets:
            self._by_uuid[str(document.uuid)] = Kept(document, value)
        return self

    # ------------------------------------------------------------------ lookups

    def __iter__(self) -> Iterator[Kept]:
        return iter(list(self._by_uuid.values()))

    def by_uuid(self, uuid: str) -> Kept:
        """Raises NoSecret."""
        kept = self._by_uuid.get(uuid)
        if kept is None:
            raise NoSecret(f"no secret with matching uuid '{uuid}'", domain=ErrorDomain.SECRET)
        return kept

    def by_usage(self, kind: int, usage: str) -> Kept:
        """kind: SecretUsageType. Raises NoSecret."""
        for kept in self._by_uuid.values():
            if kind != SecretUsageType.NONE and kept.usage == (kind, usage):
                return kept
        raise NoSecret(f"no secret with matching usage '{usage}'", domain=ErrorDomain.SECRET)

    def value(self, kind: str, uuid: str | None, usage: str | None) -> bytes:
        """Return the value that a document asks for, by uuid or by what it is for; private ones as well.

        kind: the kind of use, such as "iscsi"; a secret whose document names none is good for all.
        Raises NoSecret, where there is none or no value, and InvalidArg for a secret of another kind.
        """
        kept = self.by_uuid(uuid) if uuid is not None else self.by_usage(USAGE_NUMBERS[kind], usage or "")
        said = kept.document.usage
        if said is not None and said.type != kind:
            raise InvalidArg(
                f"secret with uuid {kept.uuid} is of type '{said.type}' not expected '{kind}' type",
                domain=ErrorDomain.SECRET,
            )
        return self.value_of(kept)

    def value_of(self, kept: Kept) -> bytes:
        """Raises NoSecret where none was set."""
        if kept.value is None:
            raise NoSecret(f"secret '{kept.uuid}' does not have a value", domain=ErrorDomain.SECRET)
        return kept.value

    # ------------------------------------------------------------------ changes

    async def define(self, xml: str, *, validated: bool = False) -> Kept:
        """Keep a secret's document (virSecretDefineXML); an existing one keeps its value.

        Raises InternalError where another secret is for the same, or this one was for something else.
        """
        document = parse_secret(xml, validate=validated)
        document.uuid = document.uuid or str(_uuid.uuid4())
        async with self._changing:
            old = self._by_uuid.get(document.uuid)
            self._check(document, old)
            kept = old or Kept(document)
            await self._files.run(
                f"secret '{document.uuid}'", partial(store.write, self._folder, document, kept.value)
            )
            kept.document = document
            self._by_uuid[kept.uuid] = kept
        self._tell(kept, SecretEventLifecycleType.DEFINED)
        return kept

    def _check(self, document: Secret, old: Kept | None) -> None:
        if old is not None:
            if old.document.usage_id != document.usage_id:
                raise InternalError(
                    f"a secret with UUID {old.uuid} is already defined for use with "
                    f"{old.document.usage_id or '(null)'}"
                )
            if old.document.private and not document.private:
                raise InternalError("cannot change private flag on existing secret")
        usage = (document.usage_type, document.usage_id)
        for other in self._by_uuid.values():
            if other is not old and document.usage_id and other.usage == usage:
                raise InternalError(
                    f"a secret with UUID {other.uuid} already defined for use with {document.usage_id}"
                )

    async def set_value(self, kept: Kept, value: bytes) -> None:
        """Set the value. Raises NoSecret for a secret that is gone meanwhile, SystemError_."""
        async with self._changing:
            kept = self.by_uuid(kept.uuid)  # it may have been made anew while we waited
            if not kept.document.ephemeral:
                await self._files.run(
                    f"secret '{kept.uuid}'", partial(store.write_value, self._folder, kept.uuid, value)
                )
            kept.value = value
        self.events.publish(SecretValueChanged(kept.uuid, *kept.usage))

    async def undefine(self, kept: Kept) -> None:
        """Forget a secret. Raises NoSecret for one that is gone meanwhile, SystemError_."""
        async with self._changing:
            self.by_uuid(kept.uuid)
            await self._files.run(f"secret '{kept.uuid}'", partial(store.erase, self._folder, kept.uuid))
            del self._by_uuid[kept.uuid]
        self._tell(kept, SecretEventLifecycleType.UNDEFINED)

    def _tell(self, kept: Kept, event: int) -> None:
        self.events.publish(SecretLifecycle(kept.uuid, *kept.usage, event))
