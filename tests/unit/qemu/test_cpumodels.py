"""CPU descriptions against answers recorded from libvirt 9.0 (tests/data/cpu)."""

import json
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import InternalError, InvalidArg, NoSupport, QvirtError
from qvirt.qemu.caps import EmulatorCaps, ModelExpansion
from qvirt.qemu.cpumodels import (
    NamedCpu,
    Processor,
    baseline,
    describe_host,
    from_qemu,
    host_model,
    model_names,
    ordered,
    processor_of,
    to_qemu,
    vendor_of,
)
from qvirt.qemu.x86_models import FEATURES, MODELS, features_of

DATA = Path(__file__).parents[2] / "data"
CASES = [json.loads(line) for line in (DATA / "cpu" / "baseline.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "+".join(c["models"]))
def test_baseline(case: dict[str, Any]) -> None:
    cpus = [
        NamedCpu(model, case["vendor"], frozenset(features))
        for model, features in zip(case["models"], case["features"], strict=True)
    ]
    if "error" in case:
        with pytest.raises(QvirtError) as caught:
            baseline(cpus, migratable=case["migratable"])
        assert str(caught.value) == case["error"]
        return
    found = baseline(cpus, migratable=case["migratable"])
    assert (found.model, list(found.require), list(found.disable)) == (
        case["model"],
        case["require"],
        case["disable"],
    )


def test_the_table_is_consistent() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    known = set(FEATURES)
    assert len(known) == len(FEATURES)
    for model in MODELS:
        assert features_of(model.name) <= known
        assert set(model.removed.split()) <= known
        inherited = features_of(model.like) if model.like else frozenset[str]()
        assert set(model.minus.split()) <= inherited
        assert not set(model.plus.split()) & inherited


def test_names() -> None:
    assert [to_qemu(n) for n in ("pclmuldq", "lahf_lm", "sse4.1", "amd-ssbd")] == [
        "pclmulqdq",
        "lahf-lm",
        "sse4.1",
        "amd-ssbd",
    ]
    assert all(from_qemu(to_qemu(name)) == name for name in FEATURES)
    assert ordered(["zzz", "avx", "fpu"]) == ["fpu", "avx", "zzz"]
    assert model_names("x86_64")[0] == "486"
    assert "POWER9" in model_names("ppc64le")
    assert model_names("s390x") == ()
    with pytest.raises(NoSupport, match="'alpha' architecture is not supported by CPU driver"):
        model_names("alpha")
    with pytest.raises(InvalidArg, match="cannot find architecture foo"):
        model_names("foo")
    assert [vendor_of(n) for n in ("EPYC", "qemu64", "from-the-future")] == ["AMD", "unknown", "unknown"]


def test_host_model_of_tcg() -> None:
    caps = EmulatorCaps.from_json(json.loads((DATA / "caps" / "qemu-7.2-x86_64.json").read_bytes()))
    found = host_model(caps, "qemu")
    assert found is not None
    assert (found.model, found.vendor) == ("EPYC", "AMD")
    assert found.require[:3] == ("acpi", "ss", "monitor")
    assert found.disable == (
        "vme", "rdseed", "sha-ni", "xsavec", "fxsr_opt", "misalignsse", "3dnowprefetch", "osvw", "topoext",
        "nrip-save",
    )  # fmt: skip
    best = caps.accel("qemu").best
    assert best is not None
    assert found.features == processor_of(best).features


def test_a_known_signature_beats_a_shorter_list() -> None:
    features = features_of("Haswell") - {"erms"}
    found = describe_host(Processor("Intel", (6, 63, 4), features | {"vmx"}))
    assert found is not None
    assert found.model == "IvyBridge" or not found.disable
    haswell = describe_host(Processor("Intel", (6, 63, 4), features_of("Haswell") | {"vmx"}))
    assert haswell is not None
    assert (haswell.model, haswell.require) == ("Haswell", ("vmx",))


def test_broken_tsx_is_not_used() -> None:
    properties: dict[str, int | str | bool] = {
        "family": 6,
        "model": 60,
        "stepping": 3,
        "vendor": "GenuineIntel",
        "rtm": True,
        "avx": True,
    }
    assert processor_of(ModelExpansion("base", properties)).features == {"avx"}
    assert "rtm" in processor_of(ModelExpansion("base", properties | {"model": 61})).features


@pytest.mark.parametrize("cpu", [NamedCpu("abacus"), NamedCpu("Penryn", require=frozenset({"beads"}))])
def test_unknown_names(cpu: NamedCpu) -> None:
    with pytest.raises(InternalError, match="Unknown CPU"):
        cpu.processor()
