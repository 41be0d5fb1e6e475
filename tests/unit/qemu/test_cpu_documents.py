import pytest

from qvirt.errors import QvirtError
from qvirt.qemu.cpu_documents import compare_document, format_baseline, named_cpu, parse_cpu
from qvirt.qemu.cpumodels import Compared, NamedCpu, Processor, baseline
from qvirt.qemu.x86_models import features_of

HOST = Processor("Intel", (6, 60, 3), features_of("Haswell") | {"vmx"})


def host(model: str, *features: str, vendor: str = "") -> str:
    said = f"<vendor>{vendor}</vendor>" if vendor else ""
    listed = "".join(f"<feature name='{name}'/>" for name in features)
    return f"<cpu><arch>x86_64</arch><model>{model}</model>{said}{listed}</cpu>"


def guest(model: str, match: str = "exact", **policies: str) -> str:
    listed = "".join(f"<feature policy='{p}' name='{name}'/>" for name, p in policies.items())
    return f"<cpu match='{match}'><model>{model}</model>{listed}</cpu>"


@pytest.mark.parametrize(
    ("document", "result", "reason"),
    [
        ("<cpu/>", Compared.SUPERSET, ""),
        ("<cpu mode='host-model'/>", Compared.SUPERSET, ""),
        (host("Penryn"), Compared.SUPERSET, ""),
        (host("Haswell", "vmx"), Compared.IDENTICAL, ""),
        (guest("Haswell", vmx="disable"), Compared.IDENTICAL, ""),
        (guest("Penryn", svm="force", pku="optional"), Compared.SUPERSET, ""),
        (
            guest("Broadwell", pku="require"),
            Compared.INCOMPATIBLE,
            "Host CPU does not provide required features: rdseed, adx, smap, pku, 3dnowprefetch",
        ),
        (guest("Penryn", vmx="forbid"), Compared.INCOMPATIBLE, "Host CPU provides forbidden features: vmx"),
        (
            guest("Haswell", "strict"),
            Compared.INCOMPATIBLE,
            "Host CPU does not strictly match guest CPU: Extra features: vmx",
        ),
        (
            host("qemu64", vendor="AMD"),
            Compared.INCOMPATIBLE,
            "host CPU vendor does not match required CPU vendor AMD",
        ),
    ],
)
def test_compare(document: str, result: Compared, reason: str) -> None:
    found = compare_document(HOST, parse_cpu(document))
    assert (found.result, found.reason) == (result, reason)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<foo/>", "XML error: XML does not contain expected 'cpu' element"),
        ("<cpu match='bad'/>", "XML error: Invalid value for attribute 'match' in element 'cpu': 'bad'."),
        (
            "<cpu match='exact'><arch>x86_64</arch><model>486</model></cpu>",
            "XML error: 'arch' element cannot be used inside 'cpu' element with 'match' attribute'",
        ),
        ("<cpu><arch>nope</arch></cpu>", "unsupported configuration: Unknown architecture nope"),
        ("<cpu><arch>x86_64</arch></cpu>", "XML error: Missing CPU model name"),
        (
            "<cpu match='exact'><feature name='vme'/></cpu>",
            "XML error: Non-empty feature list specified without CPU model",
        ),
        (
            "<cpu><model>486</model><feature policy='bad' name='vme'/></cpu>",
            "unsupported configuration: Invalid CPU feature policy",
        ),
        ("<cpu><model>486</model><feature/></cpu>", "XML error: Invalid CPU feature name"),
        (
            host("486", "vme", "vme"),
            "XML error: CPU feature 'vme' specified more than once",
        ),
        (host("abacus"), "internal error: Unknown CPU model abacus"),
        (host("486", "beads"), "internal error: Unknown CPU feature beads"),
    ],
)
def test_refused(document: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        compare_document(HOST, parse_cpu(document))
    assert str(caught.value) == message


def test_baseline_needs_hosts() -> None:
    with pytest.raises(QvirtError, match="Missing CPU architecture"):
        parse_cpu(guest("486"), is_host=True)


def test_baseline_document() -> None:
    documents = [parse_cpu(host(m, "vmx", vendor="Intel"), is_host=True) for m in ("Penryn", "Nehalem")]
    found = baseline([named_cpu(document) for document in documents])
    assert format_baseline(found, documents) == (
        "<cpu mode='custom' match='exact'>\n"
        "  <model fallback='allow'>Penryn</model>\n"
        "  <vendor>Intel</vendor>\n"
        "  <feature policy='require' name='vmx'/>\n"
        "</cpu>\n"
    )
    expanded = format_baseline(found, documents, expand=True)
    names = [line.split("name='")[1].split("'")[0] for line in expanded.splitlines() if "feature" in line]
    assert names == sorted(features_of("Penryn") | {"vmx"})
    assert "fallback='forbid'" in format_baseline(found, documents, fallback="forbid")


def test_baseline_within_an_emulator() -> None:
    found = baseline(
        [NamedCpu("Haswell"), NamedCpu("Haswell")], {"Nehalem": ["popcnt"]}, within=features_of("Penryn")
    )
    assert found.model == "Nehalem"
    assert set(found.disable) == {"popcnt", "sse4.2"}
