"""What concerns the definition: undefine, rename, autostart, title, description, metadata, on_* actions."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lxml import etree

from qvirt.constants.domain import (
    DomainMetadataType,
    DomainModificationImpact,
    DomainUndefineFlags,
)
from qvirt.constants.domain_event import (
    DomainEventDefinedDetailType,
    DomainEventType,
    DomainEventUndefinedDetailType,
)
from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    InvalidArg,
    NoDomainMetadata,
    OperationInvalid,
    SystemError_,
    XmlError,
)
from qvirt.host.persist import remove, sync_folder, write_atomic
from qvirt.model.domain import Domain as Definition
from qvirt.model.domain import Metadata
from qvirt.runtime.documents import header
from qvirt.runtime.events import Lifecycle, MetadataChange
from qvirt.runtime.helpers import swtpm
from qvirt.runtime.jobs import Job
from qvirt.xml.document import parse_element
from qvirt.xml.node import Raw

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain


def write_definition(folder: Path, name: str, uuid: str, text: str) -> None:
    """Keep a definition on disk. Raises SystemError_. Blocking."""
    write_atomic(folder / f"{name}.xml", (header(name, uuid) + text).encode("utf-8", "surrogateescape"))


# ------------------------------------------------------------------------ undefine


async def undefine(domain: "Domain", flags: int) -> None:
    """Forget the definition; a running domain goes on as a transient one."""
    hv = domain.hypervisor
    names = DomainUndefineFlags
    async with domain.job(Job.MODIFY, "undefine"):
        if not domain.persistent:
            raise OperationInvalid("cannot undefine transient domain")
        if not domain.active:
            if domain.has_managed_save and not flags & names.MANAGED_SAVE:
                raise OperationInvalid("Refusing to undefine while domain managed save image exists")
            nvram = await _nvram(domain)
            what = f"nvram of '{domain.name}'"
            if (
                nvram
                and not flags & names.KEEP_NVRAM
                and await hv.files.run(what, partial(os.path.exists, nvram))
            ):
                if not flags & names.NVRAM:
                    raise OperationInvalid("cannot undefine domain with nvram")
                await hv.files.run(what, partial(_unlink, nvram))
        if not domain.active and "<tpm" in domain.text:
            await swtpm.undefined(domain, await domain.definition(), flags)
        if flags & names.MANAGED_SAVE and domain.has_managed_save:
            await hv.files.run("managed save", lambda: remove(hv.paths.managed_save(domain.name)))
        hv.checkpoint("undefine")
        paths = hv.paths

        def work() -> None:
            remove(paths.autostart_link(domain.name))
            remove(paths.autostart_once_link(domain.name))
            hv.checkpoint("autostart removed")
            remove(paths.definition(domain.name))

        await hv.files.run(f"definition of '{domain.name}'", work)
        hv.checkpoint("undefined")
        ref = domain.ref
        domain.persistent = False
        domain.autostart = domain.autostart_once = False
        domain.updated = False
        hv.domain_undefined(domain)
        hv.events.publish(Lifecycle(ref, DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.REMOVED))


async def _nvram(domain: "Domain") -> str | None:
    """Return the file of a definition's firmware variables."""
    # Documents without any firmware, which are most, need not be read for it.
    if not any(word in domain.text for word in ("nvram", "loader", "firmware")):
        return None
    os_ = (await domain.definition()).os
    if os_.nvram is not None:
        return os_.nvram.file
    if os_.firmware == "efi":
        # chosen at a start, so the definition does not name it
        return str(domain.hypervisor.paths.nvram / f"{domain.name}_VARS.fd")
    return None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise SystemError_(f"failed to remove nvram: {path}", error) from error


# -------------------------------------------------------------------------- rename


