import json
from typing import Any

import pytest

from qvirt.errors import OperationFailed, OperationInvalid
from qvirt.qemu.firmware import Firmware, Supported, Target, Wanted, nvram_template, parse, select, supported

Q35 = (Target("x86_64", ("pc-q35-*",)),)
BOTH = (Target("x86_64", ("pc-i440fx-*", "pc-q35-*")), Target("i386", ("pc-*",)))


def flash(name: str, targets: tuple[Target, ...], *features: str, mode: str = "split") -> Firmware:
    return Firmware(
        path=f"/d/{name}.json",
        interfaces=frozenset({"uefi"}),
        device="flash",
        executable=f"/fw/{name}.fd",
        targets=targets,
        features=frozenset(features),
        mode=mode,
        nvram_template=f"/fw/{name}_VARS.fd" if mode == "split" else None,
    )


ENROLLED = flash("enrolled", Q35, "acpi-s3", "enrolled-keys", "requires-smm", "secure-boot")
SECURE = flash("secure", Q35, "acpi-s3", "requires-smm", "secure-boot")
PLAIN = flash("plain", BOTH, "acpi-s3", "amd-sev")
STATELESS = flash("stateless", BOTH, mode="stateless")
COMBINED = flash("combined", BOTH, mode="combined")
SEABIOS = Firmware(
    "/d/bios.json", frozenset({"bios"}), "memory", "/fw/bios.bin", BOTH, frozenset({"acpi-s3", "acpi-s4"})
)
ALL = (COMBINED, ENROLLED, SECURE, PLAIN, STATELESS, SEABIOS)


def efi(machine: str = "pc-q35-7.2", arch: str = "x86_64", **said: Any) -> Wanted:
    return Wanted(arch, machine, "efi", **said)


@pytest.mark.parametrize(
    ("wanted", "firmware"),
    [
        (efi(), ENROLLED),
        (efi("pc-i440fx-7.2"), PLAIN),
        (efi("pc-i440fx-7.2", "i686"), PLAIN),
        (efi(secure_boot=True), ENROLLED),
        (efi(secure_boot=True, enrolled_keys=False), SECURE),
        (efi(secure_boot=False), PLAIN),
        (efi(enrolled_keys=True), ENROLLED),
        (efi(sev=True), PLAIN),
        (efi(stateless=True), STATELESS),
        (efi(stateless=False), ENROLLED),
        (efi(s3=True, smm=True), ENROLLED),
        (Wanted("x86_64", "pc-q35-7.2", "bios", s4=True), SEABIOS),
    ],
)
def test_selection(wanted: Wanted, firmware: Firmware) -> None:
    assert select(ALL, wanted) is firmware


@pytest.mark.parametrize(
    "wanted",
    [
        efi("virt-7.2", "aarch64"),
        efi("pc-i440fx-7.2", secure_boot=True),
        efi(secure_boot=False, enrolled_keys=True),
        efi(s4=True),
        efi(stateless=True, secure_boot=True),
    ],
)
def test_nothing_fits(wanted: Wanted) -> None:
    with pytest.raises(OperationFailed, match="Unable to find any firmware to satisfy 'efi'"):
        select(ALL, wanted)


def test_the_error_names_what_was_asked() -> None:
    with pytest.raises(OperationFailed) as caught:
        select((PLAIN,), efi(secure_boot=True, s4=True))
    assert "secure-boot, suspend to disk for x86_64 pc-q35-7.2" in str(caught.value)
    with pytest.raises(OperationFailed) as caught:
        select((), efi())
    assert str(caught.value) == "operation failed: Unable to find any firmware to satisfy 'efi'"


def test_smm_turned_off() -> None:
    with pytest.raises(OperationInvalid, match="domain has SMM turned off but chosen firmware requires it"):
        select(ALL, efi(smm=False))


def test_a_named_loader() -> None:
    wanted = Wanted("x86_64", "pc-q35-7.2", loader="/fw/secure.fd", loader_secure=True)
    assert select(ALL, wanted) is SECURE
    assert nvram_template(ALL, wanted) == "/fw/secure_VARS.fd"
    assert select(ALL, Wanted("x86_64", "pc-q35-7.2", loader="/fw/plain.fd", loader_secure=True)) is None
    other = Wanted("x86_64", "pc-q35-7.2", loader="/mine.fd")
    assert select(ALL, other) is None
    assert nvram_template(ALL, other) is None
    assert nvram_template(ALL, other, [("/mine.fd", "/mine_VARS.fd")]) == "/mine_VARS.fd"
    template = Wanted("x86_64", "pc-q35-7.2", loader="/fw/secure.fd", nvram_template="/other.fd")
    assert select(ALL, template) is None


def test_supported() -> None:
    assert supported(ALL, "x86_64", "pc-i440fx-7.2") == Supported(
        ("/fw/combined.fd", "/fw/plain.fd", "/fw/stateless.fd", "/fw/bios.bin"), ("bios", "efi"), False
    )
    assert supported((ENROLLED, PLAIN), "x86_64", "pc-q35-7.2") == Supported(
        ("/fw/enrolled.fd", "/fw/plain.fd"), ("efi",), True
    )
    assert supported(ALL, "s390x", "s390-ccw-virtio-7.2") == Supported((), (), False)


DESCRIPTOR: dict[str, Any] = {
    "description": "x",
    "interface-types": ["uefi"],
    "mapping": {
        "device": "flash",
        "executable": {"filename": "/fw/CODE.fd", "format": "raw"},
        "nvram-template": {"filename": "/fw/VARS.fd", "format": "raw"},
    },
    "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
    "features": ["acpi-s3", "from-the-future"],
    "tags": [],
}


def test_parse() -> None:
    assert parse(json.dumps(DESCRIPTOR), "/d/x.json") == Firmware(
        "/d/x.json",
        frozenset({"uefi"}),
        "flash",
        "/fw/CODE.fd",
        Q35,
        frozenset({"acpi-s3", "from-the-future"}),
        nvram_template="/fw/VARS.fd",
    )


def test_parse_memory() -> None:
    mapping = {"device": "memory", "filename": "/fw/bios.bin"}
    assert parse(json.dumps(DESCRIPTOR | {"mapping": mapping}), "x").executable == "/fw/bios.bin"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "line 1"),
        ("[]", "x.json"),
        (json.dumps({k: v for k, v in DESCRIPTOR.items() if k != "targets"}), "missing 'targets'"),
        (
            json.dumps(DESCRIPTOR | {"mapping": {"device": "punch-card"}}),
            "unknown mapping device 'punch-card'",
        ),
        (
            json.dumps(DESCRIPTOR | {"mapping": {"device": "flash", "executable": {}}}),
            "missing 'nvram-template'",
        ),
    ],
)
def test_parse_refuses(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="firmware descriptor 'x.json' cannot be used") as caught:  # noqa: RUF043
        parse(text, "x.json")
    assert reason in str(caught.value)
