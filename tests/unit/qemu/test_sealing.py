"""AES as the standards' own examples have it, and as openssl understands it."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from qvirt.qemu.sealing import seal
from tests.support.luks import luks_image

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
VECTOR = bytes(range(16))


def test_example_of_sp_800_38a() -> None:
    # NIST SP 800-38A, F.2.5: CBC-AES256.Encrypt; the last block is our padding
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    sealed = seal(KEY, VECTOR, plain)
    assert sealed[:32].hex() == "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
    assert len(sealed) == 48


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 100])
def test_openssl_opens_it(length: int) -> None:
    value = bytes(i % 251 for i in range(length))
    opened = subprocess.run(
        ["openssl", "enc", "-d", "-aes-256-cbc", "-K", KEY.hex(), "-iv", VECTOR.hex()],
        input=seal(KEY, VECTOR, value),
        capture_output=True,
        check=True,
    )
    assert opened.stdout == value


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="bytes are needed"):
        seal(KEY[:16], VECTOR, b"x")
    with pytest.raises(ValueError, match="bytes are needed"):
        seal(KEY, b"", b"x")


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_qemu_opens_it(tmp_path: Path) -> None:
    image, key = tmp_path / "image.luks", tmp_path / "key"
    (tmp_path / "passphrase").write_text("open sesame")
    key.write_bytes(KEY)
    luks_image(image, tmp_path / "passphrase")
    for value, opens in ((b"open sesame", True), (b"open barley", False)):
        data = base64.b64encode(seal(KEY, VECTOR, value)).decode()
        vector = base64.b64encode(VECTOR).decode()
        read = subprocess.run(
            [
                *("qemu-img", "dd", "--image-opts", "-O", "raw", "bs=512", "count=1"),
                *("--object", f"secret,id=masterKey0,format=raw,file={key}"),
                *("--object", f"secret,id=s,keyid=masterKey0,format=base64,data={data},iv={vector}"),
                f"if=driver=luks,key-secret=s,file.filename={image}",
                f"of={tmp_path}/out",
            ],
            capture_output=True,
            check=False,
        )
        assert (read.returncode == 0) == opens, read.stderr