async def rename(domain: "Domain", new_name: str) -> None:
    """Give an inactive domain another name; the new definition is on disk before the old one goes."""
    hv = domain.hypervisor
    if not new_name:
        raise InvalidArg("new_name must not be empty")
    if "/" in new_name:
        raise XmlError(f"name {new_name} cannot contain '/'", domain=ErrorDomain.DOMAIN)
    if "\n" in new_name:
        raise XmlError("invalid char in name: 0x0a", domain=ErrorDomain.DOMAIN)
    async with domain.job(Job.MODIFY, "rename"):
        if domain.active:
            raise OperationInvalid("cannot rename active domain")
        if not domain.persistent:
            raise OperationInvalid("cannot rename a transient domain")
        if new_name == domain.name:
            raise OperationInvalid("Can't rename domain to itself")
        if hv.domains.find_name(new_name) is not None:
            raise OperationInvalid(f"domain with name '{new_name}' already exists")
        if domain.has_managed_save:
            raise OperationInvalid("domain with a managed saved state can't be renamed")
        definition = (await domain.definition()).copy()
        definition.name = new_name
        text = hv.documents.write(definition, secure=True)
        old_name, old_ref = domain.name, domain.ref
        hv.domains.reserve_name(new_name, domain)
        try:
            await hv.files.run(
                f"rename of '{old_name}'",
                partial(_rename_files, domain, old_name, new_name, text),
            )
        except BaseException:
            hv.domains.release_name(new_name, domain)
            raise
        domain.take_definition(definition, text)
        hv.domains.rename(domain, new_name)
        hv.events.publish(
            Lifecycle(old_ref, DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.RENAMED)
        )
        domain.publish(Lifecycle(domain.ref, DomainEventType.DEFINED, DomainEventDefinedDetailType.RENAMED))


def _rename_files(domain: "Domain", old_name: str, new_name: str, text: str) -> None:
    hv = domain.hypervisor
    paths = hv.paths
    # Two files with one uuid for a moment: a daemon that starts then keeps the newer one.
    write_definition(paths.definitions, new_name, domain.uuid, text)
    hv.checkpoint("renamed definition written")
    for link in (paths.autostart_link, paths.autostart_once_link):
        if link(old_name).is_symlink():
            _make_link(link(new_name), paths.definition(new_name))
            remove(link(old_name))
    hv.checkpoint("renamed links written")
    remove(paths.definition(old_name))


# ----------------------------------------------------------------------- autostart


async def set_autostart(domain: "Domain", on: bool, *, once: bool) -> None:
    """Mark a definition to be started with the daemon, or the next time only."""
    hv = domain.hypervisor
    async with domain.job(Job.MODIFY, "autostart"):
        if not domain.persistent:
            raise OperationInvalid("cannot set autostart for transient domain")
        link = (hv.paths.autostart_once_link if once else hv.paths.autostart_link)(domain.name)
        if on:
            work: Callable[[], object] = partial(_make_link, link, hv.paths.definition(domain.name))
        else:
            work = partial(remove, link)
        await hv.files.run(f"autostart of '{domain.name}'", work)
        if once:
            domain.autostart_once = on
        else:
            domain.autostart = on


def _make_link(link: Path, target: Path) -> None:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(target)
        sync_folder(link.parent)
    except OSError as error:
        raise SystemError_(f"Failed to create symlink '{link}' to '{target}'", error) from error


# ------------------------------------------------- title, description and metadata


def impact(domain: "Domain", flags: int) -> tuple[bool, bool]:
    """Return which of the live and the persistent definition ``flags`` are about.

    Raises OperationInvalid when it is not there.
    """
    names = DomainModificationImpact
    live, config = bool(flags & names.LIVE), bool(flags & names.CONFIG)
    if not live and not config:
        live, config = domain.active, not domain.active
    if live:
        domain.need_running()
    if config and not domain.persistent:
        raise OperationInvalid(
            "transient domains do not have any persistent config", domain=ErrorDomain.DOMAIN
        )
    return live, config


async def set_metadata(
    domain: "Domain", type: int, metadata: str | None, key: str | None, uri: str | None, flags: int
) -> None:
    """Set or, with None, remove title, description or one namespace's element."""
    kinds = DomainMetadataType
    if type == kinds.TITLE and metadata is not None and "\n" in metadata:
        raise InvalidArg("metadata title can't contain newlines", domain=ErrorDomain.DOMAIN)
    element: etree._Element | None = None
    if type == kinds.ELEMENT:
        if uri is None:
            raise InvalidArg("uri must be given for an element", domain=ErrorDomain.DOMAIN)
        element = _element(metadata, key, uri)

    def change(definition: Definition) -> None:
        if type == kinds.TITLE:
            definition.title = metadata or None
        elif type == kinds.DESCRIPTION:
            definition.description = metadata or None
        else:
            _replace(definition, str(uri), element)

    if type not in (kinds.DESCRIPTION, kinds.TITLE, kinds.ELEMENT):
        raise InvalidArg(f"unknown metadata type {type}", domain=ErrorDomain.DOMAIN)
    await edit(domain, "set metadata", flags, change)
    domain.publish(MetadataChange(domain.ref, type, uri if type == kinds.ELEMENT else None))


