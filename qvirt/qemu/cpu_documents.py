"""CPU documents outside of domains: what virConnectCompareCPU and virConnectBaselineCPU take and answer.

They are of two kinds: a host's (with <arch>, features without policy) as capabilities show it, and a guest's
(with a match attribute) as domains hold it.
"""

from collections.abc import Collection, Iterable, Mapping

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.qemu.architectures import BY_NAME
from qvirt.qemu.cpumodels import Compared, Comparison, CpuDescription, NamedCpu, Processor, ordered
from qvirt.qemu.x86_models import FEATURES, MODEL_BY_NAME, features_of
from qvirt.record import Record, field
from qvirt.xml.document import parse_element
from qvirt.xml.writer import Writer

POLICIES = ("force", "require", "optional", "disable", "forbid")
_MATCHES = ("minimum", "exact", "strict")
_MODES = ("custom", "host-model", "host-passthrough", "maximum")


class CpuDocument(Record):
    """One document; policies: the policy of each feature, "require" for all of a host's."""

    arch: str | None = None
    model: str | None = None
    vendor: str | None = None
    match: str = "exact"
    mode: str = "custom"
    policies: Mapping[str, str] = field(default_factory=dict)

    def with_policy(self, *policies: str) -> frozenset[str]:
        """Return the features that have one of the policies."""
        return frozenset(name for name, policy in self.policies.items() if policy in policies)


def parse_cpu(text: str, *, is_host: bool = False) -> CpuDocument:
    """Read a document. is_host: it must describe a host (baseline), else it may be of either kind.

    Raises XmlDetail, XmlError, ConfigUnsupported with libvirt's sentences.
    """
    root = parse_element(text, "(CPU_definition)")
    if root.tag != "cpu":
        raise _xml("XML does not contain expected 'cpu' element")
    arch, model, vendor = (_text(root, name) for name in ("arch", "model", "vendor"))
    match = root.get("match")
    mode = root.get("mode", "custom")
    if match is not None and match not in _MATCHES:
        raise XmlError(
            f"Invalid value for attribute 'match' in element 'cpu': '{match}'.", domain=ErrorDomain.XML
        )
    if mode not in _MODES:
        raise XmlError(
            f"Invalid value for attribute 'mode' in element 'cpu': '{mode}'.", domain=ErrorDomain.XML
        )
    if match is not None and arch is not None:
        raise _xml("'arch' element cannot be used inside 'cpu' element with 'match' attribute'")
    if root.get("mode") is not None and (is_host or arch is not None):
        raise ConfigUnsupported("Attribute mode is only allowed for guest CPU", domain=ErrorDomain.CPU)
    if arch is None and is_host:
        raise _xml("Missing CPU architecture")
    if arch is not None and arch not in BY_NAME:
        raise ConfigUnsupported(f"Unknown architecture {arch}", domain=ErrorDomain.CPU)
    policies = _policies(root.findall("feature"), is_host=arch is not None)
    if model is None and arch is not None:
        raise _xml("Missing CPU model name")
    if model is None and policies and mode == "custom":
        raise _xml("Non-empty feature list specified without CPU model")
    return CpuDocument(arch, model, vendor, match or "exact", mode, policies)


def _policies(elements: Iterable[etree._Element], *, is_host: bool) -> dict[str, str]:
    policies: dict[str, str] = {}
    for element in elements:
        name = element.get("name")
        policy = "require" if is_host else element.get("policy", "require")
        if policy not in POLICIES:
            raise ConfigUnsupported("Invalid CPU feature policy", domain=ErrorDomain.CPU)
        if not name:
            raise _xml("Invalid CPU feature name")
        if name in policies:
            raise _xml(f"CPU feature '{name}' specified more than once")
        policies[name] = policy
    return policies


def _text(root: etree._Element, name: str) -> str | None:
    return (root.findtext(name) or "").strip() or None


def _xml(detail: str) -> XmlError:
    return XmlError(detail, domain=ErrorDomain.CPU)


def compare_document(host: Processor, document: CpuDocument) -> Comparison:
    """Tell how a processor stands to the CPU of a document; raises InternalError for unknown names."""
    if document.mode != "custom" or document.model is None:
        return Comparison(Compared.SUPERSET)
    _check_names(document)
    if document.vendor and document.vendor != host.vendor:
        return Comparison(
            Compared.INCOMPATIBLE, f"host CPU vendor does not match required CPU vendor {document.vendor}"
        )
    forbidden = ordered(host.features & document.with_policy("forbid"))
    if forbidden:
        return Comparison(
            Compared.INCOMPATIBLE, f"Host CPU provides forbidden features: {', '.join(forbidden)}"
        )
    model = features_of(document.model)
    ignored = document.with_policy("force", "optional", "disable")
    wanted = (model | document.with_policy("require")) - ignored
    missing = ordered(wanted - host.features)
    if missing:
        return Comparison(
            Compared.INCOMPATIBLE, f"Host CPU does not provide required features: {', '.join(missing)}"
        )
    extra = ordered(host.features - wanted - ignored)
    if not extra:
        return Comparison(Compared.IDENTICAL)
    if document.match == "strict":
        return Comparison(
            Compared.INCOMPATIBLE,
            f"Host CPU does not strictly match guest CPU: Extra features: {', '.join(extra)}",
        )
    return Comparison(Compared.SUPERSET)


def _check_names(document: CpuDocument) -> None:
    if document.model not in MODEL_BY_NAME:
        raise InternalError(f"Unknown CPU model {document.model}", domain=ErrorDomain.CPU)
    for name in document.policies:
        if name not in FEATURES:
            raise InternalError(f"Unknown CPU feature {name}", domain=ErrorDomain.CPU)


def named_cpu(document: CpuDocument) -> NamedCpu:
    """Return a host's document as an input of `cpumodels.baseline`."""
    _check_names(document)
    return NamedCpu(
        document.model or "",
        document.vendor,
        document.with_policy("force", "require"),
        document.with_policy("disable", "forbid"),
    )


def format_baseline(
    found: CpuDescription,
    inputs: Collection[CpuDocument],
    *,
    expand: bool = False,
    fallback: str | None = None,
) -> str:
    """Write the answer to a baseline: a guest CPU. expand: with the features of the model, by name.

    fallback: "forbid" for a hypervisor's answer; else it depends on whether the inputs agree on the model.
    """
    if fallback is None:
        agree = {document.model for document in inputs} == {found.model}
        fallback = "forbid" if agree else "allow"
    policies = dict.fromkeys(found.require, "require") | dict.fromkeys(found.disable, "disable")
    if expand:
        policies = dict.fromkeys(features_of(found.model), "require") | policies
        policies = dict(sorted(policies.items()))
    out = Writer()
    with out.element("cpu", mode="custom", match="exact"):
        out.leaf("model", found.model, fallback=fallback)
        if found.vendor and all(document.vendor for document in inputs):
            out.leaf("vendor", found.vendor)
        for name, policy in policies.items():
            out.leaf("feature", policy=policy, name=name)
    return out.text()
