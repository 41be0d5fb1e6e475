"""What a guest's CPU is, beside what it was asked to be."""

import pytest

from qvirt.errors import OperationFailed
from qvirt.model.cpu import Cpu
from qvirt.model.domain import parse_domain
from qvirt.qemu.cpu_live import CpuSeen, asked_model, cpu_seen, live_cpu
from qvirt.qemu.x86_models import features_of

DOCUMENT = """<domain type='qemu'><name>x</name><memory>1024</memory>
<os><type arch='{arch}' machine='pc'>hvm</type></os>
<cpu mode='{mode}' match='exact' check='{check}'>
<model fallback='allow'>{model}</model>{more}</cpu></domain>"""


def guest_cpu(
    model: str = "qemu64", more: str = "", check: str = "none", mode: str = "custom", arch: str = "x86_64"
) -> Cpu:
    text = DOCUMENT.format(arch=arch, mode=mode, check=check, model=model, more=more)
    cpu = parse_domain(text).cpu
    assert cpu is not None
    return cpu


def policies(cpu: Cpu) -> list[tuple[str, str | None]]:
    return [(feature.name, feature.policy) for feature in cpu.features]


def test_what_qemu_is_asked() -> None:
    more = (
        "<feature policy='disable' name='svm'/><feature policy='require' name='pclmuldq'/>"
        "<feature policy='optional' name='avx'/><feature policy='require' name='osxsave'/>"
    )
    domain = parse_domain(
        DOCUMENT.format(arch="x86_64", mode="custom", check="none", model="qemu64", more=more)
    )
    assert asked_model(domain) == {"name": "qemu64", "props": {"svm": False, "pclmulqdq": True}}
    for mode, arch in (("host-passthrough", "x86_64"), ("custom", "aarch64")):
        text = DOCUMENT.format(arch=arch, mode=mode, check="none", model="qemu64", more="")
        assert asked_model(parse_domain(text)) is None


def test_names_are_libvirts() -> None:
    seen = cpu_seen(["pclmulqdq", "lahf-lm", "topoext"], ["topoext"])
    assert {"pclmuldq", "lahf_lm"} <= seen.has
    assert "topoext" not in seen.has
    assert seen.lacking == {"topoext"}


def test_differences_are_named() -> None:
    has = features_of("qemu64") - {"svm"} | {"hypervisor", "lahf_lm", "ssse3"}
    cpu = guest_cpu(more="<feature policy='require' name='ssse3'/>")
    live = live_cpu(cpu, CpuSeen(has, frozenset({"topoext"})))
    assert policies(live) == [
        ("ssse3", "require"),
        ("hypervisor", "require"),
        ("lahf_lm", "require"),
        ("svm", "disable"),
        ("topoext", "disable"),
    ]
    assert live.check_level == "full"
    assert live.model is not None
    assert live.model.fallback == "forbid"
    assert policies(cpu) == [("ssse3", "require")]
    # asked for once more, it is what it is
    assert policies(live_cpu(live, CpuSeen(has, frozenset({"topoext"})))) == policies(live)


def test_a_full_check_refuses_differences() -> None:
    has = features_of("qemu64") - {"svm"} | {"hypervisor"}
    message = "guest CPU doesn't match specification: extra features: hypervisor, missing features: svm"
    with pytest.raises(OperationFailed, match=message):
        live_cpu(guest_cpu(check="full"), CpuSeen(has, frozenset()))
    live_cpu(guest_cpu(check="full"), CpuSeen(features_of("qemu64"), frozenset()))