def _element(metadata: str | None, key: str | None, uri: str) -> etree._Element | None:
    if metadata is None:
        return None
    if not key:
        raise InvalidArg("key must be given for an element", domain=ErrorDomain.DOMAIN)
    inner = parse_element(metadata, "(metadata_xml)")
    # The namespace is what the element is found by again: it gets the one it is set under.
    root = etree.Element(f"{{{uri}}}{etree.QName(inner).localname}", nsmap={key: uri})
    root.text = inner.text
    for name, value in inner.attrib.items():
        root.set(name, value)
    for kid in list(inner):
        _adopt(kid, uri, etree.QName(inner).namespace)
        root.append(kid)
    return root


def _adopt(el: etree._Element, uri: str, old: str | None) -> None:
    """Put an element and what is below it into a namespace, where it is in none or its parent's."""
    for node in el.iter(etree.Element):
        name = etree.QName(node)
        if name.namespace == old:
            node.tag = f"{{{uri}}}{name.localname}"


def _replace(definition: Definition, uri: str, element: etree._Element | None) -> None:
    items = list(definition.metadata.items) if definition.metadata is not None else []
    items = [item for item in items if item.namespace != uri]
    if element is not None:
        items.append(Raw(element))
    if not items:
        definition.metadata = None
        return
    holder = Metadata()
    holder.items = items
    definition.metadata = holder


def _bare(item: Raw) -> str:
    """Return an element as it was before it was put into its namespace."""
    out: list[str] = []
    item.write(out, "")
    root = etree.fromstring("".join(out), etree.XMLParser(remove_blank_text=True, resolve_entities=False))
    uri = etree.QName(root).namespace
    for node in root.iter(etree.Element):
        name = etree.QName(node)
        if name.namespace == uri:
            node.tag = name.localname
    etree.cleanup_namespaces(root)
    return str(etree.tostring(root, encoding="unicode", pretty_print=True)).rstrip("\n")


async def metadata(domain: "Domain", type: int, uri: str | None, flags: int) -> str:
    """Return title, description or one namespace's element. Raises NoDomainMetadata."""
    kinds = DomainMetadataType
    if flags & DomainModificationImpact.LIVE and flags & DomainModificationImpact.CONFIG:
        raise InvalidArg("flags 'live' and 'config' are mutually exclusive", domain=ErrorDomain.DOMAIN)
    live, _ = impact(domain, flags)
    definition = domain.live if live else await domain.definition()
    if type == kinds.TITLE:
        text = definition.title
    elif type == kinds.DESCRIPTION:
        text = definition.description
    elif type == kinds.ELEMENT:
        text = None
        for item in definition.metadata.items if definition.metadata is not None else []:
            if item.namespace == uri:
                text = _bare(item)
    else:
        raise InvalidArg(f"unknown metadata type {type}", domain=ErrorDomain.DOMAIN)
    if text is None:
        raise NoDomainMetadata("Requested metadata element is not present", domain=ErrorDomain.DOMAIN)
    return text


async def edit(domain: "Domain", owner: str, flags: int, change: Callable[[Definition], None]) -> None:
    """Change the live, the persistent definition or both; the one on disk first, as it can fail.

    change: replaces fields of the definition, and alters nothing that is in them.
    """
    async with domain.job(Job.MODIFY, owner):
        live, config = impact(domain, flags)
        if config:
            definition = (await domain.definition()).copy()
            change(definition)
            await domain.keep(definition)
        if live:
            running = domain.need_running()
            before = dict(vars(running.definition))
            try:
                change(running.definition)
                running.touch()
                await domain.save_status()
            except BaseException:
                vars(running.definition).clear()
                vars(running.definition).update(before)
                running.touch()
                raise
